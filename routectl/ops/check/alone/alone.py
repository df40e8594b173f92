"""What was done to a dump, from the dump alone: its tokens say which experts its rows should have.

A router follows the token: a row's ids given its token, learnt from other samples of the dump,
stand above the layer's frequencies. Rows are laid against the tokens at their own place, and where
they do not fit there, at every other place. Shape suffixes: T rows, L MoE layers.
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ....dump import Dump, DumpMeta, Sample
from ....errors import FormatError, MismatchError
from ....routes import Bools
from .judged import Learnt, Seen, suspicious
from .keeping import SAMPLES, Keeper, Kept, Tokens
from .lags import dump_lag, lag_by
from .misfits import Misfits
from .noise import measure_noise
from .results import AloneResult, Power
from .scripts import Library, Searcher
from .split import larger_part
from .tables import BIT, Dictionary, Teaching, learn_tables, mean_score, tables_of

__all__ = ["Alone", "find_alone", "learn_dictionary", "measure_lift"]

_ROUNDS = 3  # of learning, each from the rows that the one before left as sound
_LEARNT = 320  # rows, from which thresholds are measured well enough
_UNLIKE = "no rows follow their tokens as what was learnt before says"
_LIFT_SAMPLES = 64
_LIFT_BYTES = 1 << 21


@dataclass(slots=True)
class Alone:
    """Learns from samples of a dump: ``add`` some, in order, then ``learn``.

    share is how many samples of the dump each of those that are added stands for.
    """

    meta: DumpMeta
    prior: Dictionary | None = None
    keeper: Keeper = field(default_factory=Keeper)
    share: float = 1.0
    searcher: Searcher | None = None
    power: Power | None = None
    taught: Teaching | None = None

    def __post_init__(self) -> None:
        if self.prior is not None:
            self.prior.check(self.meta)

    def add(self, sample: Sample, index: int) -> None:
        """Take in a sample."""
        self.keeper.add(sample, index)

    def learn(self) -> Learnt:
        """Learn routes by token, or take those of ``prior``; say what can be told by them."""
        power = self._learn()
        searcher = self.searcher
        misfits = None
        if searcher is not None:
            misfits = Misfits(self.meta.layers_L, searcher.tables, searcher.noise, searcher.main)
        groups, single = self.keeper.groups, self.prior is not None
        unlike = single and power.reason == _UNLIKE
        return Learnt(power, groups, single, searcher, misfits, unlike)

    def _learn(self) -> Power:
        keeper = self.keeper
        if not keeper.kept:
            return self._cannot("no sample has both its token ids and routes")
        folds = [self._folds(one) for one in keeper.kept]
        teaching = Teaching(keeper.kept, folds, keeper.fresh(), self.meta.num_experts)
        if self.prior is None and len({int(f) for part in folds for f in part[::64]}) < 2:
            return self._cannot("too few tokens: no rows to learn from beside a sample's own")
        given = None if self.prior is None else tables_of(self.prior, teaching)
        main = dump_lag(teaching) if given is None else lag_by(given, teaching)
        every = [np.ones(one.rows, np.bool_) for one in keeper.kept]
        sound = larger_part(teaching, main) if given is None else every
        for left in reversed(range(_ROUNDS)):
            counted = [a & b for a, b in zip(teaching.counted, sound, strict=True)]
            self.taught = replace(teaching, counted=counted)
            if given is None:
                placed = self.taught.placed(self.taught.vocabulary(), main)
                tables, mean_L = learn_tables(self.taught, placed)
            else:
                tables, mean_L = given, mean_score(self.taught, given, main)
            size = (round(keeper.rows * self.share), keeper.longest)
            noise = measure_noise(self.taught, tables, main, sound, size)
            searcher = self.searcher = Searcher(tables, noise, main)
            if not left or noise.own <= noise.wrong:
                break
            again = [self._sound(one, f) for one, f in zip(keeper.kept, folds, strict=True)]
            if all((a == b).all() for a, b in zip(again, sound, strict=True)):
                break
            sound = again
        self.power = self._measured(searcher, mean_L)
        return self.power

    def lift(self) -> Power:
        """How far routes follow tokens at lag 0; nothing else is measured, nor can be judged."""
        keeper = self.keeper
        if not keeper.kept:
            return self._cannot("no sample has both its token ids and routes")
        folds = [keeper.folds(one) for one in keeper.kept]
        teaching = Teaching(keeper.kept, folds, keeper.fresh(), self.meta.num_experts)
        tokens = teaching.vocabulary()
        _, mean_L = learn_tables(teaching, teaching.placed(tokens, 0))
        rows = int(sum(part.sum() for part in teaching.counted))
        lift = tuple((mean_L / (BIT * self.meta.top_k)).tolist())
        layers = self.meta.layers_L
        reason = "" if rows >= _LEARNT else f"too few tokens: got {rows} rows to learn from"
        return Power(keeper.samples, keeper.rows, rows, len(tokens), layers, lift, None, reason)

    def _folds(self, one: Kept) -> Tokens:
        if self.prior is not None:
            return np.zeros(one.rows, np.int32)
        return self.keeper.folds(one)

    def _cannot(self, reason: str) -> Power:
        keeper, layers = self.keeper, self.meta.layers_L
        lift = (0.0,) * len(layers)
        self.power = Power(keeper.samples, keeper.rows, 0, 0, layers, lift, None, reason)
        return self.power

    def _measured(self, searcher: Searcher, mean_L: NDArray[np.float64]) -> Power:
        keeper, noise, taught = self.keeper, searcher.noise, self.taught
        assert taught is not None
        rows = int(sum(part.sum() for part in taught.counted))
        least = noise.smallest_run
        reason = ""
        if rows < _LEARNT and self.prior is None:
            reason = f"too few tokens: got {rows} rows to learn from, expected {_LEARNT} or more"
        elif self.prior is not None and noise.own <= 0.0 and keeper.rows >= _LEARNT:
            reason = _UNLIKE
        elif noise.own <= max(noise.wrong, 0.0):
            reason = f"routes follow the tokens no more than by chance, learnt from {rows} rows"
        elif least > keeper.longest:
            reason = f"too few tokens: learnt from {rows} rows, no run of rows would be clear"
        return Power(
            keeper.samples,
            keeper.rows,
            rows,
            len(searcher.tables.tokens_V),
            self.meta.layers_L,
            tuple((mean_L / (BIT * self.meta.top_k)).tolist()),
            least,
            reason,
            (noise.lag / BIT, noise.nobody / BIT),
        )

    def dictionary(self) -> Dictionary:
        """What was learnt, to lay another dump of the same model against; after ``learn``."""
        if self.taught is None or self.searcher is None:
            raise MismatchError("nothing was learnt: no sample has both its token ids and routes")
        return self.taught.dictionary(self.searcher.main, self.meta.layers_L)

    def _sound(self, one: Kept, folds: Tokens) -> Bools:
        """Rows that stay where they are."""
        assert self.searcher is not None
        own_TL = self.searcher.tables.score(one, folds, one.tokens_at(self.searcher.main))
        sound = np.ones(one.rows, np.bool_)
        if not suspicious(self.searcher.noise, own_TL):
            return sound
        for part in self.searcher.stretches(one, folds, own_TL.sum(axis=1, dtype=np.int32)):
            if part.lag != self.searcher.main or part.source is not None:
                sound[part.first - one.start : part.end - one.start] = False
        return sound


def find_alone(dump: Dump, prior: Dictionary | None = None) -> AloneResult:
    """Read a dump twice and say what was done to its rows, its tokens being the reference.

    prior is what another dump of the same weights taught (``learn_dictionary``): with it the dump
    is laid against that one's routes by token, and what is wrong with all of it is found too.
    Raises MismatchError where that is of another model.
    """
    learnt = _first_pass(Alone(dump.meta, prior), dump).learn()
    seen, library = Seen(), Library.of(dump)
    for index in range(len(dump)):
        try:
            sample = dump[index]
        except FormatError:
            seen.without += 1
            continue
        seen.add(learnt.judge(sample, index, library))
    return seen.result(learnt)


def learn_dictionary(dump: Dump) -> Dictionary:
    """Routes by token of a dump, at most 32 MiB; those of several dumps add up.

    Raises MismatchError where no sample has both its token ids and routes.
    """
    run = _first_pass(Alone(dump.meta), dump)
    run.learn()
    return run.dictionary()


def measure_lift(dump: Dump) -> Power:
    """How far the routes follow the tokens, of at most 64 samples, evenly spaced, read once.

    ``lift_L`` of what is returned, bits an id: a figure of a dump's health, near 0 where rows are
    not their tokens'. ``reason`` says why it is not known; nothing is searched.
    """
    keeper = Keeper(_LIFT_BYTES)
    for index in range(0, len(dump), -(-len(dump) // _LIFT_SAMPLES) or 1):
        with suppress(FormatError):
            keeper.add(dump[index], index)
    run = Alone(dump.meta, keeper=keeper)
    return run.lift()


def _first_pass(run: Alone, dump: Dump) -> Alone:
    every = range(0, len(dump), max(-(-len(dump) // SAMPLES), 1))
    run.share = len(dump) / max(len(every), 1)
    for index in every:
        with suppress(FormatError):
            run.add(dump[index], index)
    return run
