"""What knows a trainer's objects, its model and micro-batches and callbacks: a file a framework."""
