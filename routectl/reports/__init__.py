"""Voices: a result as a JSON document, as terminal text."""
