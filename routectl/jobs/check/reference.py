"""What a dump is held against: another dump, or a checkpoint that its tokens are pushed through."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress
from ..reading import Reading
from ..recompute.forwarding import Forwarding
from ..recompute.kept import recomputed_side
from ..recompute.partner import partner_at

if TYPE_CHECKING:
    from ...dump import Dump

__all__ = ["open_reference"]


def open_reference(
    against: str | Path,
    opened: "Dump",
    path: str,
    reading: Reading,
    how: Forwarding,
    progress: Progress,
) -> "Dump":
    """The dump named by --against, or the routes of a checkpoint for the tokens of ``opened``.

    Raises RoutectlError as ``recomputed_side`` does.
    """
    if not isinstance(against, Path):
        return reading.open(against)
    partner = partner_at(path, reading, against, opened, with_routes=how.mode != "free")
    return recomputed_side(against, partner, how, progress, told=f"--against {against}")
