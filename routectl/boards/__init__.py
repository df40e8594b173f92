"""Doors: the files of dashboards, from scalars by name."""
