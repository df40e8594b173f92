"""Compare and convert the expert routes of mixture-of-experts models in RL.

``routectl.open_dump(path)`` reads what an engine or a trainer wrote; ``routectl.diff(old, new)``
compares two dumps. Names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .checkpoints import open_checkpoint
    from .checkpoints.checkpoint import Checkpoint
    from .checkpoints.facts import CheckpointFacts, checkpoint_facts
    from .checkpoints.routers import RouterTensors, router_tensors
    from .dump import Dump, DumpMeta, Sample, WeightSpan
    from .errors import FormatError, MismatchError, RoutectlError, UnsupportedError
    from .formats import open_dump
    from .forward.live import Recorder, record, replay
    from .layouts.packing import Packing
    from .layouts.pipeline import Pipeline
    from .layouts.plan import MicroBatch, Plan, build_plan
    from .loading import RoutesDataset
    from .margins import margins_to_float16
    from .model import ModelFacts
    from .ops.check.check import check
    from .ops.check.found import CheckResult
    from .ops.check.options import CheckOptions
    from .ops.diff.diff import DiffOptions, DiffResult, diff, diff_as
    from .ops.diff.thresholds import judge, parse_threshold
    from .ops.pack.pack import Packed, Rank, pack
    from .ops.pack.padding import TensorSpec
    from .ops.pack.unpack import unpack
    from .ops.staleness.advice import Advice, advise
    from .ops.staleness.attribution import Version
    from .ops.staleness.gamma import RouterShift, router_shift
    from .ops.staleness.options import StalenessOptions
    from .ops.staleness.staleness import Staleness, staleness
    from .ops.summary import Summary, summarize
    from .reports.check.document import check_document
    from .reports.ci.scalars import metrics
    from .reports.diff.document import diff_document, summary_document
    from .reports.page.page import html_page
    from .reports.show.checkpoint import checkpoint_document
    from .reports.staleness.document import staleness_document
    from .routes import Routes

_HOMES = {
    "Advice": "ops.staleness.advice",
    "CheckOptions": "ops.check.options",
    "CheckResult": "ops.check.found",
    "Checkpoint": "checkpoints.checkpoint",
    "CheckpointFacts": "checkpoints.facts",
    "DiffOptions": "ops.diff.diff",
    "DiffResult": "ops.diff.diff",
    "Dump": "dump",
    "DumpMeta": "dump",
    "FormatError": "errors",
    "MicroBatch": "layouts.plan",
    "MismatchError": "errors",
    "ModelFacts": "model",
    "Packed": "ops.pack.pack",
    "Packing": "layouts.packing",
    "Pipeline": "layouts.pipeline",
    "Plan": "layouts.plan",
    "Rank": "ops.pack.pack",
    "Recorder": "forward.live",
    "RoutectlError": "errors",
    "RouterShift": "ops.staleness.gamma",
    "RouterTensors": "checkpoints.routers",
    "Routes": "routes",
    "RoutesDataset": "loading",
    "Sample": "dump",
    "Staleness": "ops.staleness.staleness",
    "StalenessOptions": "ops.staleness.options",
    "Summary": "ops.summary",
    "TensorSpec": "ops.pack.padding",
    "UnsupportedError": "errors",
    "Version": "ops.staleness.attribution",
    "WeightSpan": "dump",
    "advise": "ops.staleness.advice",
    "build_plan": "layouts.plan",
    "check": "ops.check.check",
    "check_document": "reports.check.document",
    "checkpoint_document": "reports.show.checkpoint",
    "checkpoint_facts": "checkpoints.facts",
    "diff": "ops.diff.diff",
    "diff_as": "ops.diff.diff",
    "diff_document": "reports.diff.document",
    "html_page": "reports.page.page",
    "judge": "ops.diff.thresholds",
    "margins_to_float16": "margins",
    "metrics": "reports.ci.scalars",
    "open_checkpoint": "checkpoints",
    "open_dump": "formats",
    "pack": "ops.pack.pack",
    "parse_threshold": "ops.diff.thresholds",
    "record": "forward.live",
    "replay": "forward.live",
    "router_shift": "ops.staleness.gamma",
    "router_tensors": "checkpoints.routers",
    "staleness": "ops.staleness.staleness",
    "staleness_document": "reports.staleness.document",
    "summarize": "ops.summary",
    "summary_document": "reports.diff.document",
    "unpack": "ops.pack.unpack",
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
