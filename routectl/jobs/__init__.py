"""Errands: a request of paths and options in, a document or files out; no argv, no terminal."""
