"""``routectl merge PARTIAL...``: parts of one command's work, added up."""

from ..jobs.diff.request import refuse_incomparable
from ..jobs.merge.request import MergeRequest, answer_merge
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["merge_command"]


@desk(MergeRequest, "exit_zero as_json summary no_tokens output force")
def merge_command(line: CommandLine) -> int:
    """Add up what parts of one command counted, and answer as that command does.

    A part is what --shard I/N --partial PATH wrote, on one of several machines: the tasks of a
    SLURM array, say. All N of them are needed, in any order. The answer is, to the byte, that of
    the command without --shard; its thresholds are those that the parts were asked with.
    """
    from ..reports.page.page import render_of

    request, voices = line.request(MergeRequest), line.voices
    voices.refuse()
    document = answer_merge(request, TERMINAL)
    voices.tell(document, render_of(document))
    if document["schema"] == "routectl.diff/1":
        refuse_incomparable(document)
    return voices.code(document) if "verdict" in document else 0
