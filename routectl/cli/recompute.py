"""``routectl recompute CHECKPOINT DUMP -o DST.parquet``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..jobs.recompute.request import RecomputeRequest, recompute_dump
from ..jobs.show import ShowRequest, answer_show
from ..reports.text.wording import percent
from ..visible import visible
from .desk import CommandLine, desk
from .terminal import TERMINAL, note

if TYPE_CHECKING:
    from ..jobs.recompute.noise import NoiseRun

__all__ = ["recompute_command"]


@desk(RecomputeRequest, "html force")
def recompute_command(line: CommandLine) -> int:
    """Push a dump's tokens through a checkpoint and write what every router selects.

    The native file has, for every token and MoE layer, the ids in score order and the margins of
    experts and groups, so that `routectl diff DUMP DST` can tell near-ties from clear flips.

    With router inputs in place of a dump, the checkpoint's routers alone are applied to them:
    what they select is then free of everything upstream.
    """
    request = line.request(RecomputeRequest)
    voices = replace(line.voices, output=None)  # -o is the native file's
    voices.refuse()
    progress = replace(TERMINAL, part=_NoisePrinter(request.output))
    done = recompute_dump(request, progress)
    if done is not None and voices.html is not None:
        voices.page(answer_show(ShowRequest(path=str(request.output), detail=True)))
    return 0


class _NoisePrinter:
    """Prints runs of the noise floor of a file as they are done."""

    def __init__(self, written: Path) -> None:
        against = visible(written.name)
        self._heading: str | None = f"{'noise floor':<24}rows that change against {against}"

    def __call__(self, run: "NoiseRun") -> None:
        if self._heading is not None:
            print(self._heading)
            self._heading = None
        if run.refused is not None:
            note(f"{run.name}: not run: {run.refused}")
            return
        changed = f"{run.rows_mismatched:,} of {run.rows:,} ({percent(run.mismatch_rate)})"
        print(f"{run.name:<24}{changed}", flush=True)
