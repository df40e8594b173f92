"""Compare and convert the expert routes of mixture-of-experts models in RL.

``routectl.diff("rollout.parquet", "trainer.npz")`` compares two dumps; ``routectl.open_dump(path)``
reads what an engine or a trainer wrote, a sample at a time. docs/python.md has the whole by task.
Names below are loaded on first use.
"""

from importlib import import_module
from sys import platform as _platform
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if _platform == "win32":  # no signals, locks and open flags of POSIX
    raise ImportError("routectl runs on Linux and macOS; on Windows in WSL, which is a Linux")

if TYPE_CHECKING:
    from .checkpoints import open_checkpoint
    from .checkpoints.checkpoint import Checkpoint
    from .checkpoints.facts import CheckpointFacts, checkpoint_facts
    from .checkpoints.routers import RouterTensors, router_tensors
    from .dump import Dump, DumpMeta, Sample, WeightSpan
    from .errors import FormatError, MismatchError, RoutectlError, UnsupportedError
    from .formats.documents.facts import Physical
    from .forward.live import Proof, Recorder, record, replay
    from .jobs.capture import CaptureRequest
    from .jobs.check.request import CheckRequest
    from .jobs.ci.request import CiRequest
    from .jobs.convert.request import ConvertRequest
    from .jobs.diff.request import DiffRequest
    from .jobs.library.answers import (
        CheckAnswer,
        CheckpointAnswer,
        DiffAnswer,
        OutlineAnswer,
        StalenessAnswer,
        SummaryAnswer,
        VerifyAnswer,
    )
    from .jobs.library.files import convert, layout, pack, recompute, unpack, verify, write
    from .jobs.library.opening import open_dump
    from .jobs.library.verbs import check, diff, show, staleness, summarize
    from .jobs.merge.request import MergeRequest
    from .jobs.pack.layout import LayoutOptions
    from .jobs.pack.request import LayoutRequest, PackRequest, VerifyRequest
    from .jobs.pack.unpack import UnpackRequest
    from .jobs.predict.request import (
        PredictFitRequest,
        PredictJudgeRequest,
        PredictWriteRequest,
    )
    from .jobs.progress import Progress
    from .jobs.reading import Reading
    from .jobs.recompute.forwarding import Forwarding
    from .jobs.recompute.listing import CacheRequest
    from .jobs.recompute.request import Recomputed, RecomputeRequest
    from .jobs.run import run
    from .jobs.show.request import ShowRequest
    from .jobs.staleness.request import StalenessRequest
    from .jobs.watch.request import Watched, WatchRequest
    from .layouts.packing import Packing
    from .layouts.pipeline import Pipeline
    from .layouts.plan import MicroBatch, Plan, build_plan
    from .layouts.ranks import Rank
    from .limits import raised_limits
    from .loading import RoutesDataset
    from .margins import margins_to_float16
    from .model import ModelFacts
    from .ops.check.book.results import CheckResult
    from .ops.check.check import CheckOptions
    from .ops.diff.diff import DiffOptions, DiffResult, diff_as
    from .ops.diff.thresholds import judge, parse_threshold
    from .ops.pack.pack import Packed
    from .ops.pack.padding import TensorSpec
    from .ops.staleness.attribution import Version
    from .ops.staleness.gamma import RouterShift, router_shift
    from .ops.staleness.options import StalenessOptions
    from .ops.staleness.staleness import Staleness
    from .ops.summary import Summary
    from .reports.check.document import check_document
    from .reports.ci.scalars import metrics
    from .reports.diff.document import diff_document
    from .reports.page.page import html_page
    from .reports.show.checkpoint import checkpoint_document
    from .reports.show.document import summary_document
    from .reports.staleness.advice import Advice, advise
    from .reports.staleness.document import staleness_document
    from .routes import Routes

