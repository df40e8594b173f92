"""``python -m routectl``."""

from .cli.main import script

script()
