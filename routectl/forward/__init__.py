"""A real model's forward: routes, margins and forcing, on transformers (``routectl[models]``)."""

from .memory import pick_device
from .options import Forwarded, PassProgress, RunOptions
from .run import Prepared, prepare, run_forward

__all__ = [
    "Forwarded",
    "PassProgress",
    "Prepared",
    "RunOptions",
    "pick_device",
    "prepare",
    "run_forward",
]
