"""What ``routectl staleness`` is asked, and the document that answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError
from ..options import (
    allow_unmatched_option,
    argument,
    check_bounds,
    eps_option,
    layers_option,
    option,
    threads_option,
    tokens_option,
)
from ..progress import SILENT, Progress
from ..reading import Reading, finite_eps, parse_layers, refuse_relative
from ..recompute.request import Forwarding
from .question import Question
from .series import series_of
from .versions import At, Recomputing, Versions, parse_at

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...ops.staleness.staleness import StalenessOptions
    from ...reports.document import Document

__all__ = ["StalenessRequest", "answer_staleness"]

_AS_THEY_ARE = ("own", "tokens", "match", "rows", "cached", "clusters", "examples", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessRequest:
    """A dump and versions, oldest first, or a series of steps; and how they are compared.

    detail asks for what a picture shows beside the figures. Raises RoutectlError where an option
    makes no sense, before a dump is opened.
    """

    dump: str | None = argument(
        None, metavar="DUMP", help="The rollout: token ids, routes, weight versions."
    )
    at: tuple[str, ...] = option(
        (),
        metavar="NAME=WHERE",
        help="A version, oldest first, the current weights last; repeatable. WHERE is a dump of "
        "its recomputed routes (twice for one name: free and forced), or a Hugging Face folder, "
        "which is recomputed once.",
    )
    series: Path | None = option(
        None,
        metavar="DIR",
        help="In place of DUMP: a folder of steps, each a JSON report of this command, or a "
        "folder of a rollout.* and a dump a version. Prints the trend; thresholds are of the last "
        "step.",
    )
    version_map: tuple[str, ...] = option(
        (), metavar="FROM=TO", help="The dump's weight version FROM is --at TO; repeatable."
    )
    own: str | None = option(
        None, metavar="NAME", help="The version of samples that do not say theirs."
    )
    mini_steps: int | None = option(
        None,
        least=1,
        metavar="N",
        help="Global batch / mini-batch: says whether the run needs no replay, R2 or R3.",
    )
    fail_over: tuple[str, ...] = option(
        (), metavar="METRIC[@lagN][@LAYER]:N[%]", help="Exit 1 when over; repeatable."
    )
    fail_under: tuple[str, ...] = option(
        (), metavar="METRIC[@lagN][@LAYER]:N[%]", help="Exit 1 when under; repeatable."
    )
    allow_unmatched: bool = allow_unmatched_option()
    fail_on: str | None = option(
        None, metavar="alarm", help="Exit 1 as well for an alarm: what the advice says is wrong."
    )
    noise_floor: bool = option(
        False,
        help="Run the last checkpoint again, padded, with other experts, other attention: how "
        "many rows change.",
    )
    cache: Path | None = option(
        None,
        metavar="DIR",
        help="Where recomputed routes are kept, by what they were made of; REPORT.versions/ "
        "beside -o REPORT when not given.",
    )
    mode: str = option(
        "free",
        metavar="MODE",
        help="Of checkpoints: free, forced (along the dump's routes: each layer's own flips) or "
        "both.",
    )
    logprobs: bool | None = option(
        None, help="Of checkpoints: log-probs too; as the dump has them when not given."
    )
    gate_logprobs: bool | None = option(
        None,
        help="Of checkpoints: router shift (gamma) too; where the family allows it when not given.",
    )
    forwarding: Forwarding = field(default_factory=Forwarding)
    threads: int | None = threads_option()
    tokens: str = tokens_option()
    layers: str | None = layers_option()
    match: str = option("auto", help="Join samples by: auto (id, else tokens), id, tokens, order.")
    rows: str = option("dump", help="Staleness of the rows of the dump, or of all.")
    cached: str = option(
        "auto",
        help="Rows of reused prefixes: apart from the mismatch, own (in it), or auto: apart where "
        "the dump has several versions.",
    )
    clusters: str = option(
        "sequence", help="What intervals draw: sequence, or prompt (with all its samples)."
    )
    level: float = option(0.95, help="Confidence of the intervals, between 0 and 1.")
    eps: float | None = eps_option()
    examples: int = option(0, least=0, help="Mismatched rows to list in --json.")
    detail: bool = False
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        _ = self.limits, self.options
        finite_eps(self.eps)
        if self.fail_on not in (None, "alarm"):
            raise RoutectlError(f"--fail-on {self.fail_on!r} is not known: alarm")
        if self.series is not None and (self.dump is not None or self.at):
            raise RoutectlError("--series takes the place of DUMP and --at: got both")
        if self.series is None and self.dump is None:
            raise RoutectlError("no DUMP is given", hint="routectl staleness DUMP --at NAME=WHERE")

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        from ...ops.staleness.thresholds import parse_staleness_threshold

        over = [parse_staleness_threshold(text, over=True) for text in self.fail_over]
        under = [parse_staleness_threshold(text, over=False) for text in self.fail_under]
        return (*over, *under)

    @property
    def options(self) -> "StalenessOptions":
        """What is compared, and how."""
        layers = parse_layers(self.layers)
        return _options(
            self.level,
            version_map=_mapped(self.version_map),
            layers=None if layers is None else tuple(layers),
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        )


def answer_staleness(
    request: StalenessRequest, progress: Progress = SILENT, *, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.staleness/1 document, or of a series routectl.staleness_series/1.

    Relative thresholds are held against ``baseline``; RoutectlError where there is none.
    """
    from ...checkpoints import refuse_unrunnable

    if baseline is None or request.series is not None:
        refuse_relative(request.limits)
    reading = request.reading
    question = Question(
        request.options,
        request.limits,
        request.mini_steps,
        finite_eps(request.eps),
        progress,
        baseline,
        request.allow_unmatched,
        request.fail_on,
    )
    if request.series is not None:
        return series_of(request.series, question, reading.open)
    assert request.dump is not None
    given = parse_at(request.at)
    checkpoints = [Path(one.where) for one in given if one.is_checkpoint]
    for folder in checkpoints:
        refuse_unrunnable(folder)
    weights = checkpoints[0] if checkpoints else None
    source, version = _sides(request.dump, given, weights, reading, progress)
    how = Recomputing(
        cache=request.cache,
        some_layers=request.layers is not None,
        progress=progress,
        mode=request.mode,
        forwarding=request.forwarding,
        threads=request.threads,
        logprobs=request.logprobs,
        gates=request.gate_logprobs,
    )
    versions = Versions(given, source, how, version)
    question.refuse_one(versions.source, versions.names)
    if weights is not None:
        question.refuse_early(versions.source, versions.names)
    if request.noise_floor:
        versions.refuse_noise()
    opened = versions.open()
    noise = versions.noise(opened) if request.noise_floor else ()
    return question.answer(versions.source, opened, noise, warned=weights is not None)


