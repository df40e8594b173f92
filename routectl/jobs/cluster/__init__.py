"""A Ray cluster: found, asked to call functions, and what came of them."""
