"""routed_experts as they travel: a payload in some encoding, and the rows that it holds."""
