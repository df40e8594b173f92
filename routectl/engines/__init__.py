"""Running engines: which one answers at an address, and rollouts asked of it."""
