"""Runs of tokens that no order of rows explains, kept until all samples are seen.

Shape suffixes: N tokens, L compared layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...routes import Ids
from .results import Book, Place, Score

__all__ = ["TokenRun", "TokenRuns"]

_CAP = 16_384  # tokens kept in all
_LEFT = 0.75  # mismatch that an order may leave which won elsewhere
_OF_ONE = 1024  # of one run, evenly spaced


@dataclass(frozen=True, slots=True, eq=False)
class TokenRun:
    """A run of tokens of one sample: its mismatched rows, and some of its ids on both sides.

    margins is of its mismatched rows: how many have one, and how many one that is not small.
    """

    place: Place
    wrong: int
    dump_NLK: Ids
    reference_NLK: Ids
    scores: tuple[Score, ...] = ()
    margins: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class TokenRuns:
    """Such runs, up to a cap of tokens; those beyond are counted with the last one kept."""

    runs: list[TokenRun] = field(default_factory=list)
    kept: int = 0

    def add(
        self,
        place: Place,
        wrong: int,
        dump_NLK: Ids,
        reference_NLK: Ids,
        scores: Sequence[Score] = (),
        margins: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep a run, or as much of it as there is room for, with what orders of rows leave."""
        room = min(_OF_ONE, max(_CAP - self.kept, 0))
        step = -(-len(dump_NLK) // room) if room else len(dump_NLK)
        part = slice(None, None, step) if room else slice(0, 0)
        ours, theirs = dump_NLK[part].copy(), reference_NLK[part].copy()
        self.runs.append(TokenRun(place, wrong, ours, theirs, tuple(scores), margins))
        self.kept += len(self.runs[-1].dump_NLK)

    @property
    def wrong(self) -> int:
        """Mismatched rows of all runs."""
        return sum(run.wrong for run in self.runs)

    @property
    def margins(self) -> tuple[int, int]:
        """Those of all runs."""
        return sum(run.margins[0] for run in self.runs), sum(run.margins[1] for run in self.runs)

    def name_as_others(self, book: Book) -> int:
        """Name runs whose best order of rows is one that clearly won elsewhere, if less clearly.

        Those are taken out; returns how many rows they are.
        """
        named = {(f.code, f.detail) for f in book.findings()}
        left, explained = [], 0
        for run in self.runs:
            best = min(run.scores, key=lambda s: 1.0 if s.rate is None else s.rate, default=None)
            rate = None if best is None else best.rate
            if best is None or rate is None or rate > _LEFT or (best.code, best.name) not in named:
                left.append(run)
                continue
            book.add(best.code, run.place, rows=run.wrong, detail=best.name)
            explained += run.wrong
        self.runs, self.kept = left, sum(len(run.dump_NLK) for run in left)
        return explained

    def sides(self) -> tuple[Ids, Ids]:
        """The ids of all runs, of both sides."""
        return (
            np.concatenate([run.dump_NLK for run in self.runs]),
            np.concatenate([run.reference_NLK for run in self.runs]),
        )

    def name(self, book: Book, code: str, detail: str = "") -> None:
        """Make every run part of a finding."""
        for run in self.runs:
            layers = [] if run.place.layer is None else [run.place.layer]
            book.add(code, run.place, rows=run.wrong, layers=layers, detail=detail)
