"""What was done to a dump's rows, found from the dump alone: its tokens are the reference."""
