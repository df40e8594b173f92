"""What ``routectl staleness`` is asked, and the document that answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..compared.compared import parsed_limits
from ..held import HeldDump
from ..keyed import key_names, keyed, keys_text
from ..options import (
    allow_unmatched_option,
    argument,
    check_bounds,
    eps_option,
    layers_option,
    match_option,
    option,
    threshold_option,
    tokens_option,
)
from ..progress import SILENT, Progress
from ..reading import Reading, finite_eps, parse_layers, refuse_relative
from ..recompute.forwarding import Forwarding, forward_option, forwarding_of
from ..recompute.partner import Partner, open_partner, partner_at
from ..shards.crew import Crew
from ..shards.share import ShardOptions
from ..shards.team import one_team
from .question import Question
from .series import series_of
from .versions import At, Versions, parse_at

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.options import Noise, StalenessOptions
    from ...ops.staleness.staleness import Staleness
    from ...reports.document import Document
    from .work import StalenessWork, VersionedDump

__all__ = ["Method", "StalenessRequest", "answer_staleness", "compare_versions", "question_of"]

_NEEDED = ("routectl.formats.native.container", "routectl.ops.staleness.counting")  # to compare
_WHERE = "[@lagN][@LAYER]"  # of what a threshold of staleness may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How staleness is counted; keys of --method."""

    rows: str = option(
        "dump", choices=("dump", "all"), help="Staleness of the rows of the dump, or of all."
    )
    cached: str = option(
        "auto",
        choices=("auto", "apart", "own"),
        help="Rows of reused prefixes: apart from the mismatch, own (in it), or auto: apart where "
        "the dump has several versions.",
    )
    clusters: str = option(
        "sequence",
        choices=("sequence", "prompt"),
        help="What intervals draw: sequence, or prompt (with all its samples).",
    )
    level: float = option(0.95, help="Confidence of the intervals, between 0 and 1.")
    examples: int = option(0, least=0, help="Mismatched rows to list in --json.")

    def __post_init__(self) -> None:
        check_bounds(self)


def _metric_names() -> list[str]:
    """What thresholds begin with."""
    from ...ops.staleness.thresholds import STALENESS_METRICS

    return [f"{name}:" for name in STALENESS_METRICS]


