"""Which samples of two dumps are the same sequence, and at which positions they can be compared.

Digests are joined in columns, so that a million samples cost bytes, not objects.
Shape suffixes: S samples of a side, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...dump import Keys, SampleKey
from ...errors import MismatchError

__all__ = ["MATCHES", "Join", "Pairs", "join_keys"]

MATCHES = ("auto", "id", "tokens", "prefix", "order")
Ints = NDArray[np.int64]
_UNKNOWN = -1  # the code of a key that is not there


@dataclass(frozen=True, slots=True, eq=False)
class Pairs(Sequence[tuple[int, int]]):
    """Pairs of indices (old, new), in the order of old; int64 [P] each."""

    old_P: Ints
    new_P: Ints

    def __len__(self) -> int:
        return len(self.old_P)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "tuple[int, int] | Pairs":
        if isinstance(index, slice):
            return Pairs(self.old_P[index], self.new_P[index])
        return int(self.old_P[index]), int(self.new_P[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def where(self, chosen: NDArray[np.bool_]) -> "Pairs":
        """Those that are chosen, bool [P]."""
        return Pairs(self.old_P[chosen], self.new_P[chosen])


@dataclass(frozen=True, slots=True)
class Join:
    """Pairs of indices (old, new), in the order of old, and the indices left without a partner.

    by counts the pairs per rule; conflicts counts ids that are on both sides with other token ids.
    by_id_P, bool [P], are the pairs that have one id; None where there is one rule.
    """

    pairs: Pairs
    only_old: tuple[int, ...]
    only_new: tuple[int, ...]
    by: dict[str, int]
    conflicts: int = 0
    by_id_P: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class _Codes:
    """A field of the keys of both sides as numbers, equal where the field is."""

    old_S: Ints
    new_S: Ints

    def agree(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Where both sides of a pair have the same, or one is not known."""
        old, new = self.old_S[pairs.old_P], self.new_S[pairs.new_P]
        same: NDArray[np.bool_] = (old == new) | (old == _UNKNOWN) | (new == _UNKNOWN)
        return same

    def without(self, pairs: Pairs) -> "_Codes":
        """The same, those of samples that are paired not known."""
        old_S, new_S = self.old_S.copy(), self.new_S.copy()
        old_S[pairs.old_P] = _UNKNOWN
        new_S[pairs.new_P] = _UNKNOWN
        return _Codes(old_S, new_S)


def _codes(old: Keys, new: Keys, of: str) -> _Codes:
    """A field of SampleKey as codes."""
    sides = [keys.digests(of) for keys in (old, new)]
    _, codes = np.unique(np.concatenate([digests for digests, _ in sides]), return_inverse=True)
    codes[~np.concatenate([known for _, known in sides])] = _UNKNOWN
    return _Codes(codes[: len(old)], codes[len(old) :])


def _once(codes_S: Ints) -> tuple[Ints, Ints]:
    """The codes that are there once, ascending, and where."""
    codes, places, counts = np.unique(codes_S, return_index=True, return_counts=True)
    only = (counts == 1) & (codes != _UNKNOWN)
    return codes[only], places[only]


def _pairs(old: tuple[Ints, Ints], new: tuple[Ints, Ints]) -> Pairs:
    """Pairs of what both sides have, of (distinct values, their places)."""
    _, i, j = np.intersect1d(old[0], new[0], assume_unique=True, return_indices=True)
    first, second = old[1][i], new[1][j]
    order = np.argsort(first)
    return Pairs(first[order], second[order])


def _by_id(ids: _Codes) -> Pairs:
    """Pairs with one id, where that id is there once on each side."""
    return _pairs(_once(ids.old_S), _once(ids.new_S))


def _numbered(codes_S: Ints, stride: int) -> tuple[Ints, Ints]:
    """Known codes, the n-th of equal ones made code x stride + n, and their places."""
    places = np.argsort(codes_S, kind="stable")
    codes = codes_S[places]
    nth = np.arange(len(codes)) - np.searchsorted(codes, codes, side="left")
    known = codes != _UNKNOWN
    return (codes * stride + nth)[known], places[known]


