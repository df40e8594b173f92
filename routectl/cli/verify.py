"""``routectl verify DIR --against DUMP``."""

from dataclasses import replace

from ..jobs.pack.request import VerifyRequest, answer_verify
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["verify_command"]


@desk(VerifyRequest, "html as_json output summary exit_zero force")
def verify_command(line: CommandLine) -> int:
    """Prove that replay tensors hold every route of a dump exactly once.

    Row by row, from the tensors to the dump; where they do not, what was done to them: ranks
    swapped, a queue that is late, another layout that they match. The layout is that of DIR's
    manifest; of tensors that a trainer dumped itself --layout says it.

    Exit status: 0 all is right, 1 something is wrong, 2 trouble.
    """
    from ..reports.pack.text import render_verified

    request, voices = line.request(VerifyRequest), line.voices
    voices.refuse()
    if request.share.partial is not None:
        voices.refuse_report()
    document = answer_verify(replace(request, force=voices.force), TERMINAL)
    if request.share.partial is not None:
        voices.tell_saved(document)
        return 0
    voices.tell(document, render_verified)
    return voices.code(document)
