"""``context``: sets coded by what the input tokens, and the row before, have taken so far.

One pass that learns as it goes, solid over the samples of a row group, never another layer. A
decoder needs the token ids. Where nothing is to be learnt, the layer is coded by ``set``. Rows
come back ascending. docs/codecs/context.md has the bytes and every step of the model.
Shape suffixes: R rows, K top_k, B bytes.
"""

from collections.abc import Iterator

import numpy as np

from ..errors import FormatError
from ..routes import Ids
from .block import About, Block, Codec, Coded, check_cells
from .context_kernels import code_rows
from .context_model import functions, new_model
from .range_kernels import finish_range, start_decoder, start_encoder
from .set import CODEC as SET

__all__ = ["CODEC"]

_MODELLED, _SET = b"\0", b"\1"  # the first shared byte
_MOST_EXPERTS = 1024
_ROWS = 512  # that are coded in one call: bounds the bytes that it may need
_GROUP_BYTES = 16 << 20  # a model that starts anew knows nothing: rather long groups


def _runs(lens_S: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last + 1 row of each sample."""
    lo = 0
    for rows in lens_S:
        yield lo, lo + rows
        lo += rows


def _encode(block: Block) -> Coded:
    about = block.about
    by_set = SET.encode(block)
    if about.token_ids_R is None:
        raise ValueError("context needs token_ids_R")
    if not about.rows:
        return by_set
    if about.num_experts <= _MOST_EXPERTS:
        cells = _modelled(block)
        if sum(map(len, cells)) < len(by_set.shared) + sum(map(len, by_set.cells)):
            return Coded(_MODELLED, cells)
    return Coded(_SET + by_set.shared, by_set.cells)


def _modelled(block: Block) -> tuple[bytes, ...]:
    model, cells = new_model(block.about), []
    out_B = np.empty(_ROWS * (2 * block.num_experts + 8) + 16, np.uint8)  # 11 bits a decision
    for lo, hi in _runs(block.lens_S):
        coder_4, parts = np.array(start_encoder(), np.uint64), []
        for first in range(lo, hi, _ROWS):
            coder_4[3] = 0
            code_rows(
                block.ids_RK,
                first,
                min(first + _ROWS, hi),
                first == lo,
                *model,
                *functions(),
                coder_4,
                out_B,
                False,
            )
            parts.append(out_B[: int(coder_4[3])].tobytes())
        coder_4[3] = 0
        parts.append(out_B[: finish_range(tuple(coder_4), out_B)].tobytes())
        cells.append(b"".join(parts).rstrip(b"\0"))
    return tuple(cells)


def _decode(coded: Coded, about: About) -> Ids:
    check_cells(coded, about)
    head, rest = coded.shared[:1], coded.shared[1:]
    if head == _SET or not about.rows:
        return SET.decode(Coded(rest, coded.cells), about)
    if head != _MODELLED or rest or about.num_experts > _MOST_EXPERTS:
        raise FormatError("context: the shared bytes name no way of coding")
    if about.token_ids_R is None:
        raise ValueError("context needs token_ids_R")
    ids_RK, model = np.empty(about.shape, about.dtype), new_model(about)
    for cell, (lo, hi) in zip(coded.cells, _runs(about.lens_S), strict=True):
        bytes_B = np.frombuffer(cell, np.uint8).copy()  # the kernel takes what it may write
        coder_4 = np.array(start_decoder(bytes_B), np.uint64)
        code_rows(ids_RK, lo, hi, True, *model, *functions(), coder_4, bytes_B, True)
        if len(cell) > int(coder_4[3]) or (hi == lo and cell):
            raise FormatError("context: a cell has more bytes than its rows take")
    return ids_RK


CODEC = Codec(
    "context",
    1,
    _encode,
    _decode,
    keeps_order=False,
    solid=True,
    needs=("distinct", "tokens"),
    fallback="set",
    group_bytes=_GROUP_BYTES,
)
