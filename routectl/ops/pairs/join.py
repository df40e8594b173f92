"""Which samples of two dumps are the same sequence, and at which positions they can be compared.

Keys are joined in columns, by sorting numbers: ten million samples cost bytes, not objects.
Shape suffixes: S samples of a side, B samples of both sides, C codes, P pairs, W words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...columns.stored_keys import StoredKeys, in_columns
from ...dump import Keys, SampleKey
from ...errors import MismatchError, unknown
from ...kernels.digests import hashing_of
from ...keys import Digests

__all__ = ["MATCHES", "Join", "Pairs", "join_keys", "read_once", "repeated_ids"]

MATCHES = ("auto", "id", "tokens", "prefix", "order")
Ints = NDArray[np.int64]
Codes = NDArray[np.signedinteger]
_SORTED = 1 << 20  # digests that are sorted at a time, about
_UNKNOWN = -1  # the code of a key that is not there


@dataclass(frozen=True, slots=True, eq=False)
class Pairs(Sequence[tuple[int, int]]):
    """Pairs of indices (old, new), in the order of old; int32 [P] each, int64 of 2**31 and more."""

    old_P: Codes
    new_P: Codes

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


@dataclass(frozen=True, slots=True, eq=False)
class Join:
    """Pairs of indices (old, new), in the order of old, and the indices left without a partner.

    only_old and only_new are int64, ascending. by counts the pairs per rule; conflicts counts ids
    that are on both sides with other token ids. by_id_P, bool [P], are the pairs that have one id;
    None where there is one rule.
    """

    pairs: Pairs
    only_old: Ints
    only_new: Ints
    by: dict[str, int]
    conflicts: int = 0
    by_id_P: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class _Codes:
    """A field of the keys of both sides as numbers below ``num``, equal where the field is."""

    old_S: Codes
    new_S: Codes
    num: int

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
        return _Codes(old_S, new_S, self.num)


def _codes(old: Keys | StoredKeys, new: Keys | StoredKeys, of: str) -> _Codes:
    """A field of SampleKey as codes; digests are sorted a part of them at a time."""
    size = len(old) + len(new)
    hashing = hashing_of(size)
    (old_SW, known_old), (new_SW, known_new) = (keys.digests(of, hashing) for keys in (old, new))
    parts = 1 << max(size // _SORTED, 1).bit_length() - 1
    codes_B = np.full(size, _UNKNOWN, _dtype(size))
    part_B = np.full(size, parts, np.min_scalar_type(parts))  # those that are not known: of no part
    for part_S, words_SW, known_S in (
        (part_B[: len(old)], old_SW, known_old),
        (part_B[len(old) :], new_SW, known_new),
    ):
        part_S[known_S] = _part_of(words_SW, parts)[known_S]
    num = 0
    for part in range(parts):
        places = np.flatnonzero(part_B == part)
        cut = int(np.searchsorted(places, len(old)))
        words_BW = np.concatenate([old_SW[places[:cut]], new_SW[places[cut:] - len(old)]])
        order_B, begins_B = _sorted(words_BW)
        numbers_B = np.cumsum(begins_B)
        codes_B[places[order_B]] = num + numbers_B - 1
        num += int(numbers_B[-1:].sum())
    return _Codes(codes_B[: len(old)], codes_B[len(old) :], num)


def _mixed(words_SW: Digests) -> NDArray[np.uint64]:
    """A hash of each digest, even where digests are short texts: Knuth, volume 3, 6.4."""
    found_S = (words_SW[:, 0] ^ (words_SW[:, 1] << np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
    found_S ^= found_S >> np.uint64(32)
    found_S *= np.uint64(0x9E3779B97F4A7C15)
    return found_S


def _part_of(words_SW: Digests, parts: int) -> NDArray[np.uint16]:
    """One of so many parts, a power of two, for each digest; by other bits than are sorted."""
    found_S = np.empty(len(words_SW), np.uint16)
    for first in range(0, len(words_SW), _SORTED):
        hashed_S = _mixed(words_SW[first : first + _SORTED]) >> np.uint64(24)
        found_S[first : first + _SORTED] = hashed_S & np.uint64(parts - 1)
    return found_S


def _dtype(size: int) -> type[np.signedinteger]:
    """What numbers so many things, and -1."""
    return np.int32 if size < 1 << 31 else np.int64


def _sorted(words_BW: Digests) -> tuple[Ints, NDArray[np.bool_]]:
    """The places of digests in order, equal ones as they come, and where another one begins.

    Leading bits of a hash and the place are sorted as one number; the few digests that share these
    bits with another are then ordered by all of their bits.
    """
    size = len(words_BW)
    mask = np.uint64((1 << size.bit_length()) - 1)
    packed_B = (_mixed(words_BW) & ~mask) | np.arange(size, dtype=np.uint64)
    packed_B.sort()
    order_B = (packed_B & mask).astype(np.int64)
    leading_B = packed_B & ~mask
    words_BW = words_BW[order_B]
    begins_B, other_B = _begins(leading_B[:, None]), _begins(words_BW)
    if (begins_B != other_B).any():
        run_B = np.cumsum(begins_B)
        mixed = np.flatnonzero(np.isin(run_B, run_B[begins_B != other_B]))
        again = mixed[np.lexsort((order_B[mixed], *words_BW[mixed].T, run_B[mixed]))]
        order_B[mixed], words_BW[mixed] = order_B[again], words_BW[again]
        other_B = _begins(words_BW)
    return order_B, other_B


def _begins(words_BW: Digests) -> NDArray[np.bool_]:
    """Where rows are other than the row before."""
    found = np.ones(len(words_BW), np.bool_)
    found[1:] = (words_BW[1:] != words_BW[:-1]).any(axis=1)
    return found


def _paired(partner_S: Codes) -> Pairs:
    """Pairs of each sample of OLD and its partner; -1: none."""
    old_P = np.flatnonzero(partner_S >= 0).astype(partner_S.dtype)
    return Pairs(old_P, partner_S[old_P])


def _once(codes_S: Codes, num: int) -> Codes:
    """Where a code is that is there once, [C]; -1 for others."""
    dtype = _dtype(len(codes_S))
    places = np.flatnonzero(codes_S != _UNKNOWN).astype(dtype)
    first_C, last_C = np.full(num, -1, dtype), np.full(num, -1, dtype)
    last_C[codes_S[places]] = places  # of an index that is there twice, the last is assigned
    first_C[codes_S[places[::-1]]] = places[::-1]
    last_C[first_C != last_C] = -1
    return last_C


def _by_id(ids: _Codes) -> Pairs:
    """Pairs with one id, where that id is there once on each side."""
    old_C, new_C = _once(ids.old_S, ids.num), _once(ids.new_S, ids.num)
    both = (old_C >= 0) & (new_C >= 0)
    partner_S = np.full(len(ids.old_S), -1, ids.old_S.dtype)
    partner_S[old_C[both]] = new_C[both]
    return _paired(partner_S)


def _ordered(codes_S: Codes, num: int) -> tuple[Ints, Ints, Ints]:
    """Places by code, equal ones ascending; how many are of each code, and where they begin."""
    places = np.flatnonzero(codes_S != _UNKNOWN)
    order = places[np.argsort(codes_S[places], kind="stable")]
    count_C = np.bincount(codes_S[places], minlength=num)
    return order, count_C, np.cumsum(count_C) - count_C


def _by_digest(digests: _Codes) -> Pairs:
    """Pairs with one digest, repeats matched in order."""
    old, _, old_begin_C = _ordered(digests.old_S, digests.num)
    new, new_count_C, new_begin_C = _ordered(digests.new_S, digests.num)
    codes = digests.old_S[old]
    nth = np.arange(len(old)) - old_begin_C[codes]
    met = nth < new_count_C[codes]
    partner_S = np.full(len(digests.old_S), -1, digests.old_S.dtype)
    partner_S[old[met]] = new[new_begin_C[codes[met]] + nth[met]]
    return _paired(partner_S)


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
    if not len(one) or not len(other):
        return one if len(one) else other
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
        raise unknown("match", match, MATCHES, ValueError)
    old, new = in_columns(old), in_columns(new)
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
            by_id_P = np.zeros(len(pairs), np.bool_)
            by_id_P[np.searchsorted(pairs.old_P, ids.old_P)] = True
    elif match == "order":
        size = min(len(old), len(new))
        both = np.arange(size, dtype=_dtype(size))
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
        np.flatnonzero(left_old),
        np.flatnonzero(left_new),
        {rule: count for rule, count in by.items() if count},
        left,
        by_id_P,
    )


def _nothing(old: Keys | StoredKeys, new: Keys | StoredKeys, match: str) -> MismatchError:
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


def read_once(keys: Sequence[SampleKey]) -> Keys | StoredKeys:
    """The same keys, to be joined several times: each column of them is read once."""
    held = in_columns(keys)
    return held.holding() if isinstance(held, StoredKeys) else held


def repeated_ids(keys: Sequence[SampleKey]) -> NDArray[np.bool_]:
    """Which samples have an id that one before them has, bool [S]."""
    held = in_columns(keys)
    ids = _codes(held, Keys(), "sample_id")
    places = np.flatnonzero(ids.old_S != _UNKNOWN)
    first_C = np.zeros(ids.num, np.int64)
    first_C[ids.old_S[places[::-1]]] = places[::-1]  # of an index twice, the last is assigned
    found_S = np.zeros(len(held), np.bool_)
    found_S[places] = first_C[ids.old_S[places]] != places
    return found_S
