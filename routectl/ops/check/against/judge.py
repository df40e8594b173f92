"""What was done to rows that differ in place: whose they are, layers, ids; else what they are not.

Shape suffixes: N tokens, C columns, M models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ....kernels.align import best_path
from ....routes import Bools
from ...pairs.align import name_of
from ..book.results import Book, CheckEstimate, Fact, FoundMap, Place
from .alignment import align, explained
from .inputs import Inputs
from .maps import IdSizes
from .models import LEFT, Model, RowBlock
from .naming import ModelName, Where, found_map, name_model, name_single
from .owners import Owners
from .pending import Pending, blocks_of, runs_of
from .rest import Intact, Rest
from .segments import ModelSegment, find_segments
from .side import Ints, side_of
from .swapped import fit_swapped
from .unexplained import judge_columns, judge_tokens

__all__ = ["Judge"]

_ENOUGH = 65_536  # tokens that estimates are made from
_LAGS = (-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8)
_OWNER_ROWS = 8  # tokens from which it is asked whose they are
_SAMPLES = 64  # that single ids are looked for in
_OWNERS = 4  # samples whose rows one sample may hold
_PART = 0.2  # of the rows asked for that one sample must have
_FOLLOWS = 0.75  # mismatch that a model may leave in a sample, where it is known from others
_CHANGE = 12.0  # nats that a change of model costs
_EQUAL, _OTHER = 1.5, -0.9  # nats of a row that is undone, and of one that is not


class Judge:
    """Estimates what was done to pending rows, one kind after the other, and names it."""

    def __init__(
        self, inputs: Inputs, layers: tuple[int, ...], num_experts: int, book: Book
    ) -> None:
        self.inputs, self.layers, self.book = inputs, layers, book
        self.num_experts = num_experts
        self.estimates: list[CheckEstimate] = []
        self.maps: list[FoundMap] = []
        self.explained = 0

    def run(self, pending: Sequence[Pending], where: Where, rest: Rest) -> int:
        """Judge all of it; ``where`` knows the samples that were compared.

        Returns how many rows are wrong in place and not explained.
        """
        whole = tuple(range(len(self.layers)))
        pending = self._swapped(list(pending), rest, where)
        tokens = [p for p in pending if p.columns == whole]
        single = [p for p in pending if p.columns != whole]
        tokens = self._owners(tokens)
        for segment, number in self._segments(tokens, whole):
            name = name_model(segment.model, self.layers, self.num_experts)
            tokens = self._apply(tokens, segment.model, name, where, number)
        tokens = self._lagged(tokens, whole, where)
        in_place = judge_tokens(tokens, self.inputs, self.layers, where.tokens, rest, self.book)
        self._columns(single, where)
        return in_place

    def _swapped(self, pending: list[Pending], rest: Rest, where: Where) -> list[Pending]:
        """Single ids that stand for others, found in samples that are in place; what is left."""
        whole = tuple(range(len(self.layers)))
        for seeds in (rest.worst(4), rest.worst(_SAMPLES)):
            blocks = self._blocks([self._all_of(one) for one in seeds])
            model = fit_swapped(blocks, whole, self._sizes(blocks)) if blocks else None
            if model is None:
                continue
            name = name_model(model, self.layers, self.num_experts)
            told = replace(name, detail=name.detail or "some experts")
            intact = [self._all_of(one) for one in rest.intact.values()]
            before, wrong_L = self.explained, self._wrong(intact)
            left = self._apply(intact, model, told, where, 0)
            if self.explained > before:
                kept = {run.index for run in left}
                rest.explain(wrong_L - self._wrong(left), kept)
            for columns in {p.columns for p in pending}:
                own = [p for p in pending if p.columns == columns]
                others = [p for p in pending if p.columns != columns]
                pending = others + self._apply(own, model.part(columns), told, where, 0)
            if self.explained > before:
                break
        return pending

    def _all_of(self, one: Intact) -> Pending:
        """All rows of a sample that was compared."""
        columns, positions = tuple(range(len(self.layers))), np.arange(one.first, one.end)
        return Pending(one.index, one.name, columns, positions, 0, 0)

    def _wrong(self, runs: Sequence[Pending]) -> Ints:
        """The rows of some runs that differ in place, by layer."""
        total = np.zeros(len(self.layers), np.int64)
        for run in runs:
            wrong, _ = self.inputs.pair(run.index).compared(run.positions, np.array(run.columns))
            total += wrong.sum(axis=0)
        return total

    def _owners(self, pending: list[Pending]) -> list[Pending]:
        """Name runs that are another sample's; the rest of them."""
        asked = [p for p in pending if len(p.positions) >= _OWNER_ROWS]
        if not asked or len(self.inputs.reference) < 2:
            return pending
        owners = Owners(self.inputs.reference, self.inputs.columns, self.num_experts)
        left = []
        for run in pending:
            kept: Pending | None = run
            for _ in range(_OWNERS):
                if kept is None or len(kept.positions) < _OWNER_ROWS:
                    break
                before, kept = kept, self._owner(kept, owners)
                if kept is before:
                    break
            if kept is not None:
                left.append(kept)
        return left

    def _owner(self, run: Pending, owners: Owners) -> Pending | None:
        """What is left of a run once the sample is named whose rows it has."""
        ours = self.inputs.pair(run.index).ours
        rows_T = np.zeros(len(ours.ids_TLK), np.bool_)
        rows_T[run.positions - ours.start] = True
        best: tuple[int, int, Ints, tuple[Bools, Bools]] | None = None
        for other in owners.ask(ours, rows_T):
            if other == int(self.inputs.partners_N[run.index]):
                continue
            routes = self.inputs.reference[other].routes
            assert routes is not None
            theirs = side_of(routes, self.inputs.columns, ours.num_ids)
            source_T = np.where(rows_T, align(ours, theirs, rows_T, own=False), -1)
            marks = explained(ours, theirs, source_T)
            size = int((source_T >= 0).sum())
            few = marks[0].sum() <= LEFT * marks[1].sum()
            if few and size >= _OWNER_ROWS and (best is None or size > best[0]):
                best = size, other, source_T, marks
        if best is None or best[0] < _PART * len(run.positions):
            return run
        _, other, source_T, marks = best
        self._owned(run, name_of(self.inputs.reference[other], other), source_T, marks, ours.start)
        return self._without(run, source_T[run.positions - ours.start] >= 0)

    def _owned(
        self,
        run: Pending,
        owner: str,
        source_T: Ints,
        marks: tuple[Bools, Bools],
        start: int,
    ) -> None:
        """Name rows that are another sample's."""
        wrong_TL, both_TL = marks
        found_T = source_T >= 0
        rows, left = int(both_TL[found_T].sum()), int(wrong_TL[found_T].sum())
        first, last = (int(row) for row in np.flatnonzero(found_T)[[0, -1]])
        lag = first + start - int(source_T[first])
        note = f"to {last + start}, rows of sample {owner}"
        note += f", {abs(lag)} {'late' if lag > 0 else 'early'}" if lag else ""
        before = min(rows, run.wrong)
        self.book.add("R710", Place(run.name, first + start, None, note), rows=before)
        self._count(CheckEstimate("R710", "rows of other samples", rows, left, before))

    def _without(self, run: Pending, taken_N: Bools) -> Pending | None:
        """The run without some of its tokens, counted again; None where none is left."""
        if taken_N.all():
            return None
        positions = run.positions[~taken_N]
        wrong, both = self.inputs.pair(run.index).compared(positions, np.array(run.columns))
        return replace(run, positions=positions, wrong=int(wrong.sum()), rows=int(both.sum()))

    def _count(self, estimate: CheckEstimate) -> None:
        self.estimates.append(estimate)
        self.explained += estimate.before

    def _blocks(self, pending: Sequence[Pending], lag: int = 0) -> list[RowBlock]:
        """Blocks of pending runs, evenly as many as estimates are made from."""
        step = max(-(-sum(len(p.positions) for p in pending) // _ENOUGH), 1)
        blocks: list[RowBlock] = []
        for run in pending[::step]:
            blocks += blocks_of(run, self.inputs.pair(run.index), lag)
        return [b for b in blocks if b.both_NC.any()]

    def _segments(
        self, pending: list[Pending], columns: tuple[int, ...], lag: int = 0
    ) -> Iterator[tuple[ModelSegment, int]]:
        """Models of pending runs, with a number where there are several."""
        if not pending:
            return
        blocks = self._blocks(pending, lag)
        found = find_segments(blocks, columns, self._sizes(blocks))
        for number, segment in enumerate(found, 1):
            yield segment, number if len(found) > 1 else 0

    def _sizes(self, blocks: Sequence[RowBlock]) -> IdSizes:
        greatest = max((int(b.ours_NCK.max()) for b in blocks if b.ours_NCK.size), default=0)
        return IdSizes(max(self.num_experts, greatest + 1), self.num_experts)

    def _apply(
        self,
        pending: list[Pending],
        model: Model,
        name: ModelName,
        where: Where,
        number: int,
        lag: int = 0,
    ) -> list[Pending]:
        """Name the rows that a model undoes; the pending runs without them."""
        left: list[Pending] = []
        held: list[tuple[Pending, Ints, int, int, int]] = []
        for run in pending:
            own_N, rows, wrong, before = self._undone(run, model, lag)
            if not own_N.any():
                left.append(run)
                continue
            held.append((run, run.positions[own_N], rows, wrong, before))
            kept = self._without(run, own_N)
            if kept is not None:
                left.append(kept)
        if not held:
            return pending
        runs = [(run.index, *part) for run, positions, *_ in held for part in runs_of(positions)]
        words = where.words(runs)
        code, detail = name.code, "; ".join(w for w in (name.detail, words) if w)
        facts = {**name.facts, **({"segment": number} if number else {})}
        layers = self._layers_of(model)
        for run, positions, _, _, before in held:
            layer = layers[0] if len(layers) < len(self.layers) else None
            place = Place(run.name, int(positions[0]), layer)
            part = layers if len(layers) < len(self.layers) else ()
            self.book.add(code, place, rows=before, layers=part, detail=detail, facts=facts)
        sums = np.array([h[2:] for h in held]).sum(axis=0)
        self._count(CheckEstimate(code, detail, int(sums[0]), int(sums[1]), int(sums[2])))
        if model.maps is not None and not lag:
            self.maps.append(found_map(model, self.layers, detail, tuple(runs)))
        return left

    def _layers_of(self, model: Model) -> tuple[int, ...]:
        """The layers that a model changes."""
        if model.maps is None:
            moved = [c for c, s in zip(model.columns, model.source_C, strict=True) if c != s]
        else:
            moved = [c for c, m in zip(model.columns, model.maps, strict=True) if not m.is_identity]
        return tuple(self.layers[c] for c in moved)

    def _undone(self, run: Pending, model: Model, lag: int) -> tuple[Bools, int, int, int]:
        """The tokens that a model undoes; their rows, those still wrong, and those wrong before."""
        sides = self.inputs.pair(run.index)
        blocks = blocks_of(run, sides, lag)
        num_ids = sides.ours.num_ids
        wrong = np.concatenate([model.differs(b, num_ids) for b in blocks])
        both = np.concatenate([b.both_NC for b in blocks])
        was, there = sides.compared(run.positions, np.array(run.columns))
        odds = np.where(both, np.where(wrong, _OTHER, _EQUAL), 0).sum(axis=1)
        stay = np.where(there, np.where(was, _OTHER, _EQUAL), 0).sum(axis=1)
        odds_3N = np.stack([np.zeros(len(odds)), stay, odds]).astype(np.float32)
        own_N = best_path(odds_3N, np.full(3, _CHANGE)) == 2
        rows, left = int(both[own_N].sum()), int(wrong[own_N].sum())
        before = int((was & both)[own_N].sum())  # of those that have a row at the lag
        if left > _FOLLOWS * rows or left > _FOLLOWS * before or 2 * rows < there[own_N].sum():
            own_N[:] = False
        return own_N, rows, left, before

    def _lagged(
        self, pending: list[Pending], columns: tuple[int, ...], where: Where
    ) -> list[Pending]:
        """Rows that are both moved and renumbered: a map at a lag that rows alone do not show."""
        for lag in _LAGS:
            if sum(len(p.positions) for p in pending) < 64:
                break
            for segment, number in self._segments(pending, columns, lag):
                if segment.model.maps is None:
                    continue
                name = name_model(segment.model, self.layers, self.num_experts)
                late = f"{abs(lag)} {'late' if lag > 0 else 'early'}"
                facts: dict[str, Fact] = {**name.facts, "lag": lag}
                detail = f"{name.detail}, and rows {late}".removeprefix(", ")
                told = replace(name, detail=detail, facts=facts)
                pending = self._apply(pending, segment.model, told, where, number, lag)
        return pending

    def _columns(self, pending: Sequence[Pending], where: Where) -> None:
        """Runs that differ in single layers: each layer's models, then what none explains."""
        models: dict[int, list[Model]] = {}
        by_column: dict[int, list[Pending]] = {}
        for run in pending:
            by_column.setdefault(run.columns[0], []).append(run)
        for column, runs in sorted(by_column.items()):
            models[column] = [s.model for s, _ in self._segments(runs, (column,))]
        exchanged = {c: m[0].source_C[0] for c, m in models.items() if m and m[0].moves_layers}
        for column, runs in sorted(by_column.items()):
            left = runs
            for number, model in enumerate(models[column], 1):
                name = name_single(model, self.layers, self.num_experts, exchanged)
                several = number if len(models[column]) > 1 else 0
                left = self._apply(left, model, name, where, several)
            judge_columns(left, self.inputs, self.layers, column, self.book)
