"""Many staleness documents, one a step, as one: routectl.staleness_series/1."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import MismatchError
from ...ops.diff.thresholds import Failure, Threshold
from ...ops.staleness.drift import slope_of
from ..diff.document import Document, finite
from .figures import figure_order, figures_of, headline_figures

__all__ = ["Step", "series_document"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run: its number, the entry that it was read from, its staleness document."""

    number: int
    entry: str
    document: Document


def _crossed(step: Step, limit: Threshold) -> list[Failure]:
    """A failure for each figure that is beyond a limit; figures that are not there are none."""
    return [
        Failure(limit.text, metric, layer, value, limit.limit)
        for metric, layer, value in figures_of(step.document, limit)
        if value is not None and (value > limit.limit if limit.over else value < limit.limit)
    ]


def _judge_last(step: Step, limits: Sequence[Threshold]) -> list[Failure]:
    """The limits that the last step crosses. Raises MismatchError where a figure is not there."""
    failed = []
    for limit in limits:
        found = figures_of(step.document, limit)
        if not found or any(value is None for _, _, value in found):
            raise MismatchError(
                f"threshold {limit.text!r}: the last step, {step.entry}, has no {limit.metric}"
            )
        failed += _crossed(step, limit)
    return failed


def _trends(steps: Sequence[Step], points: Sequence[Document]) -> list[Document]:
    """First, last and slope of each figure over the steps that have it."""
    names = sorted({name for point in points for name in point["figures"]}, key=figure_order)
    found = []
    for name in names:
        known = [
            (step.number, point["figures"][name])
            for step, point in zip(steps, points, strict=True)
            if point["figures"].get(name) is not None
        ]
        if known:
            numbers, values = zip(*known, strict=True)
            found.append(
                {
                    "figure": name,
                    "steps": len(known),
                    "first": values[0],
                    "last": values[-1],
                    "slope": slope_of(numbers, values),
                }
            )
    return found


def series_document(
    path: str,
    steps: Sequence[Step],
    skipped: Sequence[tuple[str, str]],
    limits: Sequence[Threshold] = (),
) -> Document:
    """The routectl.staleness_series/1 document.

    steps ascend by number; skipped names the entries that are none, each with the reason. limits
    are held against the last step; where each was first crossed is said. Raises MismatchError when
    the last step lacks a figure that is held against a limit.
    """
    points: list[dict[str, Any]] = [
        {
            "step": step.number,
            "entry": step.entry,
            "advice": step.document["advice"]["mode"],
            "alarms": [f["text"] for f in step.document["advice"]["findings"] if f["alarm"]],
            "figures": headline_figures(step.document),
        }
        for step in steps
    ]
    crossings = []
    for limit in limits:
        first = next((step.number for step in steps if _crossed(step, limit)), None)
        crossings.append({"threshold": limit.text, "first_step": first})
    failed = _judge_last(steps[-1], limits)
    document: Document = {
        "schema": "routectl.staleness_series/1",
        "path": path,
        "steps": points,
        "skipped": [{"entry": entry, "reason": reason} for entry, reason in skipped],
        "trends": _trends(steps, points),
        "crossings": crossings,
        "verdict": {
            "thresholds": [limit.text for limit in limits],
            "failed": [asdict(f) for f in failed],
            "exit_code": int(bool(failed)),
        },
    }
    return finite(document)  # type: ignore[no-any-return]
