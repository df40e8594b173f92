"""``token``: sets coded by what each input token mostly takes, which is kept in a dictionary.

Nothing is learnt from cell to cell: a cell decodes alone, with its token ids and the dictionary.
Where tokens tell nothing, or the model has moved on since, the layer is coded by ``set``. Rows come
back ascending. docs/codecs/token.md has the bytes.
Shape suffixes: R rows, S samples, K top_k, J chunks.
"""

import numpy as np

from ..errors import FormatError, MismatchError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .dictionary import MOST_EXPERTS, LayerDictionary
from .dictionary_tables import contexts_of
from .rans_cells import new_cells, open_cells
from .row_kernels import repeats_in
from .set import CODEC as SET
from .slot_kernels import rows_of_slots, sorting_pairs
from .token_kernels import ONES_256, decode_sets, encode_sets, masks_of_rows

__all__ = ["CODEC"]

_BY_DICTIONARY, _SET = b"\0", b"\1"  # the first shared byte
_GROUP_BYTES = 16 << 20
_SAMPLED = 4096  # rows that tell whether set would take less
_SURELY = 0.9  # of what set takes of them: so much less is less for all


def _encode(block: Block) -> Coded:
    if not block.about.rows:
        return Coded(b"", (b"",) * len(block.lens_S))
    if block.num_experts > MOST_EXPERTS:
        return _as_set(SET.encode(block))
    dictionary = _dictionary(block.about)
    coded = _by_dictionary(block, dictionary)
    size = sum(map(len, coded.cells))
    rows = block.about.rows
    if rows > 2 * _SAMPLED:
        sampled = block.ids_RK[:: -(-rows // _SAMPLED)]
        part = SET.encode(Block(np.ascontiguousarray(sampled), block.num_experts, (len(sampled),)))
        if size < _SURELY * rows / len(sampled) * len(part.cells[0]):
            return coded
    by_set = SET.encode(block)
    if size + len(coded.shared) <= 1 + len(by_set.shared) + sum(map(len, by_set.cells)):
        return coded
    return _as_set(by_set)


def _as_set(by_set: Coded) -> Coded:
    return Coded(_SET + by_set.shared, by_set.cells)


def _dictionary(about: About) -> LayerDictionary:
    """The dictionary of a block. Raises ValueError where one is needed that is not there."""
    dictionary = about.dictionary
    if dictionary is None or about.token_ids_R is None:
        raise ValueError("token needs a dictionary and token_ids_R")
    if dictionary.sizes[:2] != (about.num_experts, about.top_k):
        raise ValueError("the dictionary is of another E or K")
    return dictionary


def _by_dictionary(block: Block, dictionary: LayerDictionary) -> Coded:
    facts, sizes = dictionary.facts, dictionary.sizes
    rows, top_k = block.ids_RK.shape
    if int(block.ids_RK.max()) >= block.num_experts:
        raise ValueError(f"id {int(block.ids_RK.max())} is not below {block.num_experts}")
    assert block.token_ids_R is not None
    entries_R = dictionary.entries(block.token_ids_R)
    masks_JR = np.empty((sizes.chunks, rows), np.uint8)
    tails_RK = np.empty((rows, top_k), np.uint16)
    if not masks_of_rows(
        block.ids_RK, entries_R, facts.lists_NM, dictionary.ranks, masks_JR, tails_RK
    ):
        raise ValueError("a row holds an id twice")
    cells, ends_S = new_cells(np.array(block.lens_S), top_k, sizes.chunks + 2 * top_k)
    tables = (dictionary.masks[1], dictionary.gaps[1], sizes.tables_of_class)
    contexts_E = contexts_of(block.num_experts)
    classes_R = facts.classes_N[entries_R]
    encode_sets(masks_JR, tails_RK, classes_R, ONES_256, tables, contexts_E, cells)
    return Coded(_BY_DICTIONARY + dictionary.digest, cells.packed(ends_S))


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    head, rest = coded.shared[:1], coded.shared[1:]
    if head == _SET or not about.rows:
        return SET.decode(Coded(rest, coded.cells), about)
    if head != _BY_DICTIONARY or len(rest) != 16:
        raise FormatError("token: the shared bytes name no way of coding")
    if about.dictionary is None:
        raise MismatchError(
            f"coded with the dictionary {rest.hex()}, and none is given",
            hint="FILE::dictionary=DICT names it",
        )
    dictionary = _dictionary(about)
    if dictionary.digest != rest:
        raise MismatchError(
            f"coded with the dictionary {rest.hex()}, another one is given: "
            f"{dictionary.digest.hex()}"
        )
    assert about.token_ids_R is not None
    cells = [(cell, n) for cell, n in zip(coded.cells, about.lens_S, strict=True) if cell or n]
    rows_S = np.array([rows for _, rows in cells])
    opened, ends_S = open_cells([cell for cell, _ in cells], rows_S, about.top_k, "token")
    facts, slots_KR = dictionary.facts, np.empty((about.top_k + 1, about.rows), about.dtype)
    legal = decode_sets(
        slots_KR,
        dictionary.entries(about.token_ids_R),
        (facts.order_E, facts.classes_N, facts.lists_NM),
        dictionary.masks,
        dictionary.gaps,
        contexts_of(about.num_experts),
        ONES_256,
        dictionary.sizes.tables_of_class,
        opened,
    )
    if not legal or not opened.spent(ends_S):
        raise FormatError("token: the bytes of a cell are damaged")
    ids_RK = np.empty(about.shape, about.dtype)
    pairs_P2 = sorting_pairs(about.top_k)
    rows_of_slots(slots_KR[:-1], np.arange(about.num_experts, dtype=about.dtype), pairs_P2, ids_RK)
    if not len(pairs_P2):
        ids_RK.sort(axis=1)
    if repeats_in(ids_RK).any():
        raise FormatError("token: the bytes of a cell are damaged")
    return ids_RK


CODEC = Codec(
    "token",
    1,
    _encode,
    _decode,
    keeps_order=False,
    needs=("distinct", "tokens", "dictionary"),
    fallback="set",
    group_bytes=_GROUP_BYTES,
)
