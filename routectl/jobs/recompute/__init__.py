"""The errand of ``routectl recompute``."""
