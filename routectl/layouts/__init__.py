"""Layouts: where each token of a packed batch sits on each rank; integers only."""
