"""Compare and convert the expert routes of mixture-of-experts models in RL.

``routectl.open_dump(path)`` reads what an engine or a trainer wrote; ``routectl.diff(old, new)``
compares two dumps. Names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dump import Dump, DumpMeta, Sample, WeightSpan
    from .errors import FormatError, MismatchError, RoutectlError, UnsupportedError
    from .formats import open_dump
    from .layout import Packing
    from .model import ModelFacts
    from .ops.diff import DiffResult, diff
    from .ops.gate import judge, parse_threshold
    from .ops.pack import Packed, Rank, pack
    from .ops.padding import TensorSpec
    from .ops.summary import Summary, summarize
    from .ops.unpack import unpack
    from .plan import MicroBatch, Plan, build_plan
    from .reports.document import diff_document, summary_document
    from .routes import Routes
    from .stages import Pipeline

__version__ = "0.1.0"

_HOMES = {
    "DiffResult": "ops.diff",
    "Dump": "dump",
    "DumpMeta": "dump",
    "FormatError": "errors",
    "MicroBatch": "plan",
    "MismatchError": "errors",
    "ModelFacts": "model",
    "Packed": "ops.pack",
    "Packing": "layout",
    "Pipeline": "stages",
    "Plan": "plan",
    "Rank": "ops.pack",
    "RoutectlError": "errors",
    "Routes": "routes",
    "Sample": "dump",
    "Summary": "ops.summary",
    "TensorSpec": "ops.padding",
    "UnsupportedError": "errors",
    "WeightSpan": "dump",
    "build_plan": "plan",
    "diff": "ops.diff",
    "diff_document": "reports.document",
    "judge": "ops.gate",
    "open_dump": "formats",
    "pack": "ops.pack",
    "parse_threshold": "ops.gate",
    "summarize": "ops.summary",
    "summary_document": "reports.document",
    "unpack": "ops.unpack",
}

__all__ = [
    "DiffResult",
    "Dump",
    "DumpMeta",
    "FormatError",
    "MicroBatch",
    "MismatchError",
    "ModelFacts",
    "Packed",
    "Packing",
    "Pipeline",
    "Plan",
    "Rank",
    "RoutectlError",
    "Routes",
    "Sample",
    "Summary",
    "TensorSpec",
    "UnsupportedError",
    "WeightSpan",
    "build_plan",
    "diff",
    "diff_document",
    "judge",
    "open_dump",
    "pack",
    "parse_threshold",
    "summarize",
    "summary_document",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
