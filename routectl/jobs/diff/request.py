"""What ``routectl diff`` is asked, and the document that answers; nothing is printed here."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...cli.options import finite_eps, parse_layers, parse_positions
from ...cli.output import note, watching
from ...errors import RoutectlError
from ..reading import Reading, refuse_relative

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...reports.diff.document import Document

__all__ = ["DiffRequest", "answer_diff", "refuse_incomparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """The options of ``routectl diff``, as they were given.

    Raises RoutectlError where one makes no sense, before a dump is opened.
    """

    old: str
    new: str
    reading: Reading = field(default_factory=Reading)
    match: str = "auto"
    tokens: str = "all"
    layers: str | None = None
    sample: tuple[str, ...] = ()
    positions: str | None = None
    rerun: str | None = None
    examples: int = 10
    fail_over: tuple[str, ...] = ()
    fail_under: tuple[str, ...] = ()
    eps: float | None = None
    logprobs: Path | None = None

    def __post_init__(self) -> None:
        from ...ops.pairs.align import TOKENS
        from ...ops.pairs.join import MATCHES

        for name, value, known in (("match", self.match, MATCHES), ("tokens", self.tokens, TOKENS)):
            if value not in known:
                raise RoutectlError(f"--{name} {value!r} is not known: {', '.join(known)}")
        _ = self.limits
        finite_eps(self.eps)
        parse_layers(self.layers)
        parse_positions(self.positions)

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        from ...ops.diff.thresholds import parse_threshold

        over = [parse_threshold(text, over=True) for text in self.fail_over]
        return (*over, *(parse_threshold(text, over=False) for text in self.fail_under))


def answer_diff(
    request: DiffRequest, *, detail: bool = False, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.diff/1 document; with ``detail``, what a page shows beside the figures.

    Relative thresholds are held against ``baseline``; RoutectlError where there is none.
    """
    from ...ops.diff.diff import DiffOptions, diff_as
    from ...ops.diff.thresholds import judge
    from ...ops.pairs.selection import narrow_pair
    from ...reports.diff.document import diff_document

    if baseline is None:
        refuse_relative(request.limits)
    reading = request.reading
    old, new = reading.open(request.old), reading.open(request.new)
    if request.logprobs is not None:
        new = _scored(new, request.logprobs)
    old, new = narrow_pair(
        old,
        new,
        match=request.match,
        samples=request.sample,
        positions=parse_positions(request.positions),
    )
    layers = parse_layers(request.layers)
    options = DiffOptions(request.match, request.tokens, layers, request.examples, detail=detail)
    again = None if request.rerun is None else reading.open(request.rerun)
    with watching(old, "comparing") as watched:
        result = diff_as(watched, new, options)
    noise = None
    if again is not None:
        with watching(old, "comparing the rerun") as watched:
            noise = diff_as(watched, again, replace(options, detail=False))
    verdict = judge(result, request.limits, eps=finite_eps(request.eps), baseline=baseline)
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


def _scored(dump: "Dump", path: Path) -> "Dump":
    """NEW with the trainer's log-probs, and a word on how many samples have some."""
    from ...formats.trainers.train_data import read_train_data
    from ...ops.pairs.logprobs import with_logprobs

    scored, count = with_logprobs(dump, read_train_data(path).samples)
    if not count:
        raise RoutectlError(f"{path}: no log_probs in it: the trainer did not compute any")
    note(f"log-probs of NEW from {path}: {count} of {len(dump)} samples")
    return scored
