"""check: what is wrong with a dump, alone or against a reference."""
