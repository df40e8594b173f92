"""``set``: which K experts, without their order, near the entropy of the layer's sets.

Experts are renamed by how often they are taken and each row is sorted; the gap to the previous
slot is coded with the slot's frequencies, in the context of where the previous slot is. Rows come
back ascending. docs/codecs.md has the bytes.
Shape suffixes: R rows, S samples, K top_k, E num_experts, W words, 4 states.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .set_even import even_bits, even_fits
from .set_kernels import decode_slots, encode_slots
from .set_model import SetModel, count_sets, even_model, read_set_model, write_set_model
from .slot_kernels import count_ids, rows_of_slots, slots_of_rows, sort_slots, sorting_pairs

__all__ = ["CODEC"]

_LEAST = 1 << 16  # of a state between two ids, and before the first one is pushed
_FOUR_FROM = 2048  # ids of a cell that has four states; a shorter one has one
_GROUP_BYTES = 16 << 20  # a model is a smaller part of more rows


def _lanes(rows_S: NDArray[np.int64], top_k: int) -> NDArray[np.int64]:
    """How many states each cell has."""
    return np.where(rows_S * top_k >= _FOUR_FROM, 4, 1)


def _slots(ids_RK: Ids, order_E: NDArray[Any]) -> Ids:
    """The ranks of each row, ascending, slot by slot."""
    rename_E = np.empty(len(order_E), ids_RK.dtype)
    rename_E[order_E] = np.arange(len(order_E), dtype=ids_RK.dtype)
    slots_KR = np.empty(ids_RK.shape[::-1], ids_RK.dtype)
    slots_of_rows(ids_RK, rename_E, slots_KR)
    pairs_P2 = sorting_pairs(ids_RK.shape[1])
    sort_slots(slots_KR, pairs_P2)
    if not len(pairs_P2):
        slots_KR.sort(axis=0)
    return slots_KR


def _encode(block: Block) -> Coded:
    ids_RK, num_experts = block.ids_RK, block.num_experts
    rows, top_k = ids_RK.shape
    if not rows:
        return Coded(b"", (b"",) * len(block.lens_S))
    if int(ids_RK.max()) >= num_experts:
        raise ValueError(f"id {int(ids_RK.max())} is not below num_experts {num_experts}")
    load_E = np.zeros(num_experts, np.int64)
    count_ids(ids_RK, load_E)
    order_E = np.argsort(-load_E, kind="stable")
    slots_KR = _slots(ids_RK, order_E)
    counts = count_sets(slots_KR, num_experts)
    if even_fits(num_experts, top_k) and even_bits(rows, num_experts, top_k) < counts.bits:
        model = even_model(num_experts, top_k)
        slots_KR, shared = _slots(ids_RK, model.order_E), write_set_model(order_E, 0, None)
    else:
        shared = write_set_model(order_E, int((load_E > 0).sum()), counts)
        model = read_set_model(shared, num_experts, top_k)
    return Coded(shared, _cells(slots_KR, model, np.array(block.lens_S)))


def _cells(slots_KR: Ids, model: SetModel, rows_S: NDArray[np.int64]) -> tuple[bytes, ...]:
    """Each sample's states, then its words as a decoder takes them."""
    top_k, starts_S = len(slots_KR), np.concatenate([[0], np.cumsum(rows_S)])
    lanes_S = np.where(rows_S, _lanes(rows_S, top_k), 0)
    room_S = 2 * (top_k * rows_S + lanes_S)  # words: an id pushes two at most
    ends_S = np.cumsum(room_S)
    words_W, at_S = np.empty(room_S.sum(), np.uint16), ends_S.copy()
    states_S4 = np.full((len(rows_S), 4), _LEAST, np.uint32)
    cells = (starts_S, lanes_S, states_S4, words_W, at_S)
    encode_slots(slots_KR, model.contexts_KE, model.frequency_KCA, cells)
    at_S -= 2 * lanes_S
    for lane in range(4):
        has_S = lanes_S > lane
        words_W[at_S[has_S] + 2 * lane] = states_S4[has_S, lane] & 0xFFFF
        words_W[at_S[has_S] + 2 * lane + 1] = states_S4[has_S, lane] >> 16
    data = words_W.astype("<u2", copy=False).data.cast("B")
    bounds = zip((2 * at_S).tolist(), (2 * ends_S).tolist(), strict=True)
    return tuple(bytes(data[at:end]) for at, end in bounds)


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    ids_RK = np.empty(about.shape, about.dtype)
    cells = [(cell, n) for cell, n in zip(coded.cells, about.lens_S, strict=True) if cell or n]
    if not cells:
        return ids_RK
    model = read_set_model(coded.shared, about.num_experts, about.top_k)
    rows_S = np.array([rows for _, rows in cells])
    lanes_S = _lanes(rows_S, about.top_k)
    words_W, at_S, ends_S = _words([cell for cell, _ in cells], rows_S, lanes_S)
    states_S4 = np.full((len(cells), 4), _LEAST, np.uint32)
    for lane in range(4):
        has_S = lanes_S > lane
        states_S4[has_S, lane] = words_W[at_S[has_S]] | words_W[at_S[has_S] + 1].astype("u4") << 16
        at_S[has_S] += 2
    slots_KR = np.empty(about.shape[::-1], about.dtype)
    starts_S = np.concatenate([[0], np.cumsum(rows_S)])
    legal = decode_slots(
        slots_KR,
        model.contexts_KE,
        model.frequency_KCA,
        (starts_S, lanes_S, states_S4, words_W, at_S),
        about.num_experts,
    )
    if not legal or (at_S != ends_S).any() or (states_S4 != _LEAST).any():
        raise FormatError("set: the bytes of a cell are damaged")
    order_E = model.order_E.astype(about.dtype)
    pairs_P2 = sorting_pairs(about.top_k)
    rows_of_slots(slots_KR, order_E, pairs_P2, ids_RK)
    if not len(pairs_P2):
        ids_RK.sort(axis=1)
    return ids_RK


def _words(
    cells: list[bytes], rows_S: NDArray[np.int64], lanes_S: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
    """The words of all cells end to end, states first, and where each cell's begin and end."""
    sizes_S = np.array([len(cell) for cell in cells])
    wrong_S = (sizes_S % 2 > 0) | (sizes_S < 4 * lanes_S) | (rows_S == 0)
    if wrong_S.any():
        s = int(wrong_S.argmax())
        raise FormatError(f"set: got a cell of {sizes_S[s]} bytes for {rows_S[s]} rows")
    ends_S = np.cumsum(sizes_S // 2)
    words_W = np.frombuffer(b"".join(cells), "<u2").astype(np.uint16, copy=False)
    return words_W, ends_S - sizes_S // 2, ends_S


CODEC = Codec(
    "set", 1, _encode, _decode, keeps_order=False, needs=("distinct",), group_bytes=_GROUP_BYTES
)
