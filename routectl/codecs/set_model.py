"""What ``set`` knows of a layer: ranks, contexts and frequencies, and their bytes.

Shape suffixes: R rows, K top_k, E num_experts, C contexts, A tokens, N tables, B bytes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..routes import Ids
from .set_even import even_fits, even_tables
from .set_kernels import count_gaps, token_of
from .set_tables import (
    bits_of_counts,
    merge_contexts,
    read_number,
    read_numbers,
    read_tables,
    spread_counts,
    write_number,
    write_numbers,
    write_tables,
)
from .slot_kernels import count_ids

__all__ = ["SetCounts", "SetModel", "count_sets", "even_model", "read_set_model", "write_set_model"]

_CONTEXTS = 16
_EVEN = 5  # the model's number; 0 to 4 is the logarithm of how many contexts are counted
_MOST_TABLES = 1 << 12
_HEAD = 8 + 17  # bits: the model's number, how many experts are ranked


class SetModel(NamedTuple):
    """order_E: the expert of each rank; contexts_KE: of the previous rank; frequency_KCA."""

    order_E: NDArray[Any]
    contexts_KE: NDArray[np.uint8]
    frequency_KCA: NDArray[np.uint16]


class SetCounts(NamedTuple):
    """Counted tokens of each slot and context, and about how many bits model and rows take."""

    contexts_KE: NDArray[np.uint8]
    counts_KCA: NDArray[np.uint32]
    bits: float


def even_model(num_experts: int, top_k: int) -> SetModel:
    """The model without a byte: every set is as likely as any other."""
    contexts_KE, frequency_KCA = even_tables(num_experts, top_k)
    return SetModel(np.arange(num_experts), contexts_KE.copy(), frequency_KCA.copy())


def count_sets(slots_KR: Ids, num_experts: int) -> SetCounts:
    """Count sorted ranks in as many contexts as are worth their tables.

    The contexts of a slot are sixteenths, or eighths and so on, of the rows by the previous rank.
    Raises ValueError when a row holds an id twice.
    """
    top_k, rows = slots_KR.shape
    contexts = _CONTEXTS
    while contexts > 1 and top_k * contexts > _MOST_TABLES:
        contexts //= 2
    contexts_KE = np.zeros((top_k, num_experts), np.uint8)
    for k in range(1, top_k if contexts > 1 else 1):
        taken_E = np.zeros(num_experts, np.int64)
        count_ids(slots_KR[k - 1 : k], taken_E)
        contexts_KE[k] = (np.cumsum(taken_E) - taken_E) * contexts // (rows + 1)
    tokens = token_of(num_experts - 1)[0] + 1
    counts_KCA = np.zeros((top_k, contexts, tokens), np.uint32)
    if not count_gaps(slots_KR, contexts_KE, counts_KCA):
        raise ValueError("a row holds an id twice")
    width, used = _width(num_experts), int(slots_KR.max()) + 1
    raw_A = np.maximum(np.arange(tokens) // 8 - 12, 0)  # token_of's

    def bits_of(counts_KCA: NDArray[np.uint32]) -> float:
        firsts = (top_k - 1) * (counts_KCA.shape[1] - 1)
        model = _HEAD + used * width + firsts * (width + 1)
        return float(model + bits_of_counts(counts_KCA, raw_A))

    best = SetCounts(contexts_KE, counts_KCA, bits_of(counts_KCA))
    while counts_KCA.shape[1] > 1:
        counts_KCA = merge_contexts(counts_KCA)
        bits = bits_of(counts_KCA)
        if bits < best.bits:
            coarser = contexts_KE // (contexts // counts_KCA.shape[1])
            best = SetCounts(coarser.astype(np.uint8), counts_KCA, bits)
    return best


def write_set_model(order_E: NDArray[Any], used: int, counts: SetCounts | None) -> bytes:
    """The shared bytes; without counts, those of the even model. ``used`` experts occur."""
    if counts is None:
        return bytes([_EVEN])
    top_k, contexts, _ = counts.counts_KCA.shape
    width = _width(len(order_E))
    tables_NA = _tables(counts.counts_KCA)
    most = 10 * np.count_nonzero(tables_NA) + tables_NA.size // 8 + 2 * len(tables_NA)
    bits_B = np.zeros(4 * (len(order_E) + top_k * contexts) + most + 32, np.uint8)
    at = write_number(bits_B, 0, contexts.bit_length() - 1, 8)
    at = write_number(bits_B, at, used, _HEAD - 8)
    at = write_numbers(bits_B, at, order_E[:used], width)
    for k in range(1, top_k if contexts > 1 else 1):
        firsts = np.searchsorted(counts.contexts_KE[k], np.arange(1, contexts))
        at = write_numbers(bits_B, at, firsts, width + 1)
    at = write_tables(tables_NA, bits_B, at)
    return bits_B[: (at + 7) // 8].tobytes()


def _tables(counts_KCA: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The tables that are written: slot 0 has one context."""
    _, contexts, tokens = counts_KCA.shape
    tables_NA = counts_KCA.reshape(-1, tokens)
    return np.concatenate([tables_NA[:1], tables_NA[contexts:]])


