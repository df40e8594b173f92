"""Ids that stand for others: the map between a dump's ids and the reference's, by co-occurrence.

Whichever map there is, an expert and its image are in a row together always, any others by chance.
Shape suffixes: N rows, K top_k, E experts, P ids of the dump.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....kernels.check import hash_sets
from ....routes import Bools, Ids
from ..book.results import SHIFTED
from .side import MOST_IDS

__all__ = ["IdMap", "IdSizes", "fit_map", "map_name", "ruled"]

_NONE = -1
_CLEARLY = 0.5
_SELDOM = 0.02  # of the ids seen, that may be moved in a map that moves none
_POWERS = (128, 256, 65536)
_SLOTS = range(1, 257)
Map = NDArray[np.int64]


class IdSizes(NamedTuple):
    """num_ids is greater than every id that was written, num_experts E."""

    num_ids: int
    num_experts: int


@dataclass(frozen=True, slots=True, eq=False)
class IdMap:
    """A map of one layer: of the dump's ids where ``backward``, of the reference's else.

    to_P      int64, the image of each id; -1 where none was seen
    seen_P    int64, how often each id was seen
    backward  to_P[dump id] = reference id, so that the dump can be restored; else the other way
    """

    to_P: Map
    seen_P: Map
    backward: bool

    @property
    def is_identity(self) -> bool:
        """Whether ids stand for themselves, a few that are seldom seen aside."""
        moved_P = self.to_P != np.arange(len(self.to_P))
        return int(self.seen_P[moved_P].sum()) <= _SELDOM * int(self.seen_P.sum())

    def filled(self) -> Map:
        """The map with ids that were not seen: their own number where it is free, if one-to-one."""
        known = self.to_P[self.to_P >= 0]
        if len(np.unique(known)) < len(known) or known.max(initial=-1) >= len(self.to_P):
            return self.to_P
        found = self.to_P.copy()
        free = np.ones(len(found), np.bool_)
        free[known] = False
        for ours in np.flatnonzero(found < 0).tolist():
            found[ours] = ours if free[ours] else int(np.flatnonzero(free)[0])
            free[found[ours]] = False
        return found

    def differs(self, ours_NK: Ids, theirs_NK: Ids) -> Bools:
        """Rows that are not each other's once the map is applied."""
        source, target = (ours_NK, theirs_NK) if self.backward else (theirs_NK, ours_NK)
        known = np.where(source < len(self.to_P), source, 0)
        image = np.where(source < len(self.to_P), self.to_P[known], _NONE)
        ordered = np.sort(image, axis=1)
        other = np.sort(target.astype(np.int64), axis=1)
        return np.asarray((ordered != other).any(axis=1))


def _joint(ours_NK: Ids, theirs_NK: Ids, num_ours: int, num_theirs: int) -> Map:
    """In how many rows an id of ours and one of theirs are together, each once a row."""
    cells = ours_NK.astype(np.int64)[:, :, None] * num_theirs + theirs_NK[:, None, :]
    once = _once(ours_NK)[:, :, None] & _once(theirs_NK)[:, None, :]
    found = np.bincount(cells[once], minlength=num_ours * num_theirs)
    return found.reshape(num_ours, -1)


def _once(ids_NK: Ids) -> Bools:
    """The first place of each id in its row."""
    first = np.ones(ids_NK.shape, np.bool_)
    for k in range(1, ids_NK.shape[1]):
        first[:, k] = (ids_NK[:, k, None] != ids_NK[:, :k]).all(axis=1)
    return first


def _assigned(like_PE: NDArray[np.float64]) -> Map:
    """The pairs of greatest likeness, each id once; -1 for those that are left."""
    found = np.full(like_PE.shape[0], _NONE, np.int64)
    taken = np.zeros(like_PE.shape[1], np.bool_)
    rows, columns = np.unravel_index(np.argsort(-like_PE, axis=None, kind="stable"), like_PE.shape)
    left = int((like_PE.max(axis=1) > 0).sum())
    for ours, theirs in zip(rows.tolist(), columns.tolist(), strict=True):
        if not left or like_PE[ours, theirs] <= 0:
            break
        if found[ours] < 0 and not taken[theirs]:
            found[ours], taken[theirs] = theirs, True
            left -= 1
    return found