def _sides(
    dump: str, given: "Sequence[At]", weights: Path | None, reading: Reading, progress: Progress
) -> "tuple[Callable[[], Dump], Callable[[str], Dump]]":
    """What opens the dump, and a version; the checkpoint, else one of them, says others' model."""
    from ...formats.documents.facts import Otherwise, read_model

    if weights is not None:
        of_weights = Otherwise(read_model(weights), str(weights))
        return partial(reading.open, dump, of_weights), partial(
            reading.open, otherwise=of_weights, progress=progress
        )
    opened = reading.open_sides({"DUMP": dump, **{at.where: at.where for at in given}}, progress)
    return lambda: opened["DUMP"], opened.__getitem__


def _options(level: float, **words: Any) -> "StalenessOptions":
    """What is compared, and how; a word that is not known is the user's."""
    from ...ops.pairs.align import TOKENS
    from ...ops.pairs.join import MATCHES
    from ...ops.staleness.intervals import Bootstrap
    from ...ops.staleness.staleness import StalenessOptions

    matches = [name for name in MATCHES if name != "prefix"]
    for name, known in (("match", matches), ("tokens", TOKENS)):
        if words[name] not in known:
            raise RoutectlError(f"--{name} {words[name]!r} is not known: {', '.join(known)}")
    try:
        return StalenessOptions(bootstrap=Bootstrap(level=level), **words)
    except ValueError as error:
        raise RoutectlError(f"--{error}") from None


def _mapped(texts: Sequence[str]) -> dict[str, str]:
    """--version-map as a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, version = text.partition("=")
        if not (name and equals and version):
            raise RoutectlError(f"--version-map {text}: expected FROM=TO")
        if found.setdefault(name, version) != version:
            raise RoutectlError(f"--version-map {text}: {name} is {found[name]} already")
    return found
