"""Config -> one jitted function -> record."""
