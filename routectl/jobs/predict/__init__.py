"""The errand of ``routectl predict``."""