def _best(like_PE: NDArray[np.float64]) -> Map:
    """The image of greatest likeness of each id, several ids to one where it must be."""
    best = like_PE.argmax(axis=1)
    return np.where(like_PE.max(axis=1) > 0, best, _NONE)


def _candidates(ours_NK: Ids, theirs_NK: Ids, num_ids: int) -> list[IdMap]:
    joint_PE = _joint(ours_NK, theirs_NK, num_ids, num_ids)
    ours_P = np.bincount(ours_NK[_once(ours_NK)], minlength=num_ids)
    theirs_E = np.bincount(theirs_NK[_once(theirs_NK)], minlength=num_ids)
    either_PE = np.maximum(ours_P[:, None] + theirs_E[None, :] - joint_PE, 1)
    like_PE = joint_PE / either_PE
    # of an id with several images each is there in part; what it says beyond chance decides
    share_PE = joint_PE / np.maximum(ours_P[:, None], 1)
    share_EP = (joint_PE / np.maximum(theirs_E[None, :], 1)).T
    return [
        IdMap(_assigned(like_PE), ours_P, True),
        IdMap(_best(share_PE * (1 + 1e-3 * like_PE)), ours_P, True),
        IdMap(_best(share_EP * (1 + 1e-3 * like_PE.T)), theirs_E, False),
    ]


def _halves(ours_NK: Ids, theirs_NK: Ids, num_ids: int) -> Bools:
    """Which rows a map is made from, to be held against the others.

    Rows that are there again are in one half, so that what is the same in all samples (a system
    prompt's rows, filler) does not vouch for itself; with K = 1 each id is in both.
    """
    if ours_NK.shape[1] == 1:
        return np.asarray(np.arange(len(ours_NK)) % 2 == 0)
    sides = [
        hash_sets(np.ascontiguousarray(ids[:, None]), num_ids)[:, 0] for ids in (ours_NK, theirs_NK)
    ]
    kind_N = np.unique(sides[0] * np.uint64(0x9E3779B97F4A7C15) ^ sides[1], return_inverse=True)[1]
    return np.asarray(kind_N % 2 == 0)


def fit_map(
    ours_NK: Ids, theirs_NK: Ids, num_ids: int, num_experts: int = 0
) -> tuple[IdMap | None, float]:
    """The map that explains most rows, and the mismatch that one half's leaves in the other half.

    A one-to-one map is preferred to others that do not leave half of what it does. None where it
    leaves half of what it leaves of rows that are no pairs, or more: with few rows, or few experts
    that have most of the load, some map fits any two. A map is held against rows by its rule, which
    says of ids that were not seen, too (``num_experts``; 0: by itself).
    """
    if len(ours_NK) < 2 or num_ids > MOST_IDS:
        return None, 1.0
    half_N, left = _halves(ours_NK, theirs_NK, num_ids), 1.0
    for made_N in (half_N, ~half_N):
        if made_N.all() or not made_N.any():
            break
        best, left, chance = _tried((ours_NK, theirs_NK), made_N, num_ids, num_experts)
        if left < _CLEARLY * chance:
            return _candidates(ours_NK, theirs_NK, num_ids)[best], left
    return None, left


