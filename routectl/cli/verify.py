"""``routectl verify DIR --against DUMP``."""

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
    document = answer_verify(request, TERMINAL)
    voices.tell(document, render_verified)
    return voices.code(document)
