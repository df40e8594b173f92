"""Doors: configs of trainers, and what they say of a layout."""
