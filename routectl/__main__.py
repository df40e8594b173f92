"""``python -m routectl``."""

from .cli.main import run

run()
