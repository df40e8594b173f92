"""A real model's forward: routes, margins and forcing, on transformers (``routectl[models]``)."""

from .devices import pick_devices
from .options import Forwarded, RunOptions, RunProgress
from .run import Prepared, prepare, run_forward
from .skeleton import transformers_version

__all__ = [
    "Forwarded",
    "Prepared",
    "RunOptions",
    "RunProgress",
    "pick_devices",
    "prepare",
    "run_forward",
    "transformers_version",
]
