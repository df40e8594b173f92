"""The errand of ``routectl check``."""