def _by_digest(digests: _Codes) -> Pairs:
    """Pairs with one digest, repeats matched in order."""
    stride = max(len(digests.old_S), len(digests.new_S), 1)
    return _pairs(_numbered(digests.old_S, stride), _numbered(digests.new_S, stride))


def _checked(pairs: Pairs, tokens: _Codes, how: str) -> None:
    """Refuse pairs whose token ids differ: their rows are of other tokens."""
    bad = pairs.where(~tokens.agree(pairs))
    if len(bad):
        i, j = bad[0]
        raise MismatchError(
            f"{len(bad)} of {len(pairs)} samples matched by {how} have other token ids on the two "
            f"sides, first: OLD sample {i} and NEW sample {j}",
            hint="--match prefix compares the positions before the tokens part",
        )


def _together(one: Pairs, other: Pairs) -> Pairs:
    old_P = np.concatenate([one.old_P, other.old_P])
    order = np.argsort(old_P)
    return Pairs(old_P[order], np.concatenate([one.new_P, other.new_P])[order])


def join_keys(old: Sequence[SampleKey], new: Sequence[SampleKey], match: str = "auto") -> Join:
    """Join the samples of two dumps.

    auto    by sample id where the token ids agree (or are not known), the rest by token ids
    id      by sample id; other token ids are an error
    tokens  by equal token ids, repeats in order
    prefix  by equal prompts, repeats in order; the caller compares positions up to where the
            tokens part (a row depends on the tokens up to its own only)
    order   first with first, and so on; other token ids are an error

    Raises MismatchError when no pair is found or a rule is broken, ValueError for another rule.
    """
    if match not in MATCHES:
        raise ValueError(f"match must be one of {MATCHES}, got {match!r}")
    old, new = (keys if isinstance(keys, Keys) else Keys(keys) for keys in (old, new))
    by: dict[str, int] = {}
    tokens, conflicts, by_id_P = _codes(old, new, "tokens"), None, None
    if match in ("auto", "id"):
        pairs = _by_id(_codes(old, new, "sample_id"))
        if match == "id":
            _checked(pairs, tokens, "id")
        same = tokens.agree(pairs)
        pairs, conflicts = pairs.where(same), pairs.where(~same)
        by["id"] = len(pairs)
        if match == "auto":
            more = _by_digest(tokens.without(pairs))
            by["tokens"] = len(more)
            ids, pairs = pairs, _together(pairs, more)
            by_id_P = np.isin(pairs.old_P, ids.old_P, assume_unique=True)
    elif match == "order":
        both = np.arange(min(len(old), len(new)))
        pairs = Pairs(both, both)
        _checked(pairs, tokens, "order")
    else:
        pairs = _by_digest(_codes(old, new, "prompt") if match == "prefix" else tokens)
    if conflicts is None:
        by[match] = len(pairs)
    if not len(pairs):
        raise _nothing(old, new, match)
    left_old, left_new = np.ones(len(old), np.bool_), np.ones(len(new), np.bool_)
    left_old[pairs.old_P] = left_new[pairs.new_P] = False
    left = 0
    if conflicts is not None:
        left = int((left_old[conflicts.old_P] | left_new[conflicts.new_P]).sum())
    return Join(
        pairs,
        tuple(np.flatnonzero(left_old).tolist()),
        tuple(np.flatnonzero(left_new).tolist()),
        {rule: count for rule, count in by.items() if count},
        left,
        by_id_P,
    )


def _nothing(old: Keys, new: Keys, match: str) -> MismatchError:
    """Say why no two samples belong together, and which rule might find pairs."""
    prompts, tokens = _codes(old, new, "prompt"), _codes(old, new, "tokens")
    shared = np.setdiff1d(np.intersect1d(prompts.old_S, prompts.new_S), [_UNKNOWN])
    rule = {"auto": "id or token ids", "prefix": "prompt"}.get(match, match)
    known = not any((side == _UNKNOWN).any() for side in (tokens.old_S, tokens.new_S))
    hint = None
    if len(shared) and match != "prefix":
        hint = f"{len(shared)} prompts are on both sides: --match prefix"
    elif not known and match != "order":
        hint = "not every sample has token ids: --match order pairs first with first"
    return MismatchError(
        f"nothing to compare: none of {len(old)} samples of OLD and {len(new)} of NEW match by "
        f"{rule}",
        hint=hint,
    )
