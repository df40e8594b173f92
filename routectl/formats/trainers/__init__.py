"""Dumps that trainers save: torch files, pickled batches, micro-batches, bundles."""