def _parsed(text: str, *, over: bool) -> "Threshold":
    """A threshold; what reads it is loaded where there is one."""
    from ...ops.staleness.thresholds import parse_staleness_threshold

    return parse_staleness_threshold(text, over=over)


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
        "its recomputed routes (again for one name: free, forced, R2), or a Hugging Face folder, "
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
        (),
        metavar="FROM=TO",
        help="The dump's weight version FROM is --at TO; =TO is the version of samples that do "
        "not say theirs; repeatable.",
    )
    mini_steps: int | None = option(
        None,
        least=1,
        metavar="N",
        help="Global batch / mini-batch: says whether the run needs no replay, R2 or R3.",
    )
    fail_over: tuple[str, ...] = threshold_option(
        "Exit 1 when over", _metric_names, "[@lagN][@LAYER]"
    )
    fail_under: tuple[str, ...] = threshold_option(
        "Exit 1 when under", _metric_names, "[@lagN][@LAYER]"
    )
    allow_unmatched: bool = allow_unmatched_option()
    fail_on: str | None = option(
        None,
        metavar="alarm",
        choices=("alarm",),
        help="Exit 1 as well for an alarm: what the advice says is wrong.",
    )
    noise_floor: bool = option(
        False,
        help="Run the last checkpoint again, padded, with other experts, other attention: how "
        "many rows change.",
    )
    forward: tuple[str, ...] = forward_option()
    method: tuple[str, ...] = option(
        (),
        metavar="KEY=VALUE,...",
        suggests=partial(key_names, Method),
        help=f"How staleness is counted: {keys_text(Method)}; repeatable.",
    )
    tokens: str = tokens_option()
    layers: str | None = layers_option()
    match: str = match_option("order")
    eps: float | None = eps_option()
    detail: bool = False
    force: bool = False
    crew: Crew = field(default_factory=Crew)
    share: ShardOptions = field(default_factory=ShardOptions)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        _ = self.limits, self.options
        finite_eps(self.eps)
        forwarding_of(self.forward)
        if self.series is not None and (self.dump is not None or self.at):
            raise RoutectlError("--series takes the place of DUMP and --at: got both")
        shared = self.share.partial is not None or self.share.place != (1, 1)
        if shared and (self.series is not None or self.noise_floor):
            other = "--noise-floor" if self.series is None else "--series"
            raise RoutectlError(f"{other} is not done in parts: got --shard or --partial")
        if self.series is None and self.dump is None:
            raise RoutectlError("no DUMP is given", hint="routectl staleness DUMP --at NAME=WHERE")

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        return parsed_limits(self.fail_over, self.fail_under, _parsed)

    @property
    def options(self) -> "StalenessOptions":
        """What is compared, and how."""
        from ...ops.adding.intervals import Bootstrap
        from ...ops.staleness.options import StalenessOptions

        layers, method = parse_layers(self.layers), keyed(Method, "--method", self.method)
        mapped, own = _mapped(self.version_map)
        try:
            return StalenessOptions(
                own=own,
                version_map=mapped,
                tokens=self.tokens,
                layers=None if layers is None else tuple(layers),
                match=self.match,
                rows=method.rows,
                cached=method.cached,
                clusters=method.clusters,
                examples=method.examples,
                detail=self.detail,
                bootstrap=Bootstrap(level=method.level),
            )
        except ValueError as error:
            raise RoutectlError(f"--method {error}") from None


