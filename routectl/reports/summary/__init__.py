"""A report in ten lines."""
