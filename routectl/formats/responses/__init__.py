"""Dumps that are engines' responses: JSON, JSON lines and event streams in their dialects."""
