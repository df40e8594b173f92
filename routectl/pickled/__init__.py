"""Pickles and torch archives read and written as inert bytes: nothing that they name is run."""
