"""Compare and convert the expert routes of mixture-of-experts models in RL.

``routectl.open_dump(path)`` reads what an engine or a trainer wrote; ``routectl.diff(old, new)``
compares two dumps. Names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import open_checkpoint
    from .checkpoints.facts import CheckpointFacts, checkpoint_facts
    from .checkpoints.routers import RouterTensors, router_tensors
    from .checkpoints.tensors import Checkpoint
    from .dump import Dump, DumpMeta, Sample, WeightSpan
    from .errors import FormatError, MismatchError, RoutectlError, UnsupportedError
    from .formats import open_dump
    from .layout import Packing
    from .live import Recorder, record, replay
    from .loading import RoutesDataset
    from .margins import margins_to_float16
    from .model import ModelFacts
    from .ops.advice import Advice, advise
    from .ops.check import check
    from .ops.check_options import CheckOptions
    from .ops.diff import DiffOptions, DiffResult, diff, diff_as
    from .ops.found import CheckResult
    from .ops.gamma import RouterShift, router_shift
    from .ops.gate import judge, parse_threshold
    from .ops.pack import Packed, Rank, pack
    from .ops.padding import TensorSpec
    from .ops.staleness import Staleness, staleness
    from .ops.staleness_options import StalenessOptions
    from .ops.summary import Summary, summarize
    from .ops.unpack import unpack
    from .ops.versions import Version
    from .plan import MicroBatch, Plan, build_plan
    from .reports.check import check_document
    from .reports.checkpoint import checkpoint_document
    from .reports.document import diff_document, summary_document
    from .reports.page import html_page
    from .reports.scalars import metrics
    from .reports.staleness import staleness_document
    from .routes import Routes
    from .stages import Pipeline

__version__ = "0.1.0"

_HOMES = {
    "Advice": "ops.advice",
    "CheckOptions": "ops.check_options",
    "CheckResult": "ops.found",
    "Checkpoint": "checkpoints.tensors",
    "CheckpointFacts": "checkpoints.facts",
    "DiffOptions": "ops.diff",
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
    "Recorder": "live",
    "RoutectlError": "errors",
    "RouterShift": "ops.gamma",
    "RouterTensors": "checkpoints.routers",
    "Routes": "routes",
    "RoutesDataset": "loading",
    "Sample": "dump",
    "Staleness": "ops.staleness",
    "StalenessOptions": "ops.staleness_options",
    "Summary": "ops.summary",
    "TensorSpec": "ops.padding",
    "UnsupportedError": "errors",
    "Version": "ops.versions",
    "WeightSpan": "dump",
    "advise": "ops.advice",
    "build_plan": "plan",
    "check": "ops.check",
    "check_document": "reports.check",
    "checkpoint_document": "reports.checkpoint",
    "checkpoint_facts": "checkpoints.facts",
    "diff": "ops.diff",
    "diff_as": "ops.diff",
    "diff_document": "reports.document",
    "html_page": "reports.page",
    "judge": "ops.gate",
    "margins_to_float16": "margins",
    "metrics": "reports.scalars",
    "open_checkpoint": "checkpoints",
    "open_dump": "formats",
    "pack": "ops.pack",
    "parse_threshold": "ops.gate",
    "record": "live",
    "replay": "live",
    "router_shift": "ops.gamma",
    "router_tensors": "checkpoints.routers",
    "staleness": "ops.staleness",
    "staleness_document": "reports.staleness",
    "summarize": "ops.summary",
    "summary_document": "reports.document",
    "unpack": "ops.unpack",
}

__all__ = [
    "Advice",
    "CheckOptions",
    "CheckResult",
    "Checkpoint",
    "CheckpointFacts",
    "DiffOptions",
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
    "Recorder",
    "RoutectlError",
    "RouterShift",
    "RouterTensors",
    "Routes",
    "RoutesDataset",
    "Sample",
    "Staleness",
    "StalenessOptions",
    "Summary",
    "TensorSpec",
    "UnsupportedError",
    "Version",
    "WeightSpan",
    "advise",
    "build_plan",
    "check",
    "check_document",
    "checkpoint_document",
    "checkpoint_facts",
    "diff",
    "diff_as",
    "diff_document",
    "html_page",
    "judge",
    "margins_to_float16",
    "metrics",
    "open_checkpoint",
    "open_dump",
    "pack",
    "parse_threshold",
    "record",
    "replay",
    "router_shift",
    "router_tensors",
    "staleness",
    "staleness_document",
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
