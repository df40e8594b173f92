"""What a recompute wrote, and how far the dump is from it, as a JSON document."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..diff.schema import DiffDocument
from ..document import DumpEntry, finite
from .schema import CrossedIn, NoiseRunEntry, RecomputeDocument, WrittenEntry

__all__ = ["recompute_document"]


def recompute_document(
    checkpoint: str,
    source: DumpEntry | str,
    provenance: Mapping[str, Any],
    files: Sequence[WrittenEntry],
    *,
    compared: Mapping[str, DiffDocument] | str,
    noise: Sequence[NoiseRunEntry] = (),
    thresholds: Sequence[str] = (),
) -> RecomputeDocument:
    """The routectl.recompute/1 document.

    source is the dump, or the path of router inputs; compared has the diff of each mode, or is the
    reason why there is none. Without thresholds nothing is judged: the exit code is 0.
    """
    diffs = {} if isinstance(compared, str) else compared
    failed: list[CrossedIn] = [
        {**failure, "mode": mode}
        for mode, diff in diffs.items()
        for failure in diff["verdict"]["failed"]
    ]
    codes = [diff["verdict"]["exit_code"] for diff in diffs.values()]
    document: RecomputeDocument = {
        "schema": "routectl.recompute/1",
        "checkpoint": checkpoint,
        "dump": None if isinstance(source, str) else source,
        "inputs": source if isinstance(source, str) else None,
        "provenance": {name: str(value) for name, value in provenance.items()},
        "files": list(files),
        "comparisons": [{"mode": mode, "diff": diff} for mode, diff in diffs.items()],
        "not_compared": compared if isinstance(compared, str) else None,
        "noise": list(noise),
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