_HOMES = {
    "Advice": "reports.staleness.advice",
    "CacheRequest": "jobs.recompute.listing",
    "CaptureRequest": "jobs.capture",
    "CheckAnswer": "jobs.library.answers",
    "CheckOptions": "ops.check.check",
    "CheckRequest": "jobs.check.request",
    "CheckResult": "ops.check.book.results",
    "Checkpoint": "checkpoints.checkpoint",
    "CheckpointAnswer": "jobs.library.answers",
    "CheckpointFacts": "checkpoints.facts",
    "CiRequest": "jobs.ci.request",
    "ConvertRequest": "jobs.convert.request",
    "DiffAnswer": "jobs.library.answers",
    "DiffOptions": "ops.diff.diff",
    "DiffRequest": "jobs.diff.request",
    "DiffResult": "ops.diff.diff",
    "Dump": "dump",
    "DumpMeta": "dump",
    "FormatError": "errors",
    "Forwarding": "jobs.recompute.forwarding",
    "LayoutOptions": "jobs.pack.layout",
    "LayoutRequest": "jobs.pack.request",
    "MergeRequest": "jobs.merge.request",
    "MicroBatch": "layouts.plan",
    "MismatchError": "errors",
    "ModelFacts": "model",
    "OutlineAnswer": "jobs.library.answers",
    "PackRequest": "jobs.pack.request",
    "Packed": "ops.pack.pack",
    "Packing": "layouts.packing",
    "Physical": "formats.documents.facts",
    "Pipeline": "layouts.pipeline",
    "Plan": "layouts.plan",
    "PredictFitRequest": "jobs.predict.request",
    "PredictJudgeRequest": "jobs.predict.request",
    "PredictWriteRequest": "jobs.predict.request",
    "Progress": "jobs.progress",
    "Proof": "forward.live",
    "Rank": "layouts.ranks",
    "Reading": "jobs.reading",
    "RecomputeRequest": "jobs.recompute.request",
    "Recomputed": "jobs.recompute.request",
    "Recorder": "forward.live",
    "RoutectlError": "errors",
    "RouterShift": "ops.staleness.gamma",
    "RouterTensors": "checkpoints.routers",
    "Routes": "routes",
    "RoutesDataset": "loading",
    "Sample": "dump",
    "ShowRequest": "jobs.show.request",
    "Staleness": "ops.staleness.staleness",
    "StalenessAnswer": "jobs.library.answers",
    "StalenessOptions": "ops.staleness.options",
    "StalenessRequest": "jobs.staleness.request",
    "Summary": "ops.summary",
    "SummaryAnswer": "jobs.library.answers",
    "TensorSpec": "ops.pack.padding",
    "UnpackRequest": "jobs.pack.unpack",
    "UnsupportedError": "errors",
    "VerifyAnswer": "jobs.library.answers",
    "VerifyRequest": "jobs.pack.request",
    "Version": "ops.staleness.attribution",
    "WatchRequest": "jobs.watch.request",
    "Watched": "jobs.watch.request",
    "WeightSpan": "dump",
    "advise": "reports.staleness.advice",
    "build_plan": "layouts.plan",
    "check": "jobs.library.verbs",
    "check_document": "reports.check.document",
    "checkpoint_document": "reports.show.checkpoint",
    "checkpoint_facts": "checkpoints.facts",
    "convert": "jobs.library.files",
    "diff": "jobs.library.verbs",
    "diff_as": "ops.diff.diff",
    "diff_document": "reports.diff.document",
    "html_page": "reports.page.page",
    "judge": "ops.diff.thresholds",
    "layout": "jobs.library.files",
    "margins_to_float16": "margins",
    "metrics": "reports.ci.scalars",
    "open_checkpoint": "checkpoints",
    "open_dump": "jobs.library.opening",
    "pack": "jobs.library.files",
    "parse_threshold": "ops.diff.thresholds",
    "raised_limits": "limits",
    "recompute": "jobs.library.files",
    "record": "forward.live",
    "replay": "forward.live",
    "router_shift": "ops.staleness.gamma",
    "router_tensors": "checkpoints.routers",
    "run": "jobs.run",
    "show": "jobs.library.verbs",
    "staleness": "jobs.library.verbs",
    "staleness_document": "reports.staleness.document",
    "summarize": "jobs.library.verbs",
    "summary_document": "reports.show.document",
    "unpack": "jobs.library.files",
    "verify": "jobs.library.files",
    "write": "jobs.library.files",
}

__all__ = [
    "Advice",
    "CacheRequest",
    "CaptureRequest",
    "CheckAnswer",
    "CheckOptions",
    "CheckRequest",
    "CheckResult",
    "Checkpoint",
    "CheckpointAnswer",
    "CheckpointFacts",
    "CiRequest",
    "ConvertRequest",
    "DiffAnswer",
    "DiffOptions",
    "DiffRequest",
    "DiffResult",
    "Dump",
    "DumpMeta",
    "FormatError",
    "Forwarding",
    "LayoutOptions",
    "LayoutRequest",
    "MergeRequest",
    "MicroBatch",
    "MismatchError",
    "ModelFacts",
    "OutlineAnswer",
    "PackRequest",
    "Packed",
    "Packing",
    "Physical",
    "Pipeline",
    "Plan",
    "PredictFitRequest",
    "PredictJudgeRequest",
    "PredictWriteRequest",
    "Progress",
    "Proof",
    "Rank",
    "Reading",
    "RecomputeRequest",
    "Recomputed",
    "Recorder",
    "RoutectlError",
    "RouterShift",
    "RouterTensors",
    "Routes",
    "RoutesDataset",
    "Sample",
    "ShowRequest",
    "Staleness",
    "StalenessAnswer",
    "StalenessOptions",
    "StalenessRequest",
    "Summary",
    "SummaryAnswer",
    "TensorSpec",
    "UnpackRequest",
    "UnsupportedError",
    "VerifyAnswer",
    "VerifyRequest",
    "Version",
    "WatchRequest",
    "Watched",
    "WeightSpan",
    "advise",
    "build_plan",
    "check",
    "check_document",
    "checkpoint_document",
    "checkpoint_facts",
    "convert",
    "diff",
    "diff_as",
    "diff_document",
    "html_page",
    "judge",
    "layout",
    "margins_to_float16",
    "metrics",
    "open_checkpoint",
    "open_dump",
    "pack",
    "parse_threshold",
    "raised_limits",
    "recompute",
    "record",
    "replay",
    "router_shift",
    "router_tensors",
    "run",
    "show",
    "staleness",
    "staleness_document",
    "summarize",
    "summary_document",
    "unpack",
    "verify",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
