"""The errands of ``routectl pack`` and ``routectl unpack``."""
