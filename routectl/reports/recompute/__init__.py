"""The report of recompute: document and text."""
