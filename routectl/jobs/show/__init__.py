"""``routectl show``: what is in a dump, or a checkpoint."""
