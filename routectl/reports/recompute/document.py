"""What a recompute wrote, and how far the dump is from it, as a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..diff.schema import DiffDocument
from ..document import DumpEntry, finite
from .schema import CrossedIn, NoiseRunEntry, RecomputeDocument, WrittenEntry

__all__ = ["RecomputedFrom", "recompute_document"]


@dataclass(frozen=True, slots=True)
class RecomputedFrom:
    """What was run on what: a checkpoint, how, a dump or the path of router inputs; and what was
    written of it, and found when it was run again.
    """

    checkpoint: str
    provenance: Mapping[str, Any]
    source: DumpEntry | str
    files: Sequence[WrittenEntry]
    noise: Sequence[NoiseRunEntry] = ()


def recompute_document(
    made: RecomputedFrom, compared: Mapping[str, DiffDocument] | str, thresholds: Sequence[str] = ()
) -> RecomputeDocument:
    """The routectl.recompute/1 document.

    compared has the diff of each mode, or is the reason why there is none. Without thresholds
    nothing is judged: the exit code is 0.
    """
    source = made.source
    diffs = {} if isinstance(compared, str) else compared
    failed: list[CrossedIn] = [
        {**failure, "mode": mode}
        for mode, diff in diffs.items()
        for failure in diff["verdict"]["failed"]
    ]
    codes = [diff["verdict"]["exit_code"] for diff in diffs.values()]
    document: RecomputeDocument = {
        "schema": "routectl.recompute/1",
        "checkpoint": made.checkpoint,
        "dump": None if isinstance(source, str) else source,
        "inputs": source if isinstance(source, str) else None,
        "provenance": {name: str(value) for name, value in made.provenance.items()},
        "files": list(made.files),
        "comparisons": [{"mode": mode, "diff": diff} for mode, diff in diffs.items()],
        "not_compared": compared if isinstance(compared, str) else None,
        "noise": list(made.noise),
        "verdict": {
            "thresholds": list(thresholds),
            "failed": failed,
            "exit_code": max(codes, default=2) if thresholds else 0,
        },
    }
    details = [diff.pop("detail") for diff in diffs.values() if "detail" in diff]
    if details:
        document["detail"] = details[0]
    return finite(document)
