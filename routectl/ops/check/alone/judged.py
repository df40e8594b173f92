"""Samples judged one by one by what was learnt, and what all of them come to.

Shape suffixes: T rows, L MoE layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ....columns.samples import SampleColumns
from ....dump import Sample
from ....kernels.token_tables import worst_runs
from .keeping import Kept, PromptGroups, Tokens, kept_of
from .misfits import Misfit, Misfits, Named, Pool
from .noise import RowNoise
from .results import AloneResult, Power, Script, Span, TokenStretch
from .scripts import Library, Searcher

__all__ = [
    "SCRIPTS",
    "JudgedRows",
    "Learnt",
    "Seen",
    "explained_script",
    "least_suspicious",
    "suspicious",
]

SCRIPTS = 1024
_CERTAIN = 0.5  # of the sum at which a run is clear: from there on a sample is searched


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRows:
    """A sample that was laid against its tokens: its rows, 0 where it lacks either.

    script is None for a sound one; misfits are what does not fit, by layer's column.
    """

    rows: int
    script: Script | None = None
    misfits: tuple[tuple[int, Misfit], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What some samples of a dump taught; every sample is judged by it, each by itself.

    single says that it is another dump's: there is one fold. searcher and misfits are None where
    nothing can be told. unlike as in AloneResult.
    """

    power: Power
    groups: PromptGroups
    single: bool
    searcher: Searcher | None
    misfits: Misfits | None
    unlike: bool = False

    def _folds(self, one: Kept) -> Tokens:
        if self.single:
            return np.zeros(one.rows, np.int32)
        return self.groups.folds(one)

    def folds_of(self, columns: SampleColumns) -> Tokens:
        """The fold of each row of the samples of columns, int32 [R]."""
        if self.single:
            return np.zeros(int(columns.num_rows_S.sum()), np.int32)
        return self.groups.folds_of(columns)

    def judge(self, sample: Sample, index: int, library: Library) -> JudgedRows:
        """What a sample's rows are by their tokens."""
        one = kept_of(sample, index, self.groups.find(sample, index))
        if one is None:
            return JudgedRows(0)
        searcher, misfits = self.searcher, self.misfits
        if searcher is None or misfits is None or not self.power.enough:
            return JudgedRows(one.rows)
        folds = self._folds(one)
        own_TL = searcher.tables.score(one, folds, one.tokens_at(searcher.main))
        whole = TokenStretch(one.start, one.start + one.rows, searcher.kind, searcher.main)
        found = [whole]
        if suspicious(searcher.noise, own_TL):
            own_T = own_TL.sum(axis=1, dtype=np.int32)
            found = searcher.stretches(one, folds, own_T, library)
        runs = misfits.found(one, folds, own_TL, found)
        script = None
        if any(part.kind != "own" for part in found):
            lacking = max(len(one.tokens_N) - 1 - one.start - one.rows, 0)
            script = Script(one.name, index, tuple(found), sample.start_inferred, lacking)
        return JudgedRows(one.rows, script, tuple(runs))


def suspicious(noise: RowNoise, own_TL: NDArray[np.int32]) -> bool:
    """Whether some rows score so little at their own tokens that a search may find more."""
    half, limit = least_suspicious(noise)
    low = worst_runs(np.ceil(own_TL.sum(axis=1) - half).astype(np.int32)[:, None])[0]
    return bool(low > limit)


def least_suspicious(noise: RowNoise) -> tuple[np.float64, float]:
    """What a row scores at least where nothing is wrong, and by how much a run may fall short."""
    half = np.float64(noise.own) / 2
    share = (half - noise.wrong) / max(noise.own - noise.wrong, 1e-9)
    return half, float(_CERTAIN * share * min(noise.lag, noise.nobody))


def explained_script(script: Script, named: Named) -> Script:
    """The script, its nobody's stretches that turned out to be renumbered or exchanged."""
    stretches = [
        replace(one, kind=named.kind_of(Span(script.sample, one.first, one.end, script.index)))
        if one.kind == "nobody"
        else one
        for one in script.stretches
    ]
    return replace(script, stretches=tuple(stretches))


@dataclass(slots=True)
class Seen:
    """Counts of samples that were judged, and what did not fit in them; shards add up.

    samples and rows were laid against their tokens, longest is the most rows of one of them,
    changed counts those with a script; scripts, where they are kept, are the first ones.
    """

    samples: int = 0
    rows: int = 0
    longest: int = 0
    without: int = 0
    changed: int = 0
    pool: Pool = field(default_factory=Pool)
    scripts: tuple[Script, ...] = ()

    def count(self, judged: JudgedRows, *, quiet: bool = False) -> None:
        """Count a sample, and pool what does not fit; quiet where something else explains it."""
        if not judged.rows:
            self.without += 1
            return
        self.samples += 1
        self.rows += judged.rows
        self.longest = max(self.longest, judged.rows)
        self.changed += judged.script is not None
        for column, run in judged.misfits:
            self.pool.put(column, replace(run, span=replace(run.span, quiet=quiet)))

    def count_sound(self, rows_S: NDArray[np.int64]) -> None:
        """Count samples of so many rows that fit their tokens, 0 of one that lacks either."""
        there_S = rows_S[rows_S > 0]
        self.without += len(rows_S) - len(there_S)
        self.samples += len(there_S)
        self.rows += int(there_S.sum())
        self.longest = max(self.longest, int(there_S.max(initial=0)))

    def add(self, judged: JudgedRows) -> None:
        """Count a sample, and keep its script."""
        self.count(judged)
        if judged.script is not None:
            self.scripts = _first((*self.scripts, judged.script))

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(
            self.samples + other.samples,
            self.rows + other.rows,
            max(self.longest, other.longest),
            self.without + other.without,
            self.changed + other.changed,
            self.pool + other.pool,
            _first((*self.scripts, *other.scripts)),
        )

    def power(self, learnt: Power) -> Power:
        """The power of what was learnt, with what was laid against it."""
        least = learnt.smallest_run
        seen = least if least is not None and least <= self.longest else None
        return replace(learnt, samples=self.samples, rows=self.rows, smallest_run=seen)

    def named(self, learnt: Learnt) -> Named:
        """What the rows that did not fit are."""
        if learnt.misfits is None or not learnt.power.enough:
            return Named(0)
        return learnt.misfits.named(self.pool)

    def result(self, learnt: Learnt) -> AloneResult:
        """What all samples came to."""
        power = self.power(learnt.power)
        if not power.enough or learnt.searcher is None:
            return AloneResult(power, unlike=learnt.unlike, without=self.without)
        named = self.named(learnt)
        return AloneResult(
            power,
            learnt.searcher.main,
            tuple(explained_script(script, named) for script in self.scripts),
            named.renumbered,
            named.exchanged,
            named.strange,
            self.changed,
            without=self.without,
        )


def _first(scripts: Iterable[Script]) -> tuple[Script, ...]:
    """The first scripts in the order of the dump."""
    return tuple(sorted(scripts, key=lambda one: one.index)[:SCRIPTS])
