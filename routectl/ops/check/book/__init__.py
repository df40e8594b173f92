"""Findings: their table, the book that takes them in, what a check comes to."""
