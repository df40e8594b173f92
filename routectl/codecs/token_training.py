"""A dictionary of ``token`` learnt from routes: which experts a token takes, then how surely.

Rows are taken twice: to count experts by token, and to count masks and gaps. The second time each
half of the samples meets the lists that the other half made, so that tables hold for what was not
seen; ``own`` tables hold for the rows that they were learnt from.
Shape suffixes: H halves, T tokens, R rows, L layers, K top_k, E num_experts, N entries, J chunks,
M listed experts, A symbols.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..routes import Bools, Ids, ids_dtype
from .dictionary import LayerFacts, TokenDictionary
from .dictionary_tables import CHUNK, TableSizes, contexts_of, legal_gaps, legal_masks, quantised
from .row_kernels import repeats_in, sorted_rows
from .set_kernels import token_of
from .token_kernels import ONES_256, masks_of_rows

__all__ = ["CLASSES", "Training"]

CLASSES = 8
_MOST_SEEN = 65535  # rows of a token in a half that are counted
_LEAST_SEEN = 2  # rows of a token, that it has an entry
_PRIOR = 1.0  # a token begins as so many rows of the layer
_TABLE_PRIOR = 4.0  # a table begins as so many rows of all classes


@dataclass(frozen=True, slots=True, eq=False)
class _Lists:
    """Entries as one half, or all, of the samples make them; entry 0 is the layer's."""

    lists_NM: Ids
    sure_N: NDArray[np.float64]  # ids expected among the first eight; -1 without an entry