def read_set_model(shared: bytes, num_experts: int, top_k: int) -> SetModel:
    """The model that shared bytes hold. Raises FormatError for what no writer writes."""
    if shared[:1] == bytes([_EVEN]):
        if len(shared) > 1 or not even_fits(num_experts, top_k):
            raise FormatError(f"set: no even tables for K {top_k}, E {num_experts}")
        return even_model(num_experts, top_k)
    if not shared or shared[0] >= _EVEN or (shared[0] and top_k << shared[0] > _MOST_TABLES):
        raise FormatError("set: the shared bytes are no model")
    bits_B, contexts = np.frombuffer(shared, np.uint8), 1 << shared[0]
    width, used = _width(num_experts), read_number(bits_B, 8, _HEAD - 8)
    order_E = _ranks(read_numbers(bits_B, _HEAD, min(used, num_experts), width), num_experts)
    at = _HEAD + used * width
    contexts_KE = np.zeros((top_k, num_experts), np.uint8)
    firsts = read_numbers(bits_B, at, (top_k - 1) * (contexts - 1), width + 1)
    at += len(firsts) * (width + 1)
    for k, firsts_C in enumerate(firsts.reshape(top_k - 1, contexts - 1), 1):
        for first in firsts_C:
            contexts_KE[k, first:] += 1
    tokens = token_of(num_experts - 1)[0] + 1
    tables_NA = np.zeros(((top_k - 1) * contexts + 1, tokens), np.uint32)
    if read_tables(tables_NA, bits_B, at) < 0:
        raise FormatError("set: the shared bytes end within a table, or hold none")
    frequency_NA = np.zeros((top_k * contexts, tokens), np.uint16)
    frequency_NA[:contexts, 0] = 4096
    spread_counts(tables_NA[:1], frequency_NA[:1])
    spread_counts(tables_NA[1:], frequency_NA[contexts:])
    return SetModel(order_E, contexts_KE, frequency_NA.reshape(top_k, contexts, tokens))


def _width(num_experts: int) -> int:
    """Bits of an expert."""
    return (num_experts - 1).bit_length()


def _ranks(ranked: NDArray[np.int64], num_experts: int) -> NDArray[np.int64]:
    """Every expert by rank: those that are named, then the others."""
    rest_E = np.ones(num_experts, np.bool_)
    if (ranked >= num_experts).any():
        raise FormatError(f"set: expert {ranked.max()} is not below {num_experts}")
    rest_E[ranked] = False
    order_E = np.concatenate([ranked, np.flatnonzero(rest_E)])
    if len(order_E) != num_experts:
        raise FormatError("set: an expert has two ranks")
    return order_E
