"""The errand of ``routectl ci``."""
