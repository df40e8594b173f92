"""What knows a trainer's objects: its model, its micro-batches, its callbacks; a file a framework."""
