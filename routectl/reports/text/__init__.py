"""What every terminal report is made of: numbers as words, tables, pictures."""
