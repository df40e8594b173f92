"""The report of a check: document and text; what watch says of a dump."""
