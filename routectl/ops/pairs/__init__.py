"""Two dumps brought together: which samples are the same, and which positions."""
