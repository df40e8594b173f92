"""Why a dump differs from a reference of the same tokens: hypotheses scored by what they leave.

Runs of tokens that differ more than rounding explains are found first, in all layers and in single
ones; each hypothesis is then tried on them alone, so that a fault in a few rows is not drowned.
Shape suffixes: T tokens, N some of them, L compared layers, K top_k.
"""

from dataclasses import dataclass

import numpy as np

from ...dump import DumpMeta, Sample
from ...kernels.check import hash_sets
from ...margins import EPS
from ...routes import Bools, Ids, Routes
from .layers import Maps, at_margins, judge_layers, judge_tokens
from .load import heaviest_run
from .orders import Ints, Side, differing, row_scores, wins
from .origins import Prefixes, Sketches
from .results import Book, Explanation, Place, Score
from .token_runs import TokenRuns

__all__ = ["Comparer"]

_EXPECTED = 0.6  # mismatch that a run of tokens must exceed
_HEAVY = 8.0  # rows above it that make a run, beyond what rounding does
_RUNS = 8  # of one sample, in all layers together, and in each
_TOO_MUCH = 0.35  # mismatch in all, and of the first MoE layer, that is not rounding
_TOO_EARLY = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two samples of the same tokens, and the positions that both have rows for."""

    name: str
    dump: Routes
    reference: Routes
    ours: Side
    theirs: Side
    here_N: Ints
    tokens: int


class Comparer:
    """Takes pairs of samples of the same tokens; says at the end what explains their mismatch."""

    def __init__(self, dump: DumpMeta, reference: DumpMeta, book: Book) -> None:
        self.dump, self.reference, self.book = dump, reference, book
        common = [n for n in dump.layers_L if n in reference.layers_L]
        same_count = len(dump.layers_L) == len(reference.layers_L)
        self.by_ordinal = same_count and dump.layers_L != reference.layers_L
        self.layers = dump.layers_L if self.by_ordinal else tuple(common)
        self.columns = [[meta.layers_L.index(n) for n in common] for meta in (dump, reference)]
        if self.by_ordinal:
            self.columns = [list(range(len(self.layers)))] * 2
        self.rows_L, self.wrong_L, self.left_rows_L, self.left_wrong_L = np.zeros(
            (4, len(self.layers)), np.int64
        )
        self.explained = self.clear = self.with_margin = 0
        self.scores: dict[tuple[str, str], Score] = {}
        self.tokens, self.single = TokenRuns(), [TokenRuns() for _ in self.layers]
        self.sketches, self.prefixes = Sketches(), Prefixes()

    def add(self, ours: Sample, theirs: Sample, name: str) -> None:
        """Compare one pair."""
        if ours.routes is None or theirs.routes is None or not self.layers:
            return
        sides = [self._side(ours.routes, 0), self._side(theirs.routes, 1)]
        self.sketches.know(name, sides[1])
        here_N = np.arange(max(s.start for s in sides), min(s.stop for s in sides))
        if not len(here_N):
            return
        tokens = ours.num_tokens or theirs.num_tokens or sides[0].stop + 1
        pair = _Pair(name, ours.routes, theirs.routes, sides[0], sides[1], here_N, tokens)
        wrong_NL, both_NL = differing(pair.ours, pair.theirs, here_N, here_N)
        self.rows_L += both_NL.sum(axis=0)
        self.wrong_L += wrong_NL.sum(axis=0)
        rest_NL = self._token_runs(pair, wrong_NL, both_NL)
        rest_NL = self._layer_runs(pair, wrong_NL, rest_NL)
        wrong_NL = wrong_NL & rest_NL
        self.left_rows_L += rest_NL.sum(axis=0)
        self.left_wrong_L += wrong_NL.sum(axis=0)
        known, clear = self._margins(pair, wrong_NL)
        self.with_margin, self.clear = self.with_margin + known, self.clear + clear
        if (rest_NL == both_NL).all():
            place = Place(name, int(here_N[0]))
            self.prefixes.add(place, wrong_NL.sum(axis=1), rest_NL.sum(axis=1))

    def _side(self, routes: Routes, which: int) -> Side:
        ids_TLK = np.ascontiguousarray(routes.ids_TLK[:, self.columns[which]])
        there = np.ones(ids_TLK.shape[:2], np.bool_)
        if routes.missing_TL is not None:
            there = ~routes.missing_TL[:, self.columns[which]]
        return Side(hash_sets(ids_TLK, routes.num_experts), there, routes.start)

    def _token_runs(self, pair: _Pair, wrong_NL: Bools, both_NL: Bools) -> Bools:
        """Runs that differ in all layers: explained by order, or kept; what is left of the rows."""
        rest_NL = both_NL.copy()
        for _ in range(_RUNS):
            wrong_N = (wrong_NL & rest_NL).sum(axis=1)
            first, end, heavy = heaviest_run(wrong_N - _EXPECTED * rest_NL.sum(axis=1))
            if heavy < _HEAVY:
                break
            run_NL = np.zeros_like(rest_NL)
            run_NL[first:end] = (wrong_NL & rest_NL)[first:end]
            rest_NL[first:end] = False
            self._explain_run(pair, pair.here_N[first:end], run_NL)
        return rest_NL

    def _explain_run(self, pair: _Pair, here_N: Ints, wrong_NL: Bools) -> None:
        wrong = int(wrong_NL.sum())
        scores = row_scores(pair.ours, pair.theirs, here_N, pair.tokens)
        self._note(scores)
        best = wins(scores)
        place = Place(pair.name, int(here_N[0]))
        if best is None:
            first, end = int(here_N[0]), int(here_N[-1]) + 1
            self.sketches.ask(len(self.tokens.runs), pair.name, pair.ours, first, end)
            margins = self._margins(pair, wrong_NL)
            self.tokens.add(place, wrong, *self._ids(pair, here_N), scores, margins)
            return
        self.explained += wrong
        self.book.add(best.code, place, rows=wrong, detail=best.name)

    def _note(self, scores: list[Score]) -> None:
        """Add up what hypotheses would leave."""
        for score in scores:
            known = self.scores.get((score.code, score.name))
            self.scores[(score.code, score.name)] = score if known is None else known + score

    def _ids(self, pair: _Pair, here_N: Ints) -> tuple[Ids, Ids]:
        ours = pair.dump.ids_TLK[here_N - pair.dump.start][:, self.columns[0]]
        return ours, pair.reference.ids_TLK[here_N - pair.reference.start][:, self.columns[1]]

    def _layer_runs(self, pair: _Pair, wrong_NL: Bools, rest_NL: Bools) -> Bools:
        """Runs that differ in one layer more than rounding explains; what is left of the rows."""
        rest_NL = rest_NL.copy()
        for column, pending in enumerate(self.single):
            for _ in range(_RUNS):
                there_N = rest_NL[:, column]
                wrong_N = wrong_NL[:, column] & there_N
                first, end, heavy = heaviest_run(wrong_N - _EXPECTED * there_N)
                if heavy < _HEAVY:
                    break
                place = Place(pair.name, int(pair.here_N[first]), self.layers[column])
                ids = self._ids(pair, pair.here_N[first:end])
                pending.add(place, int(wrong_N[first:end].sum()), *ids)
                rest_NL[first:end, column] = False
        return rest_NL

    def _margins(self, pair: _Pair, wrong_NL: Bools) -> tuple[int, int]:
        """Of the marked rows, those with a margin and those whose margin is not small."""
        sides = zip((pair.reference, pair.dump), self.columns[::-1], strict=True)
        known_sides = [(r, c) for r, c in sides if r.margin_TL is not None]
        if not known_sides:
            return 0, 0
        routes, columns = known_sides[0]
        margin_TL = routes.least_margin_TL
        assert margin_TL is not None
        here_NL = margin_TL[pair.here_N - routes.start][:, columns]
        known = here_NL[wrong_NL].astype(np.float64)
        return int((~np.isnan(known)).sum()), int((known > EPS).sum())

    def result(self) -> Explanation:
        """Judge what is pending, add the findings, and sum up."""
        maps: Maps = {}
        experts, book = self.dump.num_experts, self.book
        rows, wrong = int(self.rows_L.sum()), int(self.wrong_L.sum())
        if self.by_ordinal and rows and wrong < rows / 2:
            numbers = f"{self.reference.layers_L[0]} to {self.reference.layers_L[-1]}"
            book.add(
                "R704",
                None,
                rows=rows,
                layers=self.layers,
                detail=f"the reference's layers {numbers} fit in their order",
            )
        self.explained += self.sketches.judge(self.tokens, book)
        self.explained += self.tokens.name_as_others(book)
        tried, explained = judge_tokens(self.tokens, self.layers, experts, book, maps)
        in_place = next((f.detail for f in book.findings() if f.code == "R711"), None)
        more, alone = judge_layers(self.single, self.layers, experts, book, maps)
        self._note([*tried, *more])
        stale = self.prefixes.judge(book)
        self.explained += explained + alone + stale
        self._judge_rest(stale, in_place)
        best = sorted(self.scores.values(), key=lambda s: 1.0 if s.rate is None else s.rate)
        return Explanation(
            rows,
            wrong,
            self.explained,
            self.layers,
            tuple(self.rows_L.tolist()),
            tuple(self.wrong_L.tolist()),
            tuple(best),
            tuple(sorted(maps.items())),
        )

    def _judge_rest(self, stale: int, in_place: str | None) -> None:
        """Whether rounding explains the rows that nothing else does.

        in_place is what was said of runs that are wrong where they are: where most of the mismatch
        is in these, the rest of it is of the same cause.
        """
        rows, wrong = int(self.left_rows_L.sum()), int(self.left_wrong_L.sum()) - stale
        if not rows or wrong <= 0:
            return
        if in_place is not None and self.tokens.wrong > self.wrong_L.sum() / 2:
            self.book.add("R711", None, rows=wrong, detail=in_place)
            return
        rate_L = self.left_wrong_L / np.maximum(self.left_rows_L, 1)
        share = f"{100 * wrong / rows:.2f} % of the other rows differ"
        margins = at_margins(self.with_margin, self.clear)
        if not stale and (wrong > _TOO_MUCH * rows or rate_L[0] > _TOO_EARLY):
            first = self.layers[int(np.flatnonzero(rate_L > min(_TOO_EARLY, rate_L.max()))[0])]
            self.book.add(
                "R711", None, rows=wrong, detail=f"wrong from layer {first} on{margins}; {share}"
            )
        else:
            self.book.add("R712", None, rows=wrong, detail=f"{share}{margins}")
