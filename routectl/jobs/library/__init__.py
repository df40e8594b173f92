"""What a Python program calls: verbs that take paths as well as dumps, and answers that show."""
