"""Two reports of one kind, side by side."""
