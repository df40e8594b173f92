"""The front desk: argv, files, progress, colour and exit codes."""
