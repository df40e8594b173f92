"""A stored tensor by its header: name, dtype, shape and where its bytes lie, with none read."""

from pathlib import Path
from typing import NamedTuple

from ..pickled.members import Member

__all__ = ["Piece", "TensorInfo"]


class Piece(NamedTuple):
    """Where a block of a tensor lies: ``num_bytes`` of ``file`` from ``offset`` on.

    The block has ``shape`` and begins at ``start`` of the tensor. ``archived``: the bytes are what
    torch.save wrote of the block; else they are its elements, C order, little-endian. ``member``
    is then the one of torch's archive that holds them, where there is such a one.
    """

    file: Path
    offset: int
    num_bytes: int
    start: tuple[int, ...]
    shape: tuple[int, ...]
    archived: bool = False
    member: Member | None = None


class TensorInfo(NamedTuple):
    """A stored tensor; ``dtype`` is the stored one in safetensors' words (BF16, F8_E4M3, U8)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    pieces: tuple[Piece, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold it, in the order of its pieces."""
        return tuple(dict.fromkeys(piece.file for piece in self.pieces))
