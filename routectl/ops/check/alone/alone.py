"""What was done to a dump, from the dump alone: its tokens say which experts its rows should have.

A router follows the token: a row's ids given its token, learnt from other samples of the dump,
stand above the layer's frequencies. Rows are laid against the tokens at their own place, and where
they do not fit there, at every other place. Shape suffixes: T rows, L MoE layers.
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....dump import Dump, DumpMeta, Sample
from ....errors import FormatError
from ....kernels.token_tables import worst_runs
from ....routes import Bools
from .keeping import Keeper, Kept, Tokens
from .lags import dump_lag
from .noise import Noise, measure_noise
from .parts import Parts
from .results import AloneResult, Power, Script, Span, Stretch
from .scripts import Searcher
from .split import larger_part
from .tables import BIT, Tables, Teaching, learn_tables, mean_score

__all__ = ["Alone", "find_alone"]

SCRIPTS = 1024
_ROUNDS = 3  # of learning, each from the rows that the one before left as sound
_SEARCHED = 1 << 21  # rows of samples that look wrong
_CERTAIN = 0.5  # of the sum at which a run is clear: from there on a sample is searched


@dataclass(slots=True)
class Alone:
    """Two passes over a dump: ``add`` every sample, ``learn``, ``judge`` every sample again."""

    meta: DumpMeta
    keeper: Keeper = field(default_factory=Keeper)
    searcher: Searcher | None = None
    parts: Parts | None = None
    power: Power | None = None
    scripts: list[Script] = field(default_factory=list)
    changed: int = 0
    unsearched: int = 0
    _searched: int = 0

    def add(self, sample: Sample, index: int) -> None:
        """Take in one sample, in the order of the dump."""
        self.keeper.add(sample, index)

    def learn(self) -> Power:
        """Learn routes by token, and what can be told by them."""
        keeper = self.keeper
        if not keeper.kept:
            self.power = self._power(None, 0, 0, "no sample has both its token ids and routes")
            return self.power
        folds = [keeper.folds(one) for one in keeper.kept]
        fresh = keeper.fresh()
        teaching = Teaching(keeper.kept, folds, fresh, self.meta.num_experts)
        if len({int(f) for part in folds for f in np.unique(part)}) < 2:
            self.power = self._power(None, 0, 0, "too few tokens: nothing to learn from beside them")
            return self.power
        main = dump_lag(teaching)
        sound = larger_part(teaching, main)
        for left in reversed(range(_ROUNDS)):
            learnt = replace(
                teaching, counted=[a & b for a, b in zip(fresh, sound, strict=True)]
            )
            tokens = learnt.vocabulary()
            tables, mean_L = learn_tables(learnt, tokens, main)
            noise = measure_noise(learnt, tables, main, sound, (keeper.rows, keeper.longest))
            self.searcher = Searcher(tables, noise, main, keeper.tokens)
            if not left or noise.own <= noise.wrong:
                break
            again = [self._sound(one, f) for one, f in zip(keeper.kept, folds, strict=True)]
            if all((a == b).all() for a, b in zip(again, sound, strict=True)):
                break
            sound = again
        rows = int(sum(c.sum() for c in learnt.counted))
        reason = ""
        if noise.own <= max(noise.wrong, 0.0):
            reason = f"the routes follow the tokens no more than by chance, learnt from {rows} rows"
        elif noise.smallest_run > keeper.longest:
            reason = f"too few tokens: learnt from {rows} rows, no run of rows is clear"
        self.power = self._power(mean_L, rows, len(tokens), reason)
        self.parts = Parts(self.meta.layers_L, tables, noise, main)
        return self.power

    def _power(self, mean_L: Any, rows: int, tokens: int, reason: str) -> Power:
        layers = self.meta.layers_L
        lift = (0.0,) * len(layers)
        run, thresholds = None, (0.0, 0.0)
        if mean_L is not None and self.searcher is not None:
            lift = tuple((mean_L / (BIT * self.meta.top_k)).tolist())
            noise = self.searcher.noise
            run = noise.smallest_run if noise.smallest_run <= self.keeper.longest else None
            thresholds = (noise.lag / BIT, noise.nobody / BIT)
        keeper = self.keeper
        return Power(
            keeper.samples, keeper.rows, rows, tokens, layers, lift, run, reason, thresholds
        )

    def _sound(self, one: Kept, folds: Tokens) -> Bools:
        """Rows that stay where they are."""
        assert self.searcher is not None
        own_TL = self.searcher.tables.score(one, folds, one.tokens_at(self.searcher.main))
        sound = np.ones(one.rows, np.bool_)
        if not self._suspicious(own_TL):
            return sound
        for part in self.searcher.stretches(one, folds, own_TL.sum(axis=1, dtype=np.int32)):
            if part.lag != self.searcher.main or part.source is not None:
                sound[part.first - one.start : part.end - one.start] = False
        return sound

    def _suspicious(self, own_TL: NDArray[np.int32]) -> bool:
        """Whether some rows score so little at their own tokens that a search may find more."""
        assert self.searcher is not None
        noise = self.searcher.noise
        half = np.float64(noise.own) / 2
        low = worst_runs(np.ceil(own_TL.sum(axis=1) - half).astype(np.int32)[:, None])[0]
        share = (half - noise.wrong) / max(noise.own - noise.wrong, 1e-9)
        return bool(low > _CERTAIN * share * min(noise.lag, noise.nobody))

    def judge(self, sample: Sample, index: int) -> Script | None:
        """The script of a sample that is not wholly its own rows; None for a sound one."""
        searcher = self.searcher
        one = self.keeper.view(sample, index)
        if one is None or searcher is None or self.power is None or not self.power.enough:
            return None
        folds = self.keeper.folds(one)
        own_TL = searcher.tables.score(one, folds, one.tokens_at(searcher.main))
        whole = Stretch(one.start, one.start + one.rows, searcher.kind, searcher.main)
        found = [whole]
        if self._suspicious(own_TL):
            if self._searched + one.rows > _SEARCHED:
                self.unsearched += 1
                return None
            self._searched += one.rows
            found = searcher.stretches(one, folds, own_TL.sum(axis=1, dtype=np.int32))
        assert self.parts is not None
        self.parts.add(one, folds, own_TL, found)
        if all(part.kind == "own" for part in found):
            return None
        script = Script(one.name, index, tuple(found))
        self.changed += 1
        if len(self.scripts) < SCRIPTS:
            self.scripts.append(script)
        return script

    def result(self) -> AloneResult:
        """What both passes came to."""
        assert self.power is not None
        parts = self.parts
        if not self.power.enough or parts is None or self.searcher is None:
            return AloneResult(self.power, without=self.keeper.without)
        parts.name()
        return AloneResult(
            self.power,
            self.searcher.main,
            tuple(self._explained(script, parts) for script in self.scripts),
            tuple(parts.renumbered),
            tuple(parts.exchanged),
            tuple(parts.strange),
            self.changed,
            self.unsearched,
            self.keeper.without,
        )

    def _explained(self, script: Script, parts: Parts) -> Script:
        """The script, its nobody's stretches that turned out to be renumbered or exchanged."""
        named = [
            replace(one, kind=parts.kind_of(Span(script.sample, one.first, one.end)))
            if one.kind == "nobody"
            else one
            for one in script.stretches
        ]
        return replace(script, stretches=tuple(named))


def find_alone(dump: Dump) -> AloneResult:
    """Read a dump twice and say what was done to its rows, its tokens being the reference."""
    run = Alone(dump.meta)
    for index in range(len(dump)):
        with suppress(FormatError):
            run.add(dump[index], index)
    if run.learn().enough:
        for index in range(len(dump)):
            with suppress(FormatError):
                run.judge(dump[index], index)
    return run.result()
