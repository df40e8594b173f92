"""The report of predict: document and text."""
