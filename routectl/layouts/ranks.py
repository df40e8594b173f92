"""Ranks of a layout, and whether they are there."""

from dataclasses import dataclass

__all__ = ["Rank", "check_ranks"]


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank's place: pipeline stage, context and tensor parallel rank.

    tp None takes all rows of the CP rank, before the SP split.
    """

    cp: int = 0
    tp: int | None = None
    pp: int = 0


def check_ranks(**ranks: tuple[int, int]) -> None:
    """Raise ValueError unless every rank, given with its size, is in 0..size - 1."""
    for name, (rank, size) in ranks.items():
        if not 0 <= rank < size:
            raise ValueError(f"no rank {name}={rank}: {name} is {size}")
