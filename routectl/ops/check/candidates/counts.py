"""The rows of a dump laid against the routes of several candidates at once, sample by sample.

A sample whose version changed is counted in parts, one a version that the dump names. Shape
suffixes: T tokens, L compared layers, C candidates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....dump import Dump, Sample
from ....errors import FormatError, MismatchError
from ....margins import EPS
from ....routes import Bools
from ...pairs.align import Aligner, Pair, common_layers, name_of
from ...pairs.join import join_keys
from ...staleness.attribution import Attributor, BoundaryRule

__all__ = ["Lacking", "PartCounts", "count_parts"]

Ints = NDArray[np.int64]
_OF_ITS_OWN = ("first", "switched")  # groups of rows that are surely of the version that is named


@dataclass(frozen=True, slots=True, eq=False)
class PartCounts:
    """The rows of a sample that one version is said to have made, against every candidate.

    said       the version that the dump names, or None
    rows       that the sample and every candidate have; tokens that have some
    wrong_C    of these rows those whose sets differ from the candidate's
    clear_C    of these those by more than eps, the margin of the sides that have one;
    margin_C   how many of them have a margin
    first_C    clear ones of the first layer; first, the rows of it
    lead_CC    over tokens, the sum of d: how many layers more candidate b gets wrong than a
    spread_CC  the sum of d²
    """

    index: int
    sample: str
    said: str | None
    tokens: int
    rows: int
    wrong_C: Ints
    clear_C: Ints
    margin_C: Ints
    first: int
    first_C: Ints
    lead_CC: Ints
    spread_CC: Ints


@dataclass(frozen=True, slots=True)
class Lacking:
    """A sample that is not counted, since these candidates have no routes of it."""

    index: int
    sample: str
    names: tuple[str, ...]


class _Candidate:
    """A candidate's routes, and where those of a sample of the dump are."""

    def __init__(self, dump: Dump, name: str, routes: Dump) -> None:
        try:
            layers = common_layers(dump.meta, routes.meta, None)
            pairs = join_keys(dump.keys, routes.keys).pairs
        except MismatchError as error:
            raise MismatchError(f"candidate {name}: {error}", hint=error.hint) from None
        self.layers, self.routes = layers[0], routes
        self.aligner = Aligner(dump.meta, routes.meta, layers, "all", by_prompt=False)
        self.partner = dict(zip(pairs.old_P.tolist(), pairs.new_P.tolist(), strict=True))

    def laid(self, index: int, sample: Sample) -> "_Laid | None":
        """The sample beside the candidate's; None where one has no routes."""
        partner = self.partner.get(index)
        other = None if partner is None else self.routes[partner]
        if other is None or other.routes is None:
            return None
        pair = self.aligner.pair(sample, other, name_of(sample, index))
        ours, theirs = (np.sort(ids, axis=2) for ids in (pair.old_TLK, pair.new_TLK))
        both_TL = np.ones(ours.shape[:2], np.bool_) if pair.skip_TL is None else ~pair.skip_TL
        return _Laid(pair.position, (ours != theirs).any(axis=2), both_TL, _margins(pair))


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """Rows from a position on, [T, L]: those that differ, those of both, and margins or NaN."""

    first: int
    wrong_TL: Bools
    both_TL: Bools
    margin_TL: NDArray[np.float32]

    def part(self, rows: slice | Bools) -> "_Laid":
        """Some of its rows."""
        cut = self.wrong_TL[rows], self.both_TL[rows], self.margin_TL[rows]
        return _Laid(self.first, *cut)


def _margins(pair: Pair) -> NDArray[np.float32]:
    """The smaller margin of the sides that know one."""
    found = np.full(pair.old_TLK.shape[:2], np.nan, np.float32)
    for margin_TL in (pair.old_margin_TL, pair.new_margin_TL):
        if margin_TL is not None:
            found = np.fmin(found, margin_TL)
    return found


