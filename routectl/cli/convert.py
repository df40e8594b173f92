"""``routectl convert SRC --save DST``, ``--train DICT``."""

from ..jobs.convert.request import ConvertRequest, convert_dump
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["convert_command"]


@desk(ConvertRequest, "as_json")
def convert_command(line: CommandLine) -> int:
    """Write a dump as native Parquet, or as trainers read it.

    Native is one row a sample, one column a MoE layer, its codecs are in docs/codecs.md. Every
    target is described in docs/formats.md. The file appears whole or not at all.
    """
    request = line.request(ConvertRequest)
    line.voices.refuse_streamed(request.dst)
    line.voices.tell_saved(convert_dump(request, TERMINAL))
    return 0
