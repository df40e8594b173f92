"""``routectl show``: a dump or a checkpoint, and the document that says what it holds."""

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..options import argument
from ..progress import SILENT, Progress, tokens_rate
from ..reading import Reading
from ..shards.crew import ALONE, Crew
from ..shards.run import added
from ..shards.share import ShardOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...dump import Dump
    from ...ops.check.alone.results import Power
    from ...ops.summary import Summary
    from ...reports.document import Document
    from .work import ShowWork

__all__ = ["ShowRequest", "answer_show", "refuse_parts", "summarize_opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowRequest:
    """A dump or a checkpoint; detail asks for the expert loads that a page shows too.

    A partial that is there is replaced with ``force`` alone.
    """

    path: str = argument(
        metavar="PATH",
        help="A dump: a file, a folder or a glob; - is stdin. Or a checkpoint: a folder of "
        "weights.",
    )
    detail: bool = False
    force: bool = False
    crew: Crew = field(default_factory=Crew)
    share: ShardOptions = field(default_factory=ShardOptions)
    reading: Reading = field(default_factory=Reading)


def answer_show(request: ShowRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.show/1 document of a dump, or routectl.checkpoint/1 of a checkpoint.

    Of a dump whose model nothing tells, routectl.outline/1: what can be told without; of counts
    without routes, routectl.loads/1. With
    --partial what was counted is written there, and the document is routectl.written/1.
    """
    from ...checkpoints import is_checkpoint

    reading = request.reading
    named = reading.input(request.path)
    if named.format is None and is_checkpoint(named.path):
        if reading != Reading() or str(named) != named.path:
            raise RoutectlError(
                f"{named.path}: a checkpoint says its own layers, K and E",
                hint=f"{named.path}::format=npz, say, where it is a dump",
            )
        refuse_parts(request, "a checkpoint")
        return _of_checkpoint(named.path)
    from ...formats.documents.facts import GUESSED
    from ...formats.documents.own import own_folder
    from ...formats.experts.counts import LoadsOnlyError
    from ...reports.show.document import summary_document
    from .work import open_guessing

    def opening() -> "Dump":
        opened = open_guessing(request.path, reading, progress)
        if GUESSED in (opened.meta.facts_source or ""):
            refuse_parts(request, "a dump that does not say its model")
        return opened

    if request.share.partial is not None:
        from ..shards.parting import write_partial

        return write_partial(
            "show", request, lambda: _work(request, opening()), progress, told=request.path
        )
    request.share.tell(progress)
    try:
        opened = opening()
    except LoadsOnlyError:
        return _loads(request, progress)
    if own_folder(Path(named.path)) is not None:
        progress.note(
            f"{named.path}: pack wrote it: samples.parquet is shown, whose routes are in the "
            "ranks' files; unpack makes a dump of both"
        )
    if GUESSED in (opened.meta.facts_source or ""):
        return _outlined(opened, progress)
    summary, lift = summarize_opened(request, opened, progress)
    document = summary_document(summary, lift=lift, detail=request.detail)
    request.share.mark(document)
    return document


def summarize_opened(
    request: ShowRequest,
    opened: "Dump",
    progress: Progress = SILENT,
    on_read: "Callable[[int, int], None] | None" = None,
) -> "tuple[Summary, Power | None]":
    """What a dump holds, and how far its routes follow their tokens; see ``summarize``.

    The lift is told of a whole, and by its first part. ``on_read`` is told by this process, which
    reads alone then.
    """
    crew = request.crew if on_read is None else ALONE
    return added(_work(request, opened, on_read), crew, progress).result()


def _work(
    request: ShowRequest,
    opened: "Dump",
    on_read: "Callable[[int, int], None] | None" = None,
) -> "ShowWork":
    from .work import show_work

    place = request.share.place
    if place != (1, 1) and request.reading.input(request.path).path == "-":
        raise RoutectlError("--shard: the dump is on standard input: each part would read it")
    return show_work(request.path, request.reading, opened, place, on_read)


def refuse_parts(request: ShowRequest, what: str) -> None:
    """Raise RoutectlError where a part is asked for of what is not counted in parts."""
    if request.share != ShardOptions():
        raise RoutectlError(f"{request.path}: {what} is shown whole: drop --shard and --partial")


def _loads(request: ShowRequest, progress: Progress) -> "Document":
    """What counts without routes come to: routectl.loads/1."""
    from .loads import loads_of_sides

    refuse_parts(request, "a file of counts")
    return loads_of_sides({"DUMP": request.path}, request.reading, progress)


def _outlined(opened: "Dump", progress: Progress) -> "Document":
    from ...formats.documents.facts import MODEL_HINT
    from ...ops.outline import outline
    from ...reports.show.outline import outline_document

    with progress.counting("reading", len(opened), "samples", tokens_rate) as advance:
        found = outline(opened, advance)
    return outline_document(found, MODEL_HINT)


def _of_checkpoint(path: str) -> "Document":
    from ...checkpoints import open_checkpoint
    from ...checkpoints.facts import checkpoint_facts
    from ...reports.show.checkpoint import checkpoint_document

    collecting = gc.isenabled()
    gc.disable()  # 100,000 entries without a cycle: collecting takes longer than reading them
    try:
        return checkpoint_document(checkpoint_facts(open_checkpoint(path)))
    finally:
        if collecting:
            gc.enable()
