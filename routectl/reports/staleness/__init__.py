"""The reports of staleness and of a series of steps: documents and text."""
