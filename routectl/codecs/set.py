"""``set``: which K experts, without their order, near the entropy of the layer's sets.

Experts are renamed by how often they are taken and each row is sorted; the gap to the previous
slot is coded with the slot's frequencies, in the context of where the previous slot is. Rows come
back ascending. docs/codecs/set.md has the bytes.
Shape suffixes: R rows, S samples, K top_k, E num_experts.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .rans_cells import new_cells, open_cells
from .set_even import even_bits, even_fits
from .set_kernels import decode_slots, encode_slots
from .set_model import SetModel, count_sets, even_model, read_set_model, write_set_model
from .slot_kernels import count_ids, rows_of_slots, slots_of_rows, sort_slots, sorting_pairs

__all__ = ["CODEC"]

_GROUP_BYTES = 16 << 20  # a model is a smaller part of more rows


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
    """The cells of slots; an id pushes two words at most."""
    top_k = len(slots_KR)
    cells, ends_S = new_cells(rows_S, top_k, 2 * top_k)
    encode_slots(slots_KR, model.contexts_KE, model.frequency_KCA, cells)
    return cells.packed(ends_S)


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    ids_RK = np.empty(about.shape, about.dtype)
    cells = [(cell, n) for cell, n in zip(coded.cells, about.lens_S, strict=True) if cell or n]
    if not cells:
        return ids_RK
    model = read_set_model(coded.shared, about.num_experts, about.top_k)
    rows_S = np.array([rows for _, rows in cells])
    opened, ends_S = open_cells([cell for cell, _ in cells], rows_S, about.top_k, "set")
    slots_KR = np.empty(about.shape[::-1], about.dtype)
    legal = decode_slots(
        slots_KR, model.contexts_KE, model.frequency_KCA, opened, about.num_experts
    )
    if not legal or not opened.spent(ends_S):
        raise FormatError("set: the bytes of a cell are damaged")
    order_E = model.order_E.astype(about.dtype)
    pairs_P2 = sorting_pairs(about.top_k)
    rows_of_slots(slots_KR, order_E, pairs_P2, ids_RK)
    if not len(pairs_P2):
        ids_RK.sort(axis=1)
    return ids_RK


CODEC = Codec(
    "set", 1, _encode, _decode, keeps_order=False, needs=("distinct",), group_bytes=_GROUP_BYTES
)