def count_parts(
    dump: Dump, candidates: Mapping[str, Dump], eps: float = EPS
) -> Iterator[PartCounts | Lacking]:
    """Count the samples of a dump, in order, part by part; those without routes are left out.

    One that a candidate has no routes of is told as lacking.

    ``candidates`` are the routes of each for the dump's tokens, by name. A mismatched row with a
    margin above ``eps`` is a clear flip. Raises MismatchError for routes of another shape, of other
    layers than those of another candidate, or of no sample.
    """
    sides = [_Candidate(dump, name, routes) for name, routes in candidates.items()]
    for name, side in zip(candidates, sides, strict=True):
        if side.layers != sides[0].layers:
            raise MismatchError(
                f"candidate {name} has other MoE layers than {next(iter(candidates))}"
            )
    exact = BoundaryRule.of(dump.meta.engine).exact
    for index in range(len(dump)):
        try:
            sample = dump[index]
        except FormatError:
            continue  # a finding of its own
        if sample.routes is None:
            continue
        found = [side.laid(index, sample) for side in sides]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            names = [name for name, one in zip(candidates, found, strict=True) if one is None]
            yield Lacking(index, name_of(sample, index), tuple(names))
            continue
        laid = _common(known)
        for said, own_T in _parts(sample, laid[0].first, len(laid[0].both_TL), exact):
            if laid[0].both_TL[own_T].any():
                told = index, name_of(sample, index), said
                yield _counted(told, [one.part(own_T) for one in laid], eps)


def _common(known: list[_Laid]) -> list[_Laid]:
    """The rows that a sample and every candidate have."""
    first = max(one.first for one in known)
    stop = min(one.first + len(one.both_TL) for one in known)
    cut = [one.part(slice(first - one.first, max(stop - one.first, 0))) for one in known]
    both_TL = cut[0].both_TL.copy()
    for one in cut:
        both_TL &= one.both_TL
    return [_Laid(first, one.wrong_TL & both_TL, both_TL, one.margin_TL) for one in cut]


def _parts(
    sample: Sample, first: int, size: int, exact: bool
) -> Iterator[tuple[str | None, Bools]]:
    """The versions that the dump names, and the rows from a position on that each surely made."""
    names = tuple(dict.fromkeys(span.version for span in sample.weight_spans))
    if len(names) < 2:
        yield (names[0] if names else None), np.ones(size, np.bool_)
        return
    labels = Attributor(names, {}, None, exact).labels(sample)
    assert labels is not None  # it has routes
    routes = sample.routes
    assert routes is not None
    skip = first - routes.start
    for code, name in enumerate(names):
        own = labels.rows_of(sample, code, _OF_ITS_OWN).routes
        assert own is not None
        there_TL: Bools = np.ones(own.ids_TLK.shape[:2], np.bool_)
        if own.missing_TL is not None:
            there_TL = ~own.missing_TL
        there_T: Bools = there_TL[skip : skip + size].max(axis=1)
        yield name, there_T


def _counted(told: tuple[int, str, str | None], laid: list[_Laid], eps: float) -> PartCounts:
    both_TL = laid[0].both_TL
    wrong_CTL = np.stack([one.wrong_TL for one in laid])
    margin_CTL = np.stack([one.margin_TL for one in laid])
    clear_CTL = wrong_CTL & (margin_CTL > eps)
    wrong_CT = wrong_CTL.sum(axis=2, dtype=np.int64)
    differences = wrong_CT[None, :, :] - wrong_CT[:, None, :]  # [a, b]: b's less a's
    return PartCounts(
        *told,
        tokens=int(both_TL.any(axis=1).sum()),
        rows=int(both_TL.sum()),
        wrong_C=wrong_CT.sum(axis=1),
        clear_C=clear_CTL.sum(axis=(1, 2)),
        margin_C=(wrong_CTL & ~np.isnan(margin_CTL)).sum(axis=(1, 2)),
        first=int(both_TL[:, 0].sum()),
        first_C=clear_CTL[:, :, 0].sum(axis=1),
        lead_CC=differences.sum(axis=2),
        spread_CC=np.square(differences).sum(axis=2),
    )
