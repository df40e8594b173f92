"""The report of cache: document and text."""
