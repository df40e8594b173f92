"""``routectl diff``: what is asked of two dumps, and the document that answers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RoutectlError
from .options import (
    allow_unmatched_option,
    argument,
    check_bounds,
    eps_option,
    layers_option,
    match_option,
    option,
    tokens_option,
)
from .progress import SILENT, Progress
from .reading import Reading, finite_eps, parse_layers, parse_positions, refuse_relative

if TYPE_CHECKING:
    from ..dump import Dump
    from ..ops.diff.thresholds import Baseline, Threshold
    from ..reports.document import Document

__all__ = ["DiffRequest", "answer_diff", "refuse_incomparable"]


def _metrics() -> list[str]:
    """What thresholds begin with."""
    from ..ops.diff.thresholds import METRICS

    return [f"{metric.name}:" for metric in METRICS]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """Two dumps of the same tokens, old and new, and how they are compared.

    detail asks for what a page shows beside the figures. Raises RoutectlError where an option
    makes no sense, before a dump is opened.
    """

    old: str = argument(metavar="OLD", help="Dump: a file, a folder or a glob; - is stdin.")
    new: str = argument(metavar="NEW", help="Dump of the same tokens.")
    match: str = match_option("prefix", "order")
    tokens: str = tokens_option()
    layers: str | None = layers_option()
    sample: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="Only this sample, by its id in OLD or, as #0, its place; repeatable.",
    )
    positions: str | None = option(
        None, metavar="RANGE", help="Only these token positions, such as 128-255."
    )
    rerun: str | None = option(
        None,
        metavar="DUMP",
        help="The same side as OLD, run again: how much that differs is the noise floor.",
    )
    examples: int = option(10, least=0, help="How many mismatched rows and worst samples to show.")
    fail_over: tuple[str, ...] = option(
        (),
        metavar="METRIC[@LAYER]:N[%]",
        suggests=_metrics,
        help="Exit 1 only when over; repeatable.",
    )
    fail_under: tuple[str, ...] = option(
        (),
        metavar="METRIC[@LAYER]:N[%]",
        suggests=_metrics,
        help="Exit 1 only when under; repeatable.",
    )
    allow_unmatched: bool = allow_unmatched_option()
    eps: float | None = eps_option()
    logprobs: Path | None = option(
        None,
        metavar="TRAIN.pt",
        help="Log-probs of NEW: those that the trainer computed, in slime's train data.",
    )
    detail: bool = False
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        _ = self.limits
        finite_eps(self.eps)
        parse_layers(self.layers)
        parse_positions(self.positions)

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        from ..ops.diff.thresholds import parse_threshold

        over = [parse_threshold(text, over=True) for text in self.fail_over]
        return (*over, *(parse_threshold(text, over=False) for text in self.fail_under))


def answer_diff(
    request: DiffRequest, progress: Progress = SILENT, *, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.diff/1 document.

    Relative thresholds are held against ``baseline``; RoutectlError where there is none.
    """
    from ..ops.diff.diff import DiffOptions, diff_as
    from ..ops.diff.thresholds import judge
    from ..ops.pairs.selection import narrow_pair
    from ..reports.diff.document import diff_document

    if baseline is None:
        refuse_relative(request.limits)
    reading = request.reading
    named = {"OLD": request.old, "NEW": request.new}
    if request.rerun is not None:
        named["the rerun"] = request.rerun
    opened = reading.open_sides(named, progress)
    old, new, again = opened["OLD"], opened["NEW"], opened.get("the rerun")
    if request.logprobs is not None:
        new = _scored(new, request.logprobs, progress)
    old, new = narrow_pair(
        old,
        new,
        match=request.match,
        samples=request.sample,
        positions=parse_positions(request.positions),
    )
    layers = parse_layers(request.layers)
    options = DiffOptions(
        request.match, request.tokens, layers, request.examples, detail=request.detail
    )
    with progress.watching(old, "comparing") as watched:
        result = diff_as(watched, new, options)
    noise = None
    if again is not None:
        with progress.watching(old, "comparing the rerun") as watched:
            noise = diff_as(watched, again, replace(options, detail=False))
    verdict = judge(
        result,
        request.limits,
        eps=finite_eps(request.eps),
        baseline=baseline,
        allow_unmatched=request.allow_unmatched,
    )
    return diff_document(result, verdict, noise=noise)


def refuse_incomparable(document: "Document") -> None:
    """Raise RoutectlError where a layer of a comparison had no row to compare."""
    empty = document["verdict"]["incomparable_layers"]
    if empty:
        raise RoutectlError(
            f"nothing was compared in {len(empty)} of {len(document['layers'])} layers, "
            f"first: layer {empty[0]}",
            hint="--layers compares the others",
        )


def _scored(dump: "Dump", path: Path, progress: Progress) -> "Dump":
    """NEW with the trainer's log-probs, and a word on how many samples have some."""
    from ..formats.trainers.train_data import read_train_data
    from ..ops.pairs.logprobs import with_logprobs

    scored, count = with_logprobs(dump, read_train_data(path).samples)
    if not count:
        raise RoutectlError(f"{path}: no log_probs in it: the trainer did not compute any")
    progress.note(f"log-probs of NEW from {path}: {count} of {len(dump)} samples")
    return scored
