"""Coded columns: how the cells of a row group are framed, and what coder and decoder both derive.

A cell is one sample's rows of one MoE layer: how many leading rows are those of an earlier sample
(LEB128), the codec's cell, and the slot orders where they are kept beside. The first cell of a row
group begins with the head: codec id, flags, and what the codec stores once for all samples.
docs/codecs.md is the contract. Shape suffixes: T tokens, L MoE layers, K top_k, S samples, N tokens
of a sequence, R coded rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...codecs import codec_of
from ...codecs.block import About, Codec
from ...codecs.dictionary import LayerDictionary
from ...codecs.row_kernels import repeats_in, sorted_rows
from ...dump import Sample
from ...routes import Bools, Ids, Routes, ids_dtype

__all__ = [
    "Head",
    "Held",
    "about_of",
    "held_of",
    "input_tokens",
    "put_count",
    "put_head",
    "take_count",
    "take_head",
]

ORDERS_BESIDE = 1  # the flag of slot orders after each cell


@dataclass(frozen=True, slots=True)
class Head:
    """What the first cell of a layer in a row group tells of all of them."""

    codec: Codec
    orders: bool
    shared: bytes


def put_head(head: Head) -> bytes:
    """A head as bytes."""
    name = head.codec.id.encode()
    size = len(head.shared).to_bytes(4, "little")
    return bytes([len(name)]) + name + bytes([ORDERS_BESIDE * head.orders]) + size + head.shared


def take_head(data: bytes) -> tuple[Head, bytes]:
    """The head, and what follows. Raises ValueError, UnsupportedError for an unknown codec."""
    length = data[0] if data else 0
    name, flags = data[1 : 1 + length], data[1 + length : 2 + length]
    size, end = int.from_bytes(data[2 + length : 6 + length], "little"), 6 + length
    if not length or not name.isascii() or len(data) < end + size or flags > b"\1":
        raise ValueError("the head of a coded layer is cut short or unknown")
    head = Head(codec_of(name.decode()), flags == b"\1", data[end : end + size])
    return head, data[end + size :]


def put_count(count: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the eighth set where more follow."""
    out = bytearray()
    while count >= 128:
        out.append(count & 127 | 128)
        count >>= 7
    return bytes([*out, count])


def take_count(data: bytes) -> tuple[int, bytes]:
    """The count, and what follows. Raises ValueError where there is none below 2^35."""
    count = 0
    for i, byte in enumerate(data[:5]):
        count |= (byte & 127) << (7 * i)
        if byte < 128:
            return count, data[i + 1 :]
    raise ValueError("a cell begins with no count")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A sample of a row group without its ids: what both sides know before a cell is read.

    source is the index of the earlier sample in the row group whose rows it may share, or None;
    tokens_T are the input tokens of its rows, None where they are not all known; base is the
    routes of the same tokens in the base dump, None without.
    """

    num_rows: int
    start: int
    missing_TL: Bools | None
    source: int | None = None
    tokens_T: NDArray[np.int32] | None = None
    base: Routes | None = None

    def kept(self, layer: int, shared: int) -> Bools:
        """bool [T], True where the row of a layer (by its index) is in the cell."""
        kept_T = np.ones(self.num_rows, np.bool_)
        if self.missing_TL is not None:
            kept_T = ~self.missing_TL[:, layer]
        kept_T[:shared] = False
        return kept_T


def held_of(sample: Sample, source: int | None, base: Routes | None) -> Held:
    """What both sides know of a sample; one without routes has no rows."""
    routes = sample.routes
    if routes is None:
        return Held(0, 0, None)
    rows = (routes.num_tokens, routes.start, routes.missing_TL)
    return Held(*rows, source, input_tokens(sample.token_ids, *rows[:2]), base)


def input_tokens(
    token_ids: NDArray[np.int32] | None, num_rows: int, start: int
) -> NDArray[np.int32] | None:
    """The tokens of rows from ``start`` on, of those of the whole sequence; None if not all are."""
    if token_ids is None or len(token_ids) < start + num_rows:
        return None
    return token_ids[start : start + num_rows]


def _base_rows(held: Held, num_experts: int, top_k: int, layer: int) -> Ids:
    """The base's rows of a layer, [T, K]; 0 to K - 1 where it has none, or one with an id twice."""
    rows = np.empty((held.num_rows, top_k), ids_dtype(num_experts))
    rows[:] = np.arange(top_k, dtype=rows.dtype)
    base = held.base
    if base is None:
        return rows
    first, stop = max(held.start, base.start), min(held.start + held.num_rows, base.stop)
    if first >= stop:
        return rows
    part = base.ids_TLK[first - base.start : stop - base.start, layer]
    usable = ~repeats_in(sorted_rows(np.ascontiguousarray(part)))
    if base.missing_TL is not None:
        usable &= ~base.missing_TL[first - base.start : stop - base.start, layer]
    rows[first - held.start : stop - held.start][usable] = part[usable]
    return rows


def about_of(
    helds: Sequence[Held],
    kept_ST: Sequence[Bools],
    sizes: tuple[int, int],
    layer: int,
    needs: tuple[str, ...],
    dictionary: LayerDictionary | None = None,
) -> About:
    """What a codec is told of these samples' rows in a layer; ``sizes`` are E and K."""
    lens = tuple(int(kept.sum()) for kept in kept_ST)
    pairs = list(zip(helds, kept_ST, strict=True))
    tokens = base = None
    if "tokens" in needs and all(h.tokens_T is not None for h in helds if h.num_rows):
        parts = [h.tokens_T[kept] for h, kept in pairs if h.tokens_T is not None]
        tokens = np.concatenate([np.empty(0, np.int32), *parts])
    if "base" in needs:
        rows = [_base_rows(h, *sizes, layer)[kept] for h, kept in pairs]
        base = np.concatenate([np.empty((0, sizes[1]), ids_dtype(sizes[0])), *rows])
    return About(*sizes, lens, tokens, base, dictionary if "dictionary" in needs else None)
