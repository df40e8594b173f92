"""Dictionaries of ``token``: of each layer and token id the experts that it mostly takes.

docs/codecs/token.md has the bytes. A layer is read from them when it is asked for.
Shape suffixes: E num_experts, N entries (0 is for all tokens without one), M experts of an entry,
V token ids, L layers, T tables, A symbols of a table, B bytes.
"""

import functools
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnsupportedError
from ..routes import Ids, ids_dtype
from .dictionary_tables import (
    TableSizes,
    expanded,
    legal_gaps,
    legal_masks,
    read_frequencies,
    write_frequencies,
)
from .set_tables import read_numbers, write_numbers

__all__ = ["MOST_EXPERTS", "MOST_TOKENS", "LayerDictionary", "LayerFacts", "TokenDictionary"]

MOST_EXPERTS = 1024
MOST_TOKENS = 1 << 22  # a token id of a dictionary is below
MOST_CLASSES = 15
_NAME, _MAGIC = b"routectl-dictionary/", b"routectl-dictionary/1\n"
_HEAD = struct.Struct("<5I")  # E, K, layers, entries, classes
_CLASS_BITS = 4
_STEP = 8192  # entries that are taken apart at a time, whole bytes of them


class LayerFacts(NamedTuple):
    """What a dictionary knows of a layer.

    order_E: every expert, the one with the greatest load first. classes_N: of each entry.
    lists_NM: its experts, the likeliest first; entry 0 is class 0 and the head of order_E.
    masks_TA, gaps_TA: frequencies of 4096, of the tables that ``TableSizes`` numbers.
    """

    order_E: Ids
    classes_N: NDArray[np.uint8]
    lists_NM: Ids
    masks_TA: NDArray[np.uint16]
    gaps_TA: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class LayerDictionary:
    """One layer of a dictionary: what ``token`` codes a block with.

    digest is the dictionary's; places_V says which entry a token id has, 0 for none.
    """

    digest: bytes
    sizes: TableSizes
    places_V: NDArray[np.int32]
    facts: LayerFacts

    @functools.cached_property
    def ranks(self) -> NDArray[np.int64]:
        """The place of each expert in order_E."""
        rank_E = np.empty(self.sizes.num_experts, np.int64)
        rank_E[self.facts.order_E] = np.arange(self.sizes.num_experts)
        return rank_E

    @functools.cached_property
    def masks(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """masks_TA for a decoder: symbols [T x 4096], and frequency << 16 | first [T x 256]."""
        return expanded(self.facts.masks_TA)

    @functools.cached_property
    def gaps(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """gaps_TA for a decoder."""
        return expanded(self.facts.gaps_TA)

    def entries(self, token_ids_R: NDArray[np.int32]) -> NDArray[np.int32]:
        """The entry of each row, by its token."""
        places_V = self.places_V
        if not len(places_V):
            return np.zeros(len(token_ids_R), np.int32)
        known_R = token_ids_R.view(np.uint32) < len(places_V)
        if known_R.all():
            return places_V[token_ids_R]
        return np.where(known_R, places_V[np.where(known_R, token_ids_R, 0)], np.int32(0))


class TokenDictionary:
    """A dictionary as its bytes. Raises FormatError, UnsupportedError for bytes that are none."""

    def __init__(self, data: bytes, where: str = "the dictionary") -> None:
        """``where`` opens every message."""
        if not data.startswith(_MAGIC):
            name = data[:40].split(b"\n")[0]
            if name.startswith(_NAME):
                known = _MAGIC.decode().strip()
                raise UnsupportedError(
                    f"{where}: {name.decode('ascii', 'replace')!a}: {known} is read"
                )
            raise FormatError(f"{where}: no dictionary of routectl")
        self._data, self._where = data, where
        self.digest = hashlib.blake2b(data[:-16], digest_size=16).digest()
        at = len(_MAGIC)
        if len(data) < at + _HEAD.size + 16 or self.digest != data[-16:]:
            raise FormatError(f"{where}: damaged: its digest is not that of its bytes")
        num_experts, top_k, layers, entries, classes = _HEAD.unpack_from(data, at)
        if not (
            1 <= top_k <= num_experts <= MOST_EXPERTS
            and layers
            and entries <= MOST_TOKENS
            and classes <= MOST_CLASSES
        ):
            raise FormatError(f"{where}: damaged: sizes out of bounds")
        self.sizes = TableSizes(num_experts, top_k, classes)
        at += _HEAD.size
        ends = at + 4 * np.cumsum([layers, entries, layers])
        if ends[-1] > len(data) - 16:
            raise FormatError(f"{where}: damaged: it ends within its tokens")
        numbers, tokens, lengths = np.split(
            np.frombuffer(data, "<u4", (int(ends[-1]) - at) // 4, at).astype(np.int64),
            [layers, layers + entries],
        )
        if (np.diff(numbers) <= 0).any() or (np.diff(tokens) <= 0).any():
            raise FormatError(f"{where}: damaged: layers or tokens do not ascend")
        if entries and tokens[-1] >= MOST_TOKENS:
            raise FormatError(f"{where}: damaged: token {tokens[-1]} is not below {MOST_TOKENS}")
        if int(ends[-1]) + int(lengths.sum()) + 16 != len(data):
            raise FormatError(f"{where}: damaged: got {len(data)} bytes, not what its layers have")
        bounds = int(ends[-1]) + np.concatenate([[0], np.cumsum(lengths)])
        self._parts = {
            int(layer): (int(bounds[i]), int(bounds[i + 1])) for i, layer in enumerate(numbers)
        }
        self._places_V = np.zeros(int(tokens[-1]) + 1 if entries else 0, np.int32)
        self._places_V[tokens] = np.arange(1, entries + 1)
        self._entries = int(entries)
        self._opened: dict[int, LayerDictionary] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenDictionary, (self._data, self._where)

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self._data

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return self._where

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers, ascending."""
        return tuple(self._parts)

    @property
    def num_tokens(self) -> int:
        """How many token ids have an entry."""
        return self._entries

    def layer(self, number: int) -> LayerDictionary:
        """A layer by its number. Raises FormatError where its bytes are damaged, or it has none."""
        if number not in self._opened:
            if number not in self._parts:
                raise FormatError(f"{self._where}: has no layer {number}")
            first, end = self._parts[number]
            try:
                facts = _read_layer(self._data[first:end], self.sizes, self._entries)
            except ValueError as error:
                raise FormatError(f"{self._where}: layer {number}: damaged: {error}") from None
            made = LayerDictionary(self.digest, self.sizes, self._places_V, facts)
            self._opened[number] = made
        return self._opened[number]

    @classmethod
    def of(
        cls, sizes: TableSizes, tokens: NDArray[Any], layers: Mapping[int, LayerFacts]
    ) -> "TokenDictionary":
        """The dictionary of some layers, by number; entry i + 1 is that of ``tokens[i]``."""
        numbers = sorted(layers)
        bodies = [_layer_bytes(layers[number], sizes) for number in numbers]
        head = _HEAD.pack(sizes.num_experts, sizes.top_k, len(numbers), len(tokens), sizes.classes)
        words = np.concatenate([numbers, tokens, [len(body) for body in bodies]]).astype("<u4")
        data = b"".join([_MAGIC, head, words.tobytes(), *bodies])
        return cls(data + hashlib.blake2b(data, digest_size=16).digest())


def _layer_bytes(facts: LayerFacts, sizes: TableSizes) -> bytes:
    """The bytes of a layer: its order, its tables, its entries but the first."""
    width = sizes.width
    bits_B = np.zeros(
        4 * sizes.num_experts + 4 * facts.masks_TA.size + 4 * facts.gaps_TA.size, "u1"
    )
    at = write_numbers(bits_B, 0, facts.order_E, width)
    at = write_frequencies(facts.masks_TA, legal_masks(sizes), bits_B, at)
    at = write_frequencies(facts.gaps_TA, legal_gaps(sizes), bits_B, at)
    entries = len(facts.classes_N) - 1
    bits = np.zeros((entries, _CLASS_BITS + sizes.listed * width), np.uint8)
    bits[:, :_CLASS_BITS] = facts.classes_N[1:, None] >> np.arange(_CLASS_BITS) & 1
    lists = facts.lists_NM[1:].astype(np.uint16)[:, :, None] >> np.arange(width, dtype="u2") & 1
    bits[:, _CLASS_BITS:] = lists.reshape(entries, sizes.listed * width)
    return bits_B[: (at + 7) // 8].tobytes() + np.packbits(bits, bitorder="little").tobytes()


def _read_layer(data: bytes, sizes: TableSizes, entries: int) -> LayerFacts:
    """The inverse. Raises ValueError for what no writer writes."""
    bits_B, width, listed = np.frombuffer(data, np.uint8), sizes.width, sizes.listed
    order = read_numbers(bits_B, 0, sizes.num_experts, width)
    if (np.sort(order) != np.arange(sizes.num_experts)).any():
        raise ValueError("its order is none of all experts")
    order_E = order.astype(ids_dtype(sizes.num_experts))
    legal_TA = legal_masks(sizes)
    masks_TA = np.zeros(legal_TA.shape, np.uint16)
    at = read_frequencies(masks_TA, legal_TA, bits_B, sizes.num_experts * width)
    legal_TA = legal_gaps(sizes)
    gaps_TA = np.zeros(legal_TA.shape, np.uint16)
    at = read_frequencies(gaps_TA, legal_TA, bits_B, at) if at >= 0 else at
    if at < 0:
        raise ValueError("a table does not add up to 4096")
    row_bits = _CLASS_BITS + listed * width
    rest_B = bits_B[(at + 7) // 8 :]
    if len(rest_B) != (entries * row_bits + 7) // 8:
        raise ValueError(f"got {len(rest_B)} bytes of entries, for {entries} of {row_bits} bits")
    lists_NM = np.zeros((entries + 1, listed), order_E.dtype)
    classes_N = np.zeros(entries + 1, np.uint8)
    lists_NM[0] = order_E[:listed]
    for lo in range(0, entries, _STEP):
        count = min(_STEP, entries - lo)
        part_B = rest_B[lo * row_bits // 8 :]
        bits = np.unpackbits(part_B, count=count * row_bits, bitorder="little")
        bits_NB = bits.reshape(count, row_bits)
        here = slice(1 + lo, 1 + lo + count)
        for i in range(_CLASS_BITS):
            classes_N[here] |= bits_NB[:, i] << i
        columns = bits_NB[:, _CLASS_BITS:].reshape(count, listed, width)
        for i in range(width):
            lists_NM[here] |= columns[:, :, i].astype(lists_NM.dtype) << i
    ascending = np.sort(lists_NM, axis=1)
    if (ascending[:, -1] >= sizes.num_experts).any() or (classes_N > sizes.classes).any():
        raise ValueError("an entry names an expert or a class that there is not")
    if (ascending[:, 1:] == ascending[:, :-1]).any():
        raise ValueError("an entry names an expert twice")
    return LayerFacts(order_E, classes_N, lists_NM, masks_TA, gaps_TA)
