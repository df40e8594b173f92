"""``python -m routectl``."""

from .cli.start import console_script

console_script()
