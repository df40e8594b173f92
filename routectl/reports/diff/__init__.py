"""The report of a diff: document and text."""
