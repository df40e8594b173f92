"""What trainers read, written: a table of targets, and a writer for each kind of file."""
