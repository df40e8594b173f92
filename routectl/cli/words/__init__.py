"""The words of a command line: commands, old spellings, what completion offers."""
