"""What is asked of two dumps, or of a dump and a checkpoint, and the document that answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..asked import asked_of
from ..compared.compared import Compared, Judging, count, judged, metric_names, parsed_limits
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
from ..reading import Reading, finite_eps, parse_layers, parse_positions, refuse_relative
from ..recompute.forwarding import forward_option, forwarding_of
from ..recompute.weights import checkpoint_at
from ..shards.crew import Crew
from ..shards.share import ShardOptions
from ..shards.team import one_team
from ..show.loads import loads_of_sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...dump import Dump
    from ...ops.diff.thresholds import Baseline, Threshold
    from ...reports.document import Document
    from ..compared.compared import Take
    from ..compared.counted import CountedPairs
    from ..compared.work import ComparedWork, OpenSides

    Kept = Callable[[], Dump]  # opens the routes that a checkpoint was run for

__all__ = ["DiffRequest", "answer_diff", "compare_dumps", "judge_counted", "refuse_incomparable"]

_NEEDED = ("routectl.formats.native.container", "routectl.ops.diff.tally")  # to compare


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """Two dumps of the same tokens, old and new, and how they are compared.

    detail asks for what a page shows beside the figures; table is a Parquet file that the compared
    samples are written to, a row each; force replaces what is there. Raises RoutectlError where an
    option makes no sense, before a dump is opened.
    """

    old: str = argument(
        metavar="OLD",
        help="Dump: a file, a folder or a glob; - is stdin. Or a checkpoint, which NEW's tokens "
        "are pushed through.",
    )
    new: str = argument(metavar="NEW", help="Dump of the same tokens, or a checkpoint.")
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
    fail_over: tuple[str, ...] = threshold_option("Exit 1 only when over", metric_names)
    fail_under: tuple[str, ...] = threshold_option("Exit 1 only when under", metric_names)
    allow_unmatched: bool = allow_unmatched_option()
    eps: float | None = eps_option()
    forward: tuple[str, ...] = forward_option()
    logprobs: Path | None = option(
        None,
        metavar="TRAIN.pt",
        help="Log-probs of NEW: those that the trainer computed, in slime's train data.",
    )
    detail: bool = False
    table: Path | None = None
    force: bool = False
    crew: Crew = field(default_factory=Crew)
    share: ShardOptions = field(default_factory=ShardOptions)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        _ = self.limits
        finite_eps(self.eps)
        parse_layers(self.layers)
        parse_positions(self.positions)
        forwarding_of(self.forward)

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        return parsed_limits(self.fail_over, self.fail_under)


def answer_diff(
    request: DiffRequest, progress: Progress = SILENT, *, baseline: "Baseline | None" = None
) -> "Document":
    """The routectl.diff/1 document: see ``compare_dumps``; of counts without routes, loads/1.

    With --partial what was counted is written there, and the document is routectl.written/1.
    """
    if request.share.partial is not None:
        return _write_partial(request, progress)
    request.share.tell(progress)
    try:
        return _compared(request, progress, baseline)
    except RoutectlError as error:
        from ...formats.experts.counts import LoadsOnlyError  # late: workers wait for no import

        if not isinstance(error, LoadsOnlyError):
            raise
        _refuse_rows(request)
    document = loads_of_sides({"OLD": request.old, "NEW": request.new}, request.reading, progress)
    document["asked"] = asked_of(request)
    return document


def _compared(request: DiffRequest, progress: Progress, baseline: "Baseline | None") -> "Document":
    if request.table is None:
        document = compare_dumps(request, progress, baseline=baseline).document
    else:
        with _table(request, progress) as take:
            document = compare_dumps(request, progress, baseline=baseline, take=take).document
    document["asked"] = asked_of(request)
    request.share.mark(document)
    return document


def _refuse_rows(request: DiffRequest) -> None:
    """Raise RoutectlError for what needs routes of both sides, where one has counts alone."""
    default = DiffRequest(old="", new="")
    asked = ("tokens", "layers", "sample", "positions", "rerun", "logprobs", "table", "limits")
    for name in asked:
        if getattr(request, name) != getattr(default, name):
            flag = "fail-over" if name == "limits" else name
            raise RoutectlError(
                f"{request.old} and {request.new}: load-only, one has no routes: "
                f"{'-o NAME.parquet' if name == 'table' else f'--{flag}'} is of rows"
            )


def compare_dumps(
    request: DiffRequest,
    progress: Progress = SILENT,
    *,
    baseline: "Baseline | None" = None,
    take: "Take | None" = None,
) -> Compared:
    """Compare what a request names.

    A side that is a checkpoint is run on the other's tokens. A layer in which nothing could be
    compared is told by the document: its exit code is 2 then. Relative thresholds are held against
    ``baseline``; RoutectlError where there is none. ``take`` is given the rows of the table of
    samples as they come.
    """
    if baseline is None:
        refuse_relative(request.limits)
    runs = any(_checkpoints(request).values())
    if runs and request.crew.ray is not None:
        progress.note(
            "comparing here: what is recomputed is kept on this machine, not on a cluster"
        )
        request = replace(request, crew=replace(request.crew, ray=None))
    with one_team(request.crew, [] if runs else _files(request), _NEEDED):  # none waits for a run
        work = _work(request, progress)
        counted = count(work, request.crew, progress, take)
    return judge_counted(request, counted, baseline)


def judge_counted(
    request: DiffRequest, counted: "CountedPairs", baseline: "Baseline | None" = None
) -> Compared:
    """What was counted for a request, held against its thresholds."""
    judging = Judging(
        limits=request.limits,
        eps=request.eps,
        baseline=baseline,
        allow_unmatched=request.allow_unmatched,
    )
    return judged(counted, judging)


def _work(request: DiffRequest, progress: Progress, *, detail: bool = False) -> "ComparedWork":
    """The comparison that is asked for; detail is kept where that, or the request, asks for it."""
    from ...ops.diff.options import DiffOptions
    from ..compared.work import ComparedWork, held
    from ..shards.work import Opened

    options = DiffOptions(
        request.match,
        request.tokens,
        parse_layers(request.layers),
        request.examples,
        detail=detail or request.detail,
    )
    if request.share.place != (1, 1):
        _refuse_parts(request)
    sides, kept = _opened(request, progress)
    if "-" in _files(request):
        return ComparedWork(held(sides), options, request.share.place)
    opened = Opened(partial(_opened_again, request, kept), sides)
    return ComparedWork(opened, options, request.share.place)


def _files(request: DiffRequest) -> list[str]:
    """What a request names to be opened."""
    named = [p for p in (request.old, request.new, request.rerun) if p is not None]
    return [request.reading.input(path).path for path in named]


def _checkpoints(request: DiffRequest) -> dict[str, Path | None]:
    """The weights of each side that is a checkpoint; None of one that is a dump."""
    return {"OLD": checkpoint_at(request.old), "NEW": checkpoint_at(request.new)}


def _refuse_parts(request: DiffRequest) -> None:
    """Raise RoutectlError where each part would read, or run, what there is once."""
    here = "a dump is on standard input" if "-" in _files(request) else None
    if any(_checkpoints(request).values()):
        here = here or "a side is a checkpoint, which is run"
    if here is not None:
        raise RoutectlError(f"--shard: {here}: each part would do it anew")


def _write_partial(request: DiffRequest, progress: Progress) -> "Document":
    """Count a part and write it, with what a page shows: merge may be asked for one."""
    from ..shards.parting import write_partial

    def opening() -> "ComparedWork":
        if request.table is not None:
            raise RoutectlError("--partial and -o NAME.parquet: write the table without --partial")
        return _work(request, progress, detail=True)

    told = f"{request.old} and {request.new}"
    return write_partial("diff", request, opening, progress, told=told)


@contextmanager
def _table(request: DiffRequest, progress: Progress) -> "Iterator[Take]":
    """Where the rows of the table of samples go: a Parquet file, whole or not at all."""
    from ...files.writing import replacing
    from ...reports.tables.streamed import parquet_samples

    assert request.table is not None
    with (
        replacing(request.table, force=request.force) as stream,
        parquet_samples(stream) as table,
    ):
        yield table.write
    progress.note(f"wrote {request.table}")


def refuse_incomparable(document: "Document") -> None:
    """Raise RoutectlError where a layer of a comparison had no row to compare.

    For whoever has told the document, and ends by its exit code.
    """
    empty = document["verdict"]["incomparable_layers"]
    if empty:
        raise RoutectlError(
            f"nothing was compared in {len(empty)} of {len(document['layers'])} layers, "
            f"first: layer {empty[0]}",
            hint="--layers compares the others",
        )


def _opened(
    request: DiffRequest, progress: Progress, kept: "Kept | None" = None
) -> "tuple[OpenSides, Kept | None]":
    """What is compared: both sides, cut down to the samples and positions that are asked for.

    Of a side that is a checkpoint ``kept`` opens the routes; None: it is run. What opens them in
    another process is given back.
    """
    from ...ops.pairs.selection import narrow_pair
    from ..compared.work import OpenSides

    (old, new, again), kept = _sides(request, progress, kept)
    if request.logprobs is not None:
        new = _scored(new, request.logprobs, progress)
    old, new = narrow_pair(
        old,
        new,
        match=request.match,
        samples=request.sample,
        positions=parse_positions(request.positions),
    )
    return OpenSides(old, new, again), kept


def _opened_again(request: DiffRequest, kept: "Kept | None") -> "OpenSides":
    """The same in another process, which runs nothing."""
    return _opened(request, SILENT, kept)[0]


def _sides(
    request: DiffRequest, progress: Progress, kept: "Kept | None"
) -> "tuple[tuple[Dump, Dump, Dump | None], Kept | None]":
    """OLD, NEW, and the rerun of OLD; of a checkpoint its routes for the other's tokens."""
    reading, rerun = request.reading, request.rerun
    paths = {"OLD": request.old, "NEW": request.new}
    weights = _checkpoints(request)
    run = [side for side, folder in weights.items() if folder is not None]
    if not run:
        named = paths if rerun is None else {**paths, "the rerun": rerun}
        opened = reading.open_sides(named, progress)
        return (opened["OLD"], opened["NEW"], opened.get("the rerun")), None
    if len(run) == 2:
        raise RoutectlError(
            "both OLD and NEW are checkpoints: one of them must be a dump, whose tokens are run",
            hint="routectl staleness DUMP --at v0=OLD --at v1=NEW compares two checkpoints",
        )
    from ..recompute.kept import recomputed_side
    from ..recompute.partner import open_partner, partner_at

    (side,) = run
    folder, path = weights[side], request.new if side == "OLD" else request.old
    assert folder is not None
    given = open_partner(path, reading, folder, progress)
    again = None if rerun is None else open_partner(rerun, reading, folder, progress)
    if kept is not None:
        routes = kept()
    else:
        how = forwarding_of(request.forward)
        partner = partner_at(path, reading, folder, given, with_routes=how.mode != "free")
        routes, kept = recomputed_side(folder, partner, how, progress, told=paths[side])
    return ((routes, given, again) if side == "OLD" else (given, routes, again)), kept


def _scored(dump: "Dump", path: Path, progress: Progress) -> "Dump":
    """NEW with the trainer's log-probs, and a word on how many samples have some."""
    from ...formats.trainers.train_data import read_train_data
    from ...ops.pairs.logprobs import with_logprobs

    scored, count = with_logprobs(dump, read_train_data(path).samples)
    if not count:
        raise RoutectlError(f"{path}: no log_probs in it: the trainer did not compute any")
    progress.note(f"log-probs of NEW from {path}: {count} of {len(dump)} samples")
    return scored