def _tried(
    sides: tuple[Ids, Ids], made_N: Bools, num_ids: int, num_experts: int
) -> tuple[int, float, float]:
    """Which candidate of the marked rows explains most of the others, and what it leaves of them;
    the same of each of these beside another one's row.
    """
    ours, theirs = (ids[~made_N] for ids in sides)
    trials = _candidates(sides[0][made_N], sides[1][made_N], num_ids)
    trials = [ruled(one, num_experts) for one in trials] if num_experts else trials
    left = [float(t.differs(ours, theirs).mean()) for t in trials]
    best = int(np.argmin(left))
    if left[best] > _CLEARLY * left[0] - _SELDOM:
        best = 0
    turned = np.roll(theirs, len(theirs) // 2, axis=0)
    return best, left[best], float(trials[best].differs(ours, turned).mean())


def map_name(found: IdMap, num_experts: int) -> str:
    """What a map is: the name of a rule that it follows, else what kind of map."""
    rule = _rule(found, num_experts)
    if rule is not None:
        return rule[0]
    seen = np.flatnonzero(found.to_P >= 0)
    image = found.to_P[seen]
    if not len(seen):
        return "no map"
    if found.backward:
        several = len(np.unique(image)) < len(image)
        return "several ids for one expert: replicas" if several else "renumbered"
    return _many_to_one(seen, image)


def ruled(found: IdMap, num_experts: int) -> IdMap:
    """The map by the rule that it follows, for ids that were not seen too; itself without one.

    Ids that are there and that the rule gives to no expert keep the expert that was found.
    """
    rule = _rule(found, num_experts)
    if rule is None:
        return found
    image_E = rule[1]
    size = max(len(found.to_P), int(image_E.max()) + 1)
    seen_P = np.zeros(size, np.int64)
    seen_P[: len(found.seen_P)] = found.seen_P
    if len(np.unique(image_E)) < len(image_E):
        to_P = np.full(size, _NONE, np.int64)
        to_P[: len(image_E)] = image_E
        return IdMap(to_P, seen_P, False)
    to_P = np.full(size, _NONE, np.int64)
    if found.backward:
        there = np.flatnonzero(found.seen_P > 0)
        to_P[there] = found.to_P[there]
    to_P[image_E] = np.arange(len(image_E))
    return IdMap(to_P, seen_P, True)


def _rule(found: IdMap, num_experts: int) -> tuple[str, Map] | None:
    """The rule that all but a few rows' ids follow, and the dump's id of each expert by it."""
    known = np.flatnonzero((found.to_P >= 0) & (found.seen_P > 0))
    weight = found.seen_P[known]
    experts, ids = (found.to_P[known], known) if found.backward else (known, found.to_P[known])
    inside = experts < num_experts
    experts, ids, weight = experts[inside], ids[inside], weight[inside]
    if not len(experts) or (ids == experts).all():
        return None
    shift, beyond = int((ids - experts)[weight.argmax()]), len(found.to_P) > num_experts
    for name, image_E in _rules(num_experts, shift, beyond):
        moved = image_E != np.arange(num_experts)
        if not moved.any():
            continue
        follows = image_E[experts] == ids
        some = moved[experts]
        if weight[follows].sum() >= (1 - _SELDOM) * weight.sum() and follows[some].any():
            return name, image_E
    return None


def _rules(num_experts: int, shift: int, beyond: bool) -> Iterator[tuple[str, Map]]:
    """(name, the dump's id of each expert) of every rule that has a name.

    ``beyond`` says that there are ids from E on; without them a shift goes around the end.
    """
    every = np.arange(num_experts)
    for power in _POWERS:
        yield f"modulo {power}", every % power
        yield f"modulo {power}, signed", (every + power // 2) % power - power // 2
    if shift > 0 and beyond:
        yield f"{SHIFTED} {shift:+d}", every + shift
    around = (shift + num_experts // 2) % num_experts - num_experts // 2
    yield f"{SHIFTED} {around:+d}", (every + around) % num_experts
    for group in _SLOTS:
        yield f"a slot more after every {group} experts: e + e // {group}", every + every // group


def _many_to_one(seen: Map, image: Map) -> str:
    """What a map of several experts to one id is."""
    values, counts = np.unique(image, return_counts=True)
    filler = int(values[counts.argmax()])
    kept = np.flatnonzero(image != filler)
    if len(kept) and len(np.unique(seen[kept] - image[kept])) == 1:
        low, high = int(seen[kept].min()), int(seen[kept].max())
        return f"ids {low} to {high} alone, one rank's; the others are {filler}"
    return "several experts under one id"
