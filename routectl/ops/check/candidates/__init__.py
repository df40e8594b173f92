"""Which of several weights made the rows of a dump, sample by sample."""
