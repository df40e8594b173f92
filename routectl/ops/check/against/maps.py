"""Ids that stand for others: the map between a dump's ids and the reference's, by co-occurrence.

Whichever map there is, an expert and its image are in a row together always, any others by chance.
Shape suffixes: N rows, K top_k, E experts, P ids of the dump.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....routes import Bools, Ids
from .side import MOST_IDS

__all__ = ["IdMap", "fit_map", "map_name"]

_NONE = -1
_CLEARLY = 0.5
_SELDOM = 0.02  # of the ids seen, that may be moved in a map that moves none
_POWERS = (128, 256, 65536)
_SLOTS = range(1, 257)
Map = NDArray[np.int64]


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


def fit_map(ours_NK: Ids, theirs_NK: Ids, num_ids: int) -> tuple[IdMap | None, float]:
    """The map that explains most rows, and the mismatch that one half's leaves in the other half.

    A one-to-one map is preferred to others that do not leave half of what it does.
    """
    if len(ours_NK) < 2 or num_ids > MOST_IDS:
        return None, 1.0
    trials = _candidates(ours_NK[::2], theirs_NK[::2], num_ids)
    left = [float(t.differs(ours_NK[1::2], theirs_NK[1::2]).mean()) for t in trials]
    best = int(np.argmin(left))
    if left[best] > _CLEARLY * left[0] - _SELDOM:
        best = 0
    return _candidates(ours_NK, theirs_NK, num_ids)[best], left[best]


def map_name(found: IdMap, num_experts: int) -> str:
    """What a map is: the name of a rule that all of it follows, else what kind of map."""
    seen = np.flatnonzero(found.to_P >= 0)
    image = found.to_P[seen]
    if not len(seen):
        return "no map"
    if found.backward:
        seen, image = image, seen  # of the reference's id, the dump's
    if len(np.unique(seen)) < len(seen):
        return "several ids for one expert: replicas"
    moved = image - seen
    if len(np.unique(image)) < len(image):
        return _many_to_one(seen, image, num_experts)
    for group in _SLOTS:
        if (image == seen + seen // group).all() and moved.any():
            return f"a slot more after every {group} experts: e + e // {group}"
    if len(np.unique(moved)) == 1 and moved[0]:
        return f"every id {int(moved[0]):+d}"
    return "renumbered"


def _many_to_one(seen: Map, image: Map, num_experts: int) -> str:
    for power in _POWERS:
        if (image == seen % power).all():
            return f"modulo {power}"
        signed = (seen + power // 2) % power - power // 2
        if (image == signed).all():
            return f"modulo {power}, signed"
    values, counts = np.unique(image, return_counts=True)
    filler = int(values[counts.argmax()])
    kept = np.flatnonzero(image != filler)
    if len(kept) and len(np.unique(seen[kept] - image[kept])) == 1:
        low, high = int(seen[kept].min()), int(seen[kept].max())
        return f"ids {low} to {high} alone, one rank's; the others are {filler}"
    return "several experts under one id"
