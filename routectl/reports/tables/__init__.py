"""Results as Arrow tables."""
