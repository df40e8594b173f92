"""``routectl unpack DIR --save DUMP.parquet``."""

from ..jobs.pack.unpack import UnpackRequest, unpack_folder
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["unpack_command"]


@desk(UnpackRequest, "as_json")
def unpack_command(line: CommandLine) -> int:
    """Write the dump that replay tensors were packed from, out of the tensors of all ranks.

    The file has every sample, with its tokens and all else that the packed dump knew; padding is
    dropped and rows that were missing are missing again.
    """
    line.voices.tell_saved(unpack_folder(line.request(UnpackRequest), TERMINAL))
    return 0
