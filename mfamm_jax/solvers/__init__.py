"""How it is computed."""
