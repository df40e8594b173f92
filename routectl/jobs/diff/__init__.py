"""The errand of ``routectl diff``."""
