"""Whether a sample holds another one's rows. Shape suffixes: T tokens, N some, L layers."""

from dataclasses import dataclass, field

import numpy as np

from ...kernels.check import Hashes
from .found import Book
from .orders import Side
from .pending import Pending

__all__ = ["Sketches"]

_STEP = 4  # of the positions that a sketch keeps
_MOST = 256
_LEAST = 3
_SAME = 0.5  # share of a sketch's rows that are another sample's


def _sketch(side: Side) -> Hashes:
    """The rows of two layers at every fourth position, 0 where there is none."""
    positions = np.arange(0, _STEP * _MOST, _STEP)
    columns = sorted({0, side.hash_TL.shape[1] // 2})
    hashes, there = side.at(positions)
    return np.where(there, hashes, 0)[:, columns]


@dataclass(slots=True)
class Sketches:
    """A few rows of every sample of the reference, and of the dump's that are not explained."""

    known: dict[str, Hashes] = field(default_factory=dict)
    asked: dict[int, tuple[str, Hashes]] = field(default_factory=dict)

    def know(self, name: str, side: Side) -> None:
        """Keep a sample of the reference."""
        self.known[name] = _sketch(side)

    def ask(self, run: int, name: str, side: Side, first: int, end: int) -> None:
        """Ask whose rows a pending run of the dump's sample are, by its index."""
        rows = _sketch(side)
        positions = np.arange(len(rows)) * _STEP
        self.asked[run] = (
            name,
            np.where(((positions >= first) & (positions < end))[:, None], rows, 0),
        )

    def judge(self, pending: Pending, book: Book) -> int:
        """Name the runs that are another sample's, take them out, and count their rows."""
        names = list(self.known)
        if len(names) < 2 or not self.asked:
            return 0
        known = np.stack([self.known[name] for name in names])
        swapped = set()
        for run, (name, rows) in self.asked.items():
            there = rows != 0
            if there.any(axis=1).sum() < _LEAST:
                continue
            same_B = ((known == rows) & there).sum(axis=(1, 2)) / there.sum()
            best = int(same_B.argmax())
            if same_B[best] >= _SAME and names[best] != name:
                found = pending.runs[run]
                book.add("R710", found.place, rows=found.wrong)
                swapped.add(run)
        explained = sum(pending.runs[i].wrong for i in swapped)
        pending.runs = [run for i, run in enumerate(pending.runs) if i not in swapped]
        pending.kept = sum(len(run.dump_NLK) for run in pending.runs)
        return explained
