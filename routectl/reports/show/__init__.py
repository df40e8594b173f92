"""The reports of a dump and of a checkpoint: documents and text."""