class Training:
    """Counts of some layers; ``tokens`` (ascending) are those that get entries."""

    def __init__(self, sizes: TableSizes, tokens: NDArray[Any], layers: int, *, own: bool) -> None:
        """``own``: tables for the rows that are learnt from, not for others like them."""
        halves, entries, experts = 1 if own else 2, len(tokens) + 1, sizes.num_experts
        self._sizes, self._tokens = sizes, tokens
        self._places_V = np.zeros(int(tokens[-1]) + 1 if len(tokens) else 1, np.int32)
        self._places_V[tokens] = np.arange(1, entries)
        self._seen_HLN = np.zeros((halves, layers, entries), np.int32)
        self._counts_HLNE = np.zeros((halves, layers, entries, experts), np.uint16)
        self._load_LE = np.zeros((layers, experts), np.int64)
        self._masks_LTA = np.zeros((layers, *legal_masks(sizes).shape), np.int64)
        self._gaps_LTA = np.zeros((layers, *legal_gaps(sizes).shape), np.int64)
        self._ready: list[tuple[LayerFacts, list[tuple[Ids, NDArray[np.uint8]]]]] = []

    def _entries(self, tokens_T: NDArray[np.int32]) -> NDArray[np.int32]:
        known_T = (tokens_T >= 0) & (tokens_T < len(self._places_V))
        return np.where(known_T, self._places_V[np.where(known_T, tokens_T, 0)], np.int32(0))

    def count(self, sample: int, ids_TLK: Ids, tokens_T: NDArray[np.int32], kept_TL: Bools) -> None:
        """Count the experts of a sample's rows, of those that are there."""
        half = sample % len(self._seen_HLN)
        _count(
            ids_TLK,
            self._entries(tokens_T),
            kept_TL,
            self._seen_HLN[half],
            self._counts_HLNE[half],
            self._load_LE,
        )

    def rank(self) -> None:
        """Make lists and classes of what was counted: no more is."""
        halves = range(len(self._seen_HLN))
        for layer in range(len(self._load_LE)):
            order_E = np.argsort(-self._load_LE[layer], kind="stable")
            seen_HN, counts_HNE = self._seen_HLN[:, layer], self._counts_HLNE[:, layer]
            of_halves = [self._lists(layer, seen_HN[h], counts_HNE[h], order_E) for h in halves]
            whole = of_halves[0]
            if len(halves) > 1:
                seen_N, counts_NE = seen_HN.sum(axis=0), counts_HNE.sum(axis=0, dtype=np.uint32)
                whole = self._lists(layer, seen_N, counts_NE, order_E)
            edges = self._edges([one.sure_N for one in of_halves], seen_HN[::-1])
            classed = [(x.lists_NM, _classes(x.sure_N, edges)) for x in (*of_halves, whole)]
            facts = LayerFacts(
                order_E.astype(ids_dtype(self._sizes.num_experts)),
                classed[-1][1],
                classed[-1][0],
                np.empty((0, 0), np.uint16),
                np.empty((0, 0), np.uint16),
            )
            self._ready.append((facts, classed[:-1]))
        self._counts_HLNE = self._counts_HLNE[:, :0]

    def _lists(
        self,
        layer: int,
        seen_N: NDArray[np.int32],
        counts_NE: NDArray[Any],
        order_E: NDArray[np.int64],
    ) -> _Lists:
        load_E = self._load_LE[layer].astype(np.float32)
        share_E = load_E * np.float32(self._sizes.top_k) / max(float(load_E.sum()), 1.0)
        listed, entries = self._sizes.listed, len(seen_N)
        lists_NM = np.empty((entries, listed), ids_dtype(self._sizes.num_experts))
        sure_N = np.full(entries, -1.0)
        for lo in range(0, entries, 4096):
            part = slice(lo, lo + 4096)
            share_NE = counts_NE[part] + np.float32(_PRIOR) * share_E
            ranked_NM = np.argsort(-share_NE, axis=1, kind="stable")[:, :listed]
            first = np.take_along_axis(share_NE, ranked_NM[:, :CHUNK], axis=1).sum(axis=1)
            sure_N[part] = first / (seen_N[part] + _PRIOR)
            lists_NM[part] = ranked_NM
        unseen_N = seen_N < _LEAST_SEEN
        unseen_N[0] = True
        lists_NM[unseen_N], sure_N[unseen_N] = order_E[:listed], -1.0
        return _Lists(lists_NM, sure_N)

    def _edges(
        self, sure_HN: list[NDArray[np.float64]], seen_HN: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Where classes part, so that about as many rows are of each; rows are the other half's."""
        sure, rows = np.concatenate(sure_HN), seen_HN.reshape(-1).astype(np.float64)
        rows = np.where(sure < 0, 0.0, rows)
        order = np.argsort(sure, kind="stable")
        below = np.cumsum(rows[order])
        wanted = below[-1] * np.arange(1, self._sizes.classes) / self._sizes.classes
        edges: NDArray[np.float64] = sure[order][
            np.minimum(np.searchsorted(below, wanted), len(order) - 1)
        ]
        return edges

    def tabulate(
        self, sample: int, ids_TLK: Ids, tokens_T: NDArray[np.int32], kept_TL: Bools
    ) -> None:
        """Count masks and gaps of a sample's rows."""
        sizes, entries_T = self._sizes, self._entries(tokens_T)
        contexts_E = contexts_of(sizes.num_experts)
        for layer, (facts, halves) in enumerate(self._ready):
            kept_T = kept_TL[:, layer].copy()
            ids_RK = np.ascontiguousarray(ids_TLK[:, layer])
            kept_T &= ~repeats_in(sorted_rows(ids_RK))
            ids_RK, entries_R = ids_RK[kept_T], entries_T[kept_T]
            lists_NM, classes_N = halves[(sample + 1) % len(halves)]
            masks_JR = np.empty((sizes.chunks, len(ids_RK)), np.uint8)
            tails_RK = np.empty(ids_RK.shape, np.uint16)
            rank_E = np.argsort(facts.order_E)
            masks_of_rows(ids_RK, entries_R, lists_NM, rank_E, masks_JR, tails_RK)
            _tabulate(
                masks_JR,
                tails_RK,
                classes_N[entries_R],
                ONES_256,
                contexts_E,
                self._masks_LTA[layer],
                self._gaps_LTA[layer],
            )

    def facts(self) -> list[LayerFacts]:
        """What was learnt, layer by layer."""
        sizes, found = self._sizes, []
        of_class = sizes.tables_of_class
        for layer, (facts, _) in enumerate(self._ready):
            masks = self._masks_LTA[layer].astype(np.float64).reshape(-1, of_class, 1 << CHUNK)
            alike = masks.sum(axis=0) + 0.02
            masks += _TABLE_PRIOR * alike / alike.sum(axis=1, keepdims=True)
            gaps = self._gaps_LTA[layer].astype(np.float64)
            alike = gaps.sum(axis=0) + 0.02
            gaps += _TABLE_PRIOR * alike / alike.sum()
            masks_TA = quantised(masks.reshape(-1, 1 << CHUNK), legal_masks(sizes))
            found.append(
                facts._replace(masks_TA=masks_TA, gaps_TA=quantised(gaps, legal_gaps(sizes)))
            )
        return found

    def dictionary(self, layers: tuple[int, ...]) -> TokenDictionary:
        """The dictionary, of layers of these numbers."""
        return TokenDictionary.of(
            self._sizes, self._tokens, dict(zip(layers, self.facts(), strict=True))
        )


def _classes(sure_N: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Class 0 without an entry, else 1 more than edges below."""
    return np.where(sure_N < 0, 0, 1 + np.searchsorted(edges, sure_N)).astype(np.uint8)


@njit(nogil=True, cache=True)
def _count(ids_TLK, entries_T, kept_TL, seen_LN, counts_LNE, load_LE):  # type: ignore[no-untyped-def]
    """Count each expert of each row under its token's entry, and under its layer."""
    for t in range(ids_TLK.shape[0]):
        n = entries_T[t]
        for layer in range(ids_TLK.shape[1]):
            if not kept_TL[t, layer]:
                continue
            counted = n > 0 and seen_LN[layer, n] < _MOST_SEEN
            seen_LN[layer, n] += counted
            for k in range(ids_TLK.shape[2]):
                load_LE[layer, ids_TLK[t, layer, k]] += 1
                if counted:
                    counts_LNE[layer, n, ids_TLK[t, layer, k]] += 1


@njit(nogil=True, cache=True)
def _tabulate(  # type: ignore[no-untyped-def]
    masks_JR, tails_RK, classes_R, ones_256, contexts_E, mask_counts_TA, gap_counts_TA
):
    """Count the symbols that rows are coded by."""
    chunks, top_k = masks_JR.shape[0], tails_RK.shape[1]
    of_class, lefts = 4 * chunks - 3, gap_counts_TA.shape[0] >> 4
    for r in range(tails_RK.shape[0]):
        left = top_k
        for j in range(chunks):
            if left:
                table = np.int64(classes_R[r]) * of_class
                if j:
                    table += 4 * (j - 1) + min(left, 4)
                mask_counts_TA[table, masks_JR[j, r]] += 1
                left -= ones_256[masks_JR[j, r]]
        before = np.int64(-1)
        for i in range(left):
            table = (min(left - i, lefts) - 1) << 4
            if i:
                table += contexts_E[before]
            gap = np.int64(tails_RK[r, i]) - before - 1
            gap_counts_TA[table, token_of(gap)[0]] += 1
            before = np.int64(tails_RK[r, i])
