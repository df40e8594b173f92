"""The errand of ``routectl staleness``."""
