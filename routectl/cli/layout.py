"""``routectl layout [DUMP]``."""

import sys

from ..jobs.pack.request import LayoutRequest, lay_out_samples
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["layout_command"]


@desk(LayoutRequest)
def layout_command(line: CommandLine) -> int:
    """Draw which token of packed sequences sits where, rank by rank; nothing is written.

    Of many micro-batches and ranks the first are drawn; --rank picks others.
    """
    from ..reports.pack.drawing import draw_layout
    from ..reports.text.tables import open_console

    request = line.request(LayoutRequest)
    packing = lay_out_samples(request, TERMINAL)
    draw_layout(packing, open_console(sys.stdout, plain=line.voices.plain), request.picked)
    return 0
