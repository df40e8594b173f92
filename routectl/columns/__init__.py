"""Samples as columns: what is done for millions of them is done for thousands at a time."""
