"""What tests share: dumps, checkpoints and servers that are built, and how commands are run."""
