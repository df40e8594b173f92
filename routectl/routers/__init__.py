"""Routers: the families as data, and one straight function from hidden states to ids."""
