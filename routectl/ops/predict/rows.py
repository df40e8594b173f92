"""Which rows a predictor is fitted on, chosen by, and judged on: none is of two kinds.

In a causal model a token's hidden state follows from the tokens up to it, so rows with equal
prefixes are one row seen again: each counts once, and never on two sides. Shape suffixes: T tokens
of all sequences end to end, S sequences.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError
from ...routes import Bools

__all__ = [
    "Digests",
    "RowSplit",
    "count_sequences",
    "prefix_digests",
    "split_rows",
    "unseen_rows",
]

Digests = NDArray[np.int64]
PLACES = 5  # of the sequences, in the order of their digests: one held out, one chooses the ridge


@dataclass(frozen=True, slots=True, eq=False)
class RowSplit:
    """Rows to fit on, rows by which the ridge is chosen, rows held out; bool [T], disjoint."""

    fit_T: Bools
    choose_T: Bools
    held_T: Bools


def prefix_digests(token_ids_T: NDArray[np.int32], lens: Sequence[int]) -> Digests:
    """BLAKE2b-64 of each token's prefix, itself included, as int64 [T]; ids as little-endian int32.

    Raises MismatchError when the lengths do not cut the tokens.
    """
    if sum(lens) != len(token_ids_T):
        raise MismatchError(f"got {sum(lens)} tokens in sequences, expected {len(token_ids_T)}")
    found: list[bytes] = []
    begin = 0
    for length in lens:
        running = hashlib.blake2b(digest_size=8)
        for token in token_ids_T[begin : begin + length].astype("<i4"):
            running.update(token.tobytes())
            found.append(running.digest())
        begin += length
    return np.frombuffer(b"".join(found), "<i8").astype(np.int64)


def count_sequences(rows_T: Bools, lens: Sequence[int]) -> int:
    """Sequences of which there is a row."""
    return len(np.unique(np.repeat(np.arange(len(lens)), lens)[rows_T]))


def split_rows(prefixes_T: Digests, lens: Sequence[int]) -> RowSplit:
    """Sequences in the order of their digests: of each five, one held out and one for the ridge.

    A row whose prefix is there before, in the order fit, choose, held out, is left out.
    Raises MismatchError when a kind has no row: there are fewer than three sequences, or they are
    the same.
    """
    ends_S = np.cumsum(lens) - 1
    place_S = np.empty(len(lens), np.int64)
    place_S[np.argsort(prefixes_T[ends_S], kind="stable")] = np.arange(len(lens)) % PLACES
    # the first three are held out, choose, fit: three sequences have one of each kind
    kind_T = np.repeat(np.where(place_S == 0, 2, np.where(place_S == 1, 1, 0)), lens)
    order_T = np.argsort(kind_T, kind="stable")
    _, first = np.unique(prefixes_T[order_T], return_index=True)
    once_T = np.zeros(len(prefixes_T), np.bool_)
    once_T[order_T[first]] = True
    parts = [(kind_T == kind) & once_T for kind in range(3)]
    if not all(part_T.any() for part_T in parts):
        raise MismatchError(
            f"router inputs: nothing to hold out: got {len(lens)} sequences, expected three or "
            "more different ones (to fit on, to choose the ridge, to judge)"
        )
    return RowSplit(*parts)


def unseen_rows(prefixes_T: Digests, fitted: Digests) -> Bools:
    """True where a row's prefix was not fitted on, at its first occurrence. Raises MismatchError
    when there is none.
    """
    unseen_T = np.zeros(len(prefixes_T), np.bool_)
    unseen_T[np.unique(prefixes_T, return_index=True)[1]] = True
    unseen_T &= ~np.isin(prefixes_T, fitted)
    if not unseen_T.any():
        raise MismatchError("router inputs: the predictor was fitted on every one of these tokens")
    return unseen_T
