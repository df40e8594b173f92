"""``routectl recompute CHECKPOINT DUMP --save DST.parquet``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..jobs.recompute.request import RecomputeRequest, recompute_dump
from ..reports.text.wording import percent
from .desk import CommandLine, desk
from .terminal import TERMINAL, note

if TYPE_CHECKING:
    from ..jobs.recompute.noise import NoiseRun

__all__ = ["recompute_command"]

_VOICES = "html tokenizer exit_zero as_json summary output force"


@desk(RecomputeRequest, _VOICES)
def recompute_command(line: CommandLine) -> int:
    """Push a dump's tokens through a checkpoint, write what every router selects, and compare.

    The native file has, for every token and MoE layer, the ids in score order and the margins of
    experts and groups. The report says how far the dump's own routes are from it, and tells
    near-ties from clear flips; a dump of tokens alone has none. Exit status: 0 done, or within the
    thresholds, 1 over one, 2 trouble.

    With router inputs in place of a dump, the checkpoint's routers alone are applied to them: what
    they select is then free of everything upstream.
    """
    from ..reports.recompute.text import render_recompute

    request, voices = line.request(RecomputeRequest), line.voices
    voices.refuse()
    progress = replace(TERMINAL, part=_say_noise)
    done = recompute_dump(replace(request, detail=voices.detailed), progress)
    if done is None:
        return 0
    voices.tell(done.document, render_recompute)
    return voices.code(done.document)


def _say_noise(run: "NoiseRun") -> None:
    """A line for a run of the noise floor, as it is done."""
    told = f"noise floor, {run.name}: "
    if run.refused is not None:
        note(f"{told}not run: {run.refused}")
    else:
        note(f"{told}{percent(run.mismatch_rate)} of {run.rows:,} rows change")
