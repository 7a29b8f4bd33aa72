"""Quotes -> fills -> P&L."""
