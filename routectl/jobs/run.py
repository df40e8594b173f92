"""The one entry of all jobs: ``run`` does what a request asks."""

from importlib import import_module
from typing import Any

from .options import check_bounds
from .progress import SILENT, Progress

__all__ = ["JOBS", "run"]

JOBS = (  # of each request its name, its file and the function that does it
    ("CacheRequest", "recompute.listing", "answer_cache"),
    ("CaptureRequest", "capture", "capture_rollouts"),
    ("CheckRequest", "check.request", "answer_check"),
    ("CiRequest", "ci.request", "answer_ci"),
    ("ConvertRequest", "convert.request", "convert_dump"),
    ("DiffRequest", "diff.request", "answer_diff"),
    ("MergeRequest", "merge.request", "answer_merge"),
    ("LayoutRequest", "pack.request", "lay_out_samples"),
    ("PackRequest", "pack.request", "pack_dump"),
    ("PredictFitRequest", "predict.request", "fit_later"),
    ("PredictJudgeRequest", "predict.request", "judge_later"),
    ("PredictWriteRequest", "predict.request", "write_predicted"),
    ("RecomputeRequest", "recompute.request", "recompute_dump"),
    ("ShowRequest", "show.request", "answer_show"),
    ("StalenessRequest", "staleness.request", "answer_staleness"),
    ("UnpackRequest", "pack.unpack", "unpack_folder"),
    ("VerifyRequest", "pack.request", "answer_verify"),
    ("WatchRequest", "watch.request", "watch_folder"),
)


def run(request: Any, progress: Progress = SILENT) -> Any:
    """Do what a request asks, as the command of its name does, and return what came of it.

    ========================================  ==================================================
    request                                   what comes back
    ========================================  ==================================================
    ShowRequest, DiffRequest, CheckRequest,   the document that the command prints with --json
    StalenessRequest, CiRequest,
    PredictFitRequest, PredictJudgeRequest,
    PredictWriteRequest, VerifyRequest,
    CacheRequest, MergeRequest
    PackRequest                               the manifest of the folder that was written
    LayoutRequest                             a ``Packing``
    RecomputeRequest                          a ``Recomputed``: files by mode, noise, the document
    ConvertRequest, CaptureRequest,           what was written, as routectl.written/1
    UnpackRequest
    WatchRequest                              a ``Watched``: dumps seen, failed, unchecked
    ========================================  ==================================================

    Files are written as the command writes them: whole or not at all. Nothing is printed, but for
    what a request sends to ``-``; ``progress`` is told what the command says on stderr. Raises
    RoutectlError for what cannot be read, written or compared at all, and TypeError for what is no
    request, or has a field of another type; trouble that a document tells (``exit_code`` 2 in its
    verdict) is returned with it.
    """
    for name, room, function in JOBS:
        home = f"{__package__}.{room}"
        if (type(request).__name__, type(request).__module__) == (name, home):
            check_bounds(request)
            return getattr(import_module(home), function)(request, progress)
    raise TypeError(
        f"got {type(request).__name__}, expected one of {', '.join(j[0] for j in JOBS)}"
    )
