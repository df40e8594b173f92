"""``routectl staleness DUMP --at v0=WHERE --at v1=WHERE``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..jobs.staleness.request import StalenessRequest, answer_staleness
from .desk import CommandLine, desk
from .terminal import TERMINAL

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.staleness.schema import SeriesDocument, StalenessDocument

__all__ = ["staleness_command"]

_VOICES = "html exit_zero as_json summary no_tokens output force"


@desk(StalenessRequest, _VOICES)
def staleness_command(line: CommandLine) -> int:
    """Tell apart what differs between a dump and the current weights: mismatch or staleness.

    Mismatch is the dump against the weights that made it, staleness these weights against later
    ones, total the dump against the last. Each has intervals over sequences, by layer and
    position; then drift, and which replay the run needs. Exit status: 0 measured, or within the
    thresholds, 1 over one or samples that a version does not cover, 2 trouble.

    A version that is a checkpoint is run once, and kept (`routectl cache`); when the command is
    ended, the same one goes on from there.

    Metrics for thresholds: staleness (with @lagN of one lag), total, mismatch and, of the
    mismatch, every metric of `routectl diff`; total_METRIC is that of the total: total_f2, say.

    --series reads what -o NAME.json wrote.
    """
    request, voices = line.request(StalenessRequest), line.voices
    voices.refuse()
    request = replace(request, detail=voices.detailed, force=voices.force)
    document = answer_staleness(request, TERMINAL)
    if request.share.partial is not None:
        voices.tell_saved(document)
        return 0
    voices.tell(document, _render if request.series is None else _render_series)
    return voices.code(document)


def _render(document: "StalenessDocument", console: "Console") -> None:
    """As render_staleness does, which is not loaded before the dumps are read, nor for --json."""
    from ..reports.staleness.text import render_staleness

    render_staleness(document, console)


def _render_series(document: "SeriesDocument", console: "Console") -> None:
    from ..reports.staleness.series_text import render_series

    render_series(document, console)