def answer_staleness(
    request: StalenessRequest, progress: Progress = SILENT, *, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.staleness/1 document, or of a series routectl.staleness_series/1.

    Relative thresholds are held against ``baseline``; RoutectlError where there is none. With
    --partial what was counted is written there, and the document is routectl.written/1.
    """
    question = question_of(request, progress, baseline)
    if request.series is not None:
        return series_of(request.series, question, request.reading.open)
    if request.share.partial is not None:
        return _write_partial(request, question)
    return compare_versions(request, question)[1]


def _write_partial(request: StalenessRequest, question: Question) -> "Document":
    """Count a part and write it."""
    from ..shards.parting import write_partial
    from .work import work_of

    def opening() -> "StalenessWork":
        found = _opened(request, question)
        options, place = question.options, request.share.place
        return work_of(found.dump, found.versions, options, found.opening, place)

    told = f"{request.dump} and its versions"
    return write_partial("staleness", request, opening, question.progress, told=told)


def question_of(
    request: StalenessRequest, progress: Progress, baseline: "Baseline | None" = None
) -> Question:
    """How dumps are compared. Raises RoutectlError for a relative threshold without a baseline."""
    if baseline is None or request.series is not None:
        refuse_relative(request.limits)
    return Question(
        request.options,
        request.limits,
        request.mini_steps,
        finite_eps(request.eps),
        progress,
        baseline,
        request.allow_unmatched,
        request.fail_on,
        request.crew,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A dump and its versions, the noise floor, and how another process opens them.

    recomputed tells that a version was a checkpoint, and that warnings were said before it ran.
    """

    dump: "Dump"
    versions: "Sequence[Version]"
    opening: "Callable[[], VersionedDump] | None"
    noise: "tuple[Noise, ...]" = ()
    recomputed: bool = False


def compare_versions(request: StalenessRequest, question: Question) -> "tuple[Staleness, Document]":
    """The comparisons of a dump and its versions, recomputed where they are checkpoints."""
    if request.share.place != (1, 1):
        raise RoutectlError(
            f"--shard {request.share.shard}: a part answers nothing by itself",
            hint="--partial PATH writes what it counted, and routectl merge adds all parts up",
        )
    given = [request.dump or "-", *(at.where for at in parse_at(request.at))]
    named = [request.reading.input(path).path for path in given]
    with one_team(question.crew, named, _NEEDED):
        found = _opened(request, question)
        return question.answer(
            found.dump, found.versions, found.noise, opening=found.opening, warned=found.recomputed
        )


def _opened(request: StalenessRequest, question: Question) -> _Opened:
    """What is compared, recomputed where it is a checkpoint.

    Raises MismatchError for one version, RoutectlError for parts of what is recomputed.
    """
    reading, progress = request.reading, question.progress
    assert request.dump is not None
    given = parse_at(request.at)
    weights = next((at.weights for at in given if at.weights is not None), None)
    how = forwarding_of(request.forward)
    source, version = _sides(request.dump, given, weights, reading, progress)
    versions = Versions(
        given,
        partial(_partner, request.dump, source, weights, how, reading),
        how,
        progress,
        version,
        some_layers=request.layers is not None,
    )
    question.refuse_one(source, versions.names)
    if weights is not None:
        if request.share.place != (1, 1):
            raise RoutectlError("--shard: a version is a checkpoint: each part would run it anew")
        question.refuse_early(source, versions.names)
    if request.noise_floor:
        versions.refuse_noise()
    opened = versions.open()
    if weights is not None:
        opened = versions.with_replays(opened, source, question.options)
    noise = versions.noise(opened) if request.noise_floor else ()
    return _Opened(source, opened, _reopening(request, given), noise, weights is not None)


def _reopening(
    request: StalenessRequest, given: "Sequence[At]"
) -> "Callable[[], VersionedDump] | None":
    """How another process opens what is compared; None where this one alone can."""
    paths = [request.dump or "-", *(at.where for at in given)]
    if any(at.weights for at in given) or any(
        isinstance(path, HeldDump) or request.reading.input(path).path == "-" for path in paths
    ):
        return None
    return partial(_reopened, request)


def _reopened(request: StalenessRequest) -> "VersionedDump":
    """What is compared, opened again."""
    from ...ops.staleness.plan import routes_of
    from .work import VersionedDump

    assert request.dump is not None
    given, how = parse_at(request.at), forwarding_of(request.forward)
    source, version = _sides(request.dump, given, None, request.reading, SILENT)

    def partner() -> Partner:
        raise AssertionError("no version is a checkpoint")

    some = request.layers is not None
    versions = Versions(given, partner, how, SILENT, version, some_layers=some)
    return VersionedDump(source, routes_of(versions.open()))


def _partner(
    path: str, opened: "Dump", weights: Path | None, how: Forwarding, reading: Reading
) -> "Partner":
    """What of the dump is run; with its routes where they are forced, or asked about."""
    asked = how.mode != "free" or how.gate_logprobs is not False
    return partner_at(path, reading, weights, opened, with_routes=asked)


def _sides(
    dump: str, given: "Sequence[At]", weights: Path | None, reading: Reading, progress: Progress
) -> "tuple[Dump, Callable[[str], Dump]]":
    """The dump, and what opens a version; a checkpoint, else one of them, says others' model."""
    if weights is not None:
        opened = open_partner(dump, reading, weights)
        return opened, lambda path: open_partner(path, reading, weights, progress)
    sides = reading.open_sides({"DUMP": dump, **{at.where: at.where for at in given}}, progress)
    return sides["DUMP"], sides.__getitem__


def _mapped(texts: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """--version-map as a mapping, and the version of what says none."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, version = text.partition("=")
        if not (equals and version):
            raise RoutectlError(f"--version-map {text}: expected FROM=TO, or =TO")
        if found.setdefault(name, version) != version:
            raise RoutectlError(f"--version-map {text}: {name or 'it'} is {found[name]} already")
    return {name: version for name, version in found.items() if name}, found.get("")
