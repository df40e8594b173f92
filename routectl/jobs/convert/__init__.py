"""The errand of ``routectl convert``."""
