"""Loops over rows, compiled; plain arrays in and out."""
