"""pack: routes to replay tensors and back, and the proof that each is there once."""
