"""``routectl show``: a dump or a checkpoint, and the document that says what it holds."""

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..options import argument
from ..progress import SILENT, Progress, tokens_rate
from ..reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...dump import Dump
    from ...ops.check.alone.results import Power
    from ...ops.summary import Summary
    from ...reports.document import Document

__all__ = ["ShowRequest", "answer_show", "summarize_opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowRequest:
    """A dump or a checkpoint; detail asks for the expert loads that a page shows too."""

    path: str = argument(
        metavar="PATH",
        help="A dump: a file, a folder or a glob; - is stdin. Or a checkpoint: a folder of "
        "weights.",
    )
    detail: bool = False
    reading: Reading = field(default_factory=Reading)


def answer_show(request: ShowRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.show/1 document of a dump, or routectl.checkpoint/1 of a checkpoint.

    Of a dump whose model nothing tells, routectl.outline/1: what can be told without.
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
        return _of_checkpoint(named.path)
    from ...formats.documents.facts import GUESSED, Guess
    from ...reports.show.document import summary_document

    opened = reading.open(request.path, Guess(), progress)
    if GUESSED in (opened.meta.facts_source or ""):
        return _outlined(opened, progress)
    summary, lift = summarize_opened(opened, progress)
    return summary_document(summary, lift=lift, detail=request.detail)


def summarize_opened(
    opened: "Dump",
    progress: Progress = SILENT,
    on_read: "Callable[[int, int], None] | None" = None,
) -> "tuple[Summary, Power]":
    """What a dump holds, and how far its routes follow their tokens; see ``summarize``."""
    from ...ops.check.alone.alone import measure_lift
    from ...ops.summary import summarize

    with progress.counting("reading", len(opened), "samples", tokens_rate) as advance:

        def told(tokens: int, samples: int) -> None:
            advance(tokens, samples)
            if on_read is not None:
                on_read(tokens, samples)

        summary = summarize(opened, told)
    return summary, measure_lift(opened)


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
