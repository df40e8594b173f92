"""A dump laid against a reference of the same tokens, sample by sample: rows in place, and moved.

Runs of tokens that differ more than rounding explains are found first, in all layers and in some;
only there rows are aligned by content, so that a clean dump costs no more than a comparison.
Shape suffixes: T tokens, N some of them, L compared layers.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ....dump import Dump, DumpMeta, Sample
from ....margins import EPS
from ....routes import Bools, Routes
from ...pairs.align import name_of
from ..book.ledger import Ledger
from ..book.legal import Legal
from ..book.results import Book, CheckEstimate, Explanation, FoundMap, Place
from ..book.scripts import BEGIN_AT_0, Edit, Stretch, name_script, stretches_of
from .alignment import align, explained, unplaced
from .compared import MOST, ComparedSamples
from .edits import RowExtent, cut_at, edits_of, moved_stretches
from .inputs import Inputs
from .judge import Judge
from .naming import Where
from .orders import known_order
from .pending import KeptRuns, PairedSides, runs_of
from .prefixes import KnownFlips
from .rest import Rest, beside_runs
from .runs import column_runs, token_runs
from .side import Ints, differing, side_of, unsigned

__all__ = ["Comparer", "Read"]

# the sample of the dump, and what its reader refused of it, by index; without a finding
Read = Callable[[int], tuple[Sample, Legal]]
_ALONE = ("R401", "R402", "R601")  # what rows that are moved look like without a reference
_EXPLAINED = ("R106",)  # what says all there is to say of a sample's rows
_BEYOND = 2  # rows past the reference's last that are aligned, where there are as many


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two samples of the same tokens."""

    index: int
    name: str
    sides: PairedSides
    sample: Sample
    reference: Routes
    here_N: Ints
    tokens: int

    @property
    def extent(self) -> RowExtent:
        """Where the rows of the dump's sample stand."""
        ours, sample = self.sides.ours, self.sample
        inferred = sample.start_inferred
        return RowExtent(ours.start, ours.stop, self.tokens, sample.prompt_length, inferred)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A pair that is looked at, and where what is found goes."""

    pair: _Pair
    book: Book
    found: ComparedSamples


def _marked(stretches: Iterable[Stretch], start: int, tokens: int) -> Bools:
    """The rows of stretches of a sample whose rows begin at ``start``, bool [T]."""
    mask_T = np.zeros(tokens, np.bool_)
    for stretch in stretches:
        mask_T[stretch.first - start : stretch.end - start] = True
    return mask_T


class Comparer:
    """Takes pairs of samples of the same tokens; says at the end what was done to the dump."""

    def __init__(
        self,
        dump: DumpMeta,
        other: Dump,
        partners_N: Ints,
        eps: float = EPS,
        candidates: Sequence[str] = (),
    ) -> None:
        """``partners_N`` are the indices of the dump's samples in the reference, -1 for none.

        A sample whose rows several ``candidates`` made is passed over.
        """
        self.dump, self.other, self.partners_N = dump, other, partners_N
        reference = self.reference = other.meta
        common = [n for n in dump.layers_L if n in reference.layers_L]
        same_count = len(dump.layers_L) == len(reference.layers_L)
        self.by_ordinal = same_count and dump.layers_L != reference.layers_L
        self.layers = dump.layers_L if self.by_ordinal else tuple(common)
        columns = [[meta.layers_L.index(n) for n in common] for meta in (dump, reference)]
        if self.by_ordinal:
            columns = [list(range(len(self.layers)))] * 2
        self.columns = [np.array(c, np.int64) for c in columns]
        self.eps, self._candidates = eps, {*candidates}

    def sides(self, sample: Sample, legal: Legal, reference: Routes) -> PairedSides:
        """Both samples' compared layers, ids of both below one number."""
        assert sample.routes is not None
        num_ids, unchecked = self.dump.num_experts, None
        if legal.ids_TLK is not None and legal.ids_TLK.size:
            assert legal.bad_TL is not None
            unchecked = unsigned(legal.ids_TLK), legal.bad_TL
            num_ids = max(num_ids, int(unchecked[0].max()) + 1)
        ours = side_of(sample.routes, self.columns[0], num_ids, unchecked)
        return PairedSides(ours, side_of(reference, self.columns[1], num_ids))

    def empty(self) -> ComparedSamples:
        """Of no samples."""
        return ComparedSamples(Rest.empty(self.layers, self.eps))

    def see(
        self, index: int, sample: Sample, legal: Legal, book: Book, found: ComparedSamples
    ) -> tuple[bool, bool]:
        """Compare a sample with its partner; whether that explains it, and was compared.

        ``legal`` has the ids as they were written, where the reader refused some.
        """
        partner, name = int(self.partners_N[index]), name_of(sample, index)
        if partner < 0:
            book.add("R719", Place(name))
            return False, False
        if len(self._candidates.intersection(s.version for s in sample.weight_spans)) > 1:
            return False, False  # judged part by part, by who made which
        pair = self._pair(index, sample, legal, self.other[partner])
        if pair is None:
            found.apart = tuple(sorted((*found.apart, index))[:MOST])
            return False, False
        pending, edits = len(found.pending), found.edits
        self._add(pair, book, found)
        book.retract("R601")  # the reference says it of each
        return found.edits > edits or len(found.pending) > pending, True

    def _pair(self, index: int, sample: Sample, legal: Legal, theirs: Sample) -> _Pair | None:
        """Both samples by position, None where nothing of them can be compared."""
        if sample.routes is None or theirs.routes is None or not self.layers:
            return None
        sides = self.sides(sample, legal, theirs.routes)
        ours, other = sides.ours, sides.theirs
        here_N = np.arange(max(ours.start, other.start), min(ours.stop, other.stop))
        if not len(here_N):
            return None
        tokens = sample.num_tokens or theirs.num_tokens or other.stop + 1
        name = name_of(sample, index)
        return _Pair(index, name, sides, sample, theirs.routes, here_N, tokens)

    def _add(self, pair: _Pair, book: Book, found: ComparedSamples) -> None:
        """Compare one pair."""
        here_N = pair.here_N
        found.tokens += len(here_N)
        wrong_NL, both_NL = differing(pair.sides.ours, pair.sides.theirs, here_N, here_N)
        found.rows_L = found.rows_L + both_NL.sum(axis=0)
        found.wrong_L = found.wrong_L + wrong_NL.sum(axis=0)
        if any(book.has(code, pair.name) for code in _EXPLAINED):
            found.explained += int(wrong_NL.sum())
            return
        scene = _Scene(pair, book, found)
        rest_NL = self._token_runs(scene, wrong_NL, both_NL)
        rest_NL = self._column_runs(scene, wrong_NL, rest_NL)
        flips = self._flips(pair, wrong_NL & rest_NL, beside_runs(rest_NL, both_NL))
        place = Place(pair.name, int(here_N[0]))
        found.rest.add(pair.index, place, wrong_NL, rest_NL, both_NL, flips)

    def _token_runs(self, scene: _Scene, wrong_NL: Bools, both_NL: Bools) -> Bools:
        """Rows that differ in all layers: moved, or kept for later; what is left of the rows."""
        run_N, pair = token_runs(wrong_NL, both_NL), scene.pair
        surplus = pair.sides.ours.stop - pair.sides.theirs.stop
        beyond = surplus >= _BEYOND and pair.sides.ours.stop >= pair.tokens
        if not run_N.any() and not beyond:
            return both_NL.copy()
        columns = np.arange(len(self.layers))
        moved_T = self._align(scene, columns, run_N, beyond)
        here = pair.here_N - pair.sides.ours.start
        left_N = run_N & ~moved_T[here]
        left_N = token_runs(wrong_NL & left_N[:, None], both_NL & left_N[:, None]) & left_N
        self._keep(scene, columns, left_N)
        rest_NL = both_NL.copy()
        rest_NL[left_N | moved_T[here]] = False
        return rest_NL

    def _column_runs(self, scene: _Scene, wrong_NL: Bools, rest_NL: Bools) -> Bools:
        """Rows that differ in some layers more than rounding explains; what is left of the rows."""
        rest_NL = rest_NL.copy()
        for columns, run_N in column_runs(wrong_NL, rest_NL):
            moved_T = self._align(scene, columns, run_N, False)
            left_N = run_N & ~moved_T[scene.pair.here_N - scene.pair.sides.ours.start]
            for column in columns:
                self._keep(scene, np.array([column]), left_N)
            rest_NL[np.ix_(run_N, columns)] = False
        return rest_NL

    def _keep(self, scene: _Scene, columns: Ints, left_N: Bools) -> None:
        """Keep rows that are not moved until all samples are seen."""
        if not left_N.any():
            return
        pair = scene.pair
        positions = pair.here_N[left_N]
        wrong_NL, both_NL = pair.sides.compared(positions, columns)
        known, clear = self._margins_of(pair, positions, columns, wrong_NL)
        span = int(pair.here_N[0]), int(pair.here_N[-1]) + 1
        few, runs = tuple(int(c) for c in columns), tuple(runs_of(positions))
        counts = int(wrong_NL.sum()), int(both_NL.sum())
        scene.found.keep(KeptRuns(pair.index, pair.name, few, span, runs, counts, (known, clear)))

    def _align(self, scene: _Scene, columns: Ints, run_N: Bools, beyond: bool) -> Bools:
        """Align a sample's rows; name and count those that are moved, and mark them, [T]."""
        pair = scene.pair
        ours, theirs = pair.sides.ours.layers(columns), pair.sides.theirs.layers(columns)
        wrong_T = np.zeros(len(ours.ids_TLK), np.bool_)
        wrong_T[pair.here_N - ours.start] = run_N
        if beyond:
            wrong_T[max(theirs.stop - ours.start, 0) :] = True
        source_T = unplaced(ours, align(ours, theirs, wrong_T))
        order = None
        if any(e.code == "R714" for e in name_script(stretches_of(source_T, ours.start), 0, None)):
            order = known_order(source_T, ours.start, pair.tokens)
        if order is not None:
            source_T = order[1]
        return self._named(scene, columns, source_T, order, wrong_T)

    def _named(
        self,
        scene: _Scene,
        columns: Ints,
        source_T: Ints,
        order: tuple[str, Ints] | None,
        wrong_T: Bools,
    ) -> Bools:
        """Name and count rows that are of other positions, which are marked, [T].

        ``wrong_T`` marks the rows that are not where they should be.
        """
        pair, found = scene.pair, scene.found
        ours, theirs = pair.sides.ours.layers(columns), pair.sides.theirs.layers(columns)
        after_TL, both_TL = explained(ours, theirs, source_T)
        position_T = np.arange(len(source_T)) + ours.start
        before_TL, placed_TL = differing(ours, theirs, position_T, position_T)
        shift = 0
        if order is not None:
            moved = [s for s in stretches_of(source_T, ours.start) if s.lag]
            edits = [Edit("R708", order[0], {"order": order[0]}, tuple(moved))]
        else:
            marks, wrong = (after_TL, both_TL, before_TL, placed_TL), int(before_TL[wrong_T].sum())
            stretches = moved_stretches(source_T, ours.start, marks, wrong)
            edits, shift = edits_of(stretches, pair.extent)
            moved = [s for s in stretches if s.lag] if edits else []
        if edits:
            for code in _ALONE:
                scene.book.retract(code, pair.name)
        moved_T = _marked(moved, ours.start, len(source_T))
        found.explained += int(before_TL[moved_T].sum())
        if shift:  # what the edits undo are the rows counted from 0
            before_TL, _ = differing(ours, theirs, position_T, position_T - shift)
        for edit in edits:
            mask_T = _marked(edit.stretches, ours.start - shift, len(source_T))
            counts = (both_TL[mask_T].sum(), after_TL[mask_T].sum(), before_TL[mask_T].sum())
            note = BEGIN_AT_0 if shift else ""
            self._name(scene, edit, columns, [int(n) for n in counts], note)
        return moved_T

    def _name(self, scene: _Scene, edit: Edit, columns: Ints, counts: list[int], note: str) -> None:
        """One sample's part of a finding, and of an estimate; counts are rows, left, before."""
        pair, found = scene.pair, scene.found
        rows, left, before = counts
        part = len(columns) < len(self.layers)
        layers = [self.layers[c] for c in columns] if part else []
        place = Place(pair.name, edit.position, layers[0] if part else None, note)
        rows_wrong = before or rows
        if edit.code == "R003":  # the rows that were cut off, not those that stand in their places
            scene.book.retract("R003", pair.name)  # by their number alone
            size, place = cut_at(pair.name, pair.extent, edit)
            rows_wrong = size * len(self.dump.layers_L)
        scene.book.add(
            edit.code, place, rows=rows_wrong, layers=layers, detail=edit.detail, facts=edit.facts
        )
        found.edits += 1
        found.note(CheckEstimate(edit.code, edit.detail, rows, left, before))

    def _flips(self, pair: _Pair, wrong_NL: Bools, beside_L: Bools) -> KnownFlips:
        """The margins of a sample's marked rows, of those of some layers and of cached tokens."""
        columns, here_N = np.arange(len(self.layers)), pair.here_N
        cached = int((here_N < (pair.sample.cached_tokens or 0)).sum())
        known, clear = self._margins_of(pair, here_N, columns, wrong_NL)
        beside = self._margins_of(pair, here_N, columns, wrong_NL & beside_L)
        of_cached = self._margins_of(pair, here_N[:cached], columns, wrong_NL[:cached])
        row_N, _ = pair.sides.ours.rows_at(here_N[:cached])
        block = hashlib.blake2b(pair.sides.ours.ids_TLK[row_N].tobytes(), digest_size=7)
        return KnownFlips(known, clear, *beside, cached, *of_cached, int.from_bytes(block.digest()))

    def _margins_of(
        self, pair: _Pair, positions: Ints, columns: Ints, wrong_NL: Bools
    ) -> tuple[int, int]:
        """Of the marked rows, those with a margin and those whose margin is not small."""
        assert pair.sample.routes is not None
        both = zip((pair.reference, pair.sample.routes), self.columns[::-1], strict=True)
        known_sides = [(r, c) for r, c in both if r.margin_TL is not None]
        if not known_sides or not wrong_NL.any():
            return 0, 0
        routes, own = known_sides[0]
        margin_TL = routes.least_margin_TL
        assert margin_TL is not None
        here_NL = margin_TL[np.ix_(positions - routes.start, own[columns])]
        known = here_NL[wrong_NL].astype(np.float64)
        return int((~np.isnan(known)).sum()), int((known > self.eps).sum())

    def result(self, read: Read, found: ComparedSamples, ledger: Ledger) -> Explanation:
        """Judge what is pending, add the findings, and sum up; ``read`` gives samples again."""
        rows_L, wrong_L, book = found.rows_L, found.wrong_L, Book()
        rows, wrong = int(rows_L.sum()), int(wrong_L.sum())
        if self.by_ordinal and rows and wrong < rows / 2:
            numbers = f"{self.reference.layers_L[0]} to {self.reference.layers_L[-1]}"
            book.add(
                "R704",
                None,
                rows=rows,
                layers=self.layers,
                detail=f"the reference's layers {numbers} fit in their order",
            )
        maps: tuple[FoundMap, ...] = ()
        total, estimates = found.explained, dict(found.estimates.held)
        rest, in_place = found.rest + Rest.empty(self.layers, self.eps), 0
        if wrong:
            inputs = Inputs(
                read,
                self.other,
                self.partners_N,
                self.sides,
                self.columns[1],
                self.dump.num_experts,
                self.eps,
            )
            judge = Judge(inputs, self.layers, self.dump.num_experts, book)
            compared = np.setdiff1d(np.flatnonzero(self.partners_N >= 0), found.apart)
            where = Where(found.spans(), compared, found.tokens)
            in_place = judge.run([one.pending() for one in found.pending], where, rest)
            for estimate in judge.estimates:
                known = estimates.get(estimate.number)
                estimates[estimate.number] = estimate if known is None else known + estimate
            total += judge.explained
            maps = tuple(judge.maps)
        mostly = total > wrong / 2
        total += rest.judge(book, in_place > wrong / 2, mostly, beside=total > 0)
        ledger.take(book, found.indices())
        best = sorted(estimates.values(), key=lambda e: (e.mismatched - e.before, e.code, e.name))
        width = len(self.layers)
        return Explanation(
            rows,
            wrong,
            total,
            self.layers,
            tuple((rows_L + np.zeros(width, np.int64)).tolist()),
            tuple((wrong_L + np.zeros(width, np.int64)).tolist()),
            tuple(best),
            maps,
        )
