"""What ``routectl staleness`` is asked, and the document that answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli.options import finite_eps, open_input, parse_layers
from ...errors import RoutectlError
from ..reading import Reading, refuse_relative
from .question import Question
from .series import series_of
from .versions import Recomputing, Versions, parse_at

if TYPE_CHECKING:
    from ...dump import Dump
    from ...model import ModelFacts
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...ops.staleness.staleness import StalenessOptions
    from ...reports.diff.document import Document

__all__ = ["StalenessRequest", "answer_staleness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessRequest:
    """The options of ``routectl staleness``, as they were given: a dump and versions, or a series.

    Raises RoutectlError where one makes no sense, before a dump is opened.
    """

    dump: str | None = None
    at: tuple[str, ...] = ()
    series: Path | None = None
    reading: Reading = field(default_factory=Reading)
    version_map: tuple[str, ...] = ()
    own: str | None = None
    mini_steps: int | None = None
    fail_over: tuple[str, ...] = ()
    fail_under: tuple[str, ...] = ()
    noise_floor: bool = False
    cache: Path | None = None
    mode: str = "free"
    logprobs: bool | None = None
    gate_logprobs: bool | None = None
    device: str = "auto"
    dtype: str = "auto"
    streaming: str = "auto"
    threads: int | None = None
    tokens: str = "all"
    layers: str | None = None
    match: str = "auto"
    rows: str = "dump"
    cached: str = "auto"
    clusters: str = "sequence"
    level: float = 0.95
    eps: float | None = None
    examples: int = 0

    def __post_init__(self) -> None:
        _ = self.limits, self.options
        finite_eps(self.eps)
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
            own=self.own,
            layers=None if layers is None else tuple(layers),
            tokens=self.tokens,
            match=self.match,
            rows=self.rows,
            cached=self.cached,
            clusters=self.clusters,
            examples=self.examples,
        )


def answer_staleness(
    request: StalenessRequest, *, detail: bool = False, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.staleness/1 document, or of a series routectl.staleness_series/1.

    With ``detail``, what a picture shows beside the figures.

    Relative thresholds are held against ``baseline``; RoutectlError where there is none.
    """
    if baseline is None or request.series is not None:
        refuse_relative(request.limits)
    reading = request.reading
    question = Question(
        replace(request.options, detail=detail),
        request.limits,
        request.mini_steps,
        finite_eps(request.eps),
        baseline,
    )
    if request.series is not None:
        return series_of(request.series, question, reading.open)
    assert request.dump is not None
    given = parse_at(request.at)
    weights = next((Path(one.where) for one in given if one.is_checkpoint), None)
    facts = reading.facts
    open_source = partial(
        _open, request.dump, facts or weights, facts, reading.format, reading.start
    )
    how = Recomputing(
        cache=request.cache,
        mode=request.mode,
        device=request.device,
        dtype=request.dtype,
        streaming=request.streaming,
        threads=request.threads,
        logprobs=request.logprobs,
        gates=request.gate_logprobs,
        some_layers=request.layers is not None,
    )
    versions = Versions(
        given, open_source, how, lambda path: _open(path, facts or weights, facts, None, None)
    )
    question.refuse_one(versions.source, versions.names)
    if weights is not None:
        question.refuse_early(versions.source, versions.names)
    if request.noise_floor:
        versions.refuse_noise()
    opened = versions.open()
    noise = versions.noise(opened) if request.noise_floor else ()
    return question.answer(versions.source, opened, noise)


def _open(
    path: str,
    otherwise: "ModelFacts | Path | None",
    facts: "ModelFacts | Path | None",
    form: str | None,
    start: int | None,
) -> "Dump":
    """A dump with its own facts, or those given; ``otherwise`` where it does not know any."""
    try:
        return open_input(path, facts, form, start)
    except RoutectlError:
        if otherwise == facts:
            raise
    return open_input(path, otherwise, form, start)


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
