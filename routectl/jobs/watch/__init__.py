"""The errand of ``routectl watch``."""
