"""Compare, explain, convert and pack the expert routes of mixture-of-experts models in RL.

``routectl.open_dump(path)`` reads what an engine or a trainer wrote; ``routectl.diff(old, new)``
compares two dumps. Names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dump import Dump, DumpMeta, Sample, WeightSpan
    from .errors import FormatError, MismatchError, RoutectlError, UnsupportedError
    from .formats import open_dump
    from .model import ModelFacts
    from .ops.diff import DiffResult, diff
    from .ops.summary import Summary, summarize
    from .routes import Routes

__version__ = "0.1.0"

_HOMES = {
    "DiffResult": "ops.diff",
    "Dump": "dump",
    "DumpMeta": "dump",
    "FormatError": "errors",
    "MismatchError": "errors",
    "ModelFacts": "model",
    "RoutectlError": "errors",
    "Routes": "routes",
    "Sample": "dump",
    "Summary": "ops.summary",
    "UnsupportedError": "errors",
    "WeightSpan": "dump",
    "diff": "ops.diff",
    "open_dump": "formats",
    "summarize": "ops.summary",
}

__all__ = [
    "DiffResult",
    "Dump",
    "DumpMeta",
    "FormatError",
    "MismatchError",
    "ModelFacts",
    "RoutectlError",
    "Routes",
    "Sample",
    "Summary",
    "UnsupportedError",
    "WeightSpan",
    "diff",
    "open_dump",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
