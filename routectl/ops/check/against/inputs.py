"""Both dumps of a comparison, to be read again where rows are judged."""

from collections.abc import Callable
from dataclasses import dataclass

from ....dump import Dump, Sample
from ....routes import Routes
from ..book.legal import Legal
from .pending import PairedSides
from .side import Ints

__all__ = ["Inputs"]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Both dumps, to be read again where rows are judged.

    read gives a sample of the dump, and its ids as written where some are refused; partners_N
    the index of its partner in the reference; sides the compared layers of both.
    """

    read: Callable[[int], tuple[Sample, Legal]]
    reference: Dump
    partners_N: Ints
    sides: Callable[[Sample, Legal, Routes], PairedSides]
    columns: Ints
    num_experts: int
    eps: float

    def pair(self, index: int) -> PairedSides:
        """Both sides of a sample that was compared."""
        sample, legal = self.read(index)
        theirs = self.reference[int(self.partners_N[index])].routes
        assert theirs is not None
        return self.sides(sample, legal, theirs)
