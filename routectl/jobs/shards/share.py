"""A part of some work that is done alone, on one of several machines, and what is kept of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import RoutectlError
from ..options import option
from ..progress import Progress

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["ShardOptions", "share_of"]

_T = TypeVar("_T")
_MOST = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOptions:
    """Which part of its work a command does, and where it writes what it counted.

    Raises RoutectlError where it is no part.
    """

    shard: str | None = option(None, metavar="I/N", shared=True, help="Do the I-th of N parts.")
    partial: Path | None = option(
        None, metavar="PATH", shared=True, help="Write what was counted there, for merge."
    )

    def __post_init__(self) -> None:
        _ = self.place

    @property
    def place(self) -> tuple[int, int]:
        """Which part, from 1, of how many."""
        if self.shard is None:
            return 1, 1
        part, _, parts = self.shard.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and len(self.shard) < 20):
            raise RoutectlError(f"--shard {self.shard}: expected I/N, such as 3/64")
        if not 1 <= int(parts) <= _MOST:
            raise RoutectlError(f"--shard {self.shard}: got {parts} parts, expected 1 to {_MOST:,}")
        if not 1 <= int(part) <= int(parts):
            raise RoutectlError(
                f"--shard {self.shard}: got part {part}, expected 1 to {parts}: the first is 1"
            )
        return int(part), int(parts)

    def tell(self, progress: Progress) -> None:
        """Say of an answer that it is of a part alone, where it is."""
        part, parts = self.place
        if parts > 1:
            progress.note(f"part {part} of {parts} alone; --partial PATH keeps it for merge")

    def mark(self, document: "Document") -> None:
        """Say so in the answer itself."""
        part, parts = self.place
        if parts > 1:
            document["part"] = {"part": part, "of": parts}


def share_of(runs: list[range], place: tuple[int, int]) -> tuple[list[range], int]:
    """Runs as so many as there are parts, empty ones at the end; and which of them it is."""
    part, parts = place
    end = runs[-1].stop
    return [*runs, *[range(end, end)] * (parts - len(runs))], part - 1
