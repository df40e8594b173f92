"""Fireworks' forms: R3/v1 of its tracing gateway, and a matrix a token of its direct API.

Shape suffixes: N tokens, W layers as written, K top_k.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from ...errors import FormatError, UnsupportedError
from ...limits import check_budget, check_inflation, limits
from ...model import ModelFacts
from .payload import IntArray, from_base64
from .shapes import model_hint, sizes_of_row

__all__ = ["R3_BASE64", "from_matrices", "from_pti", "from_r3", "is_matrices"]

R3_BASE64 = "KLUv/"  # base64 of zstd's magic number; raw int32 that begins so is no expert id
_HEADS = (struct.Struct("<4sBBBBIIIIQ"), struct.Struct("<4sBBBBIIHHIIQ"))
_PTI = struct.Struct("<4sBBHIIQ")
_PART = 4  # a payload is one of many: a quarter of what a file may decode to
_MATRIX_TYPES = {str, type(None)}
_ALL, _SUFFIX, _BITMAP = 0, 1, 2


def _inflated(payload: str, where: str) -> bytes:
    """The bytes within base64 of one zstd frame, no more than it declares and no bomb."""
    data = from_base64(payload, where)
    try:
        size = zstandard.frame_content_size(data)
        check_budget("cell", size, f"{where}: bytes")
        check_inflation(size, len(data), where, part=_PART)
        most = limits().decoded  # of a frame that does not say its size
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=most)
    except zstandard.ZstdError as error:
        raise FormatError(f"{where}: damaged zstd: {error}") from None


def _damaged(where: str, what: str) -> FormatError:
    return FormatError(f"{where}: damaged R3/v1: {what}")


def _head(raw: bytes, where: str) -> tuple[int, ...]:
    """Selector, dtype, tokens, replayed, start, selector bytes, matrix bytes, header bytes.

    The header has 32 bytes, in the gateway's first version 36, with layers and top_k; which of
    the two it is follows from the length of the whole.
    """
    if raw[:4] != b"R3V1" or len(raw) < _HEADS[0].size:
        raise _damaged(where, f"got {raw[:4]!r} and {len(raw)} bytes, expected R3V1 and a header")
    if raw[4] != 1:
        raise UnsupportedError(f"{where}: R3 header version {raw[4]}, this routectl reads 1")
    for head in _HEADS:
        if len(raw) < head.size:
            continue
        _, _, selector, dtype, _, *counts = head.unpack_from(raw)
        tokens, replayed, *_, start, selector_bytes, matrix_bytes = counts
        if head.size + selector_bytes + matrix_bytes == len(raw):
            return selector, dtype, tokens, replayed, start, selector_bytes, matrix_bytes, head.size
    raise _damaged(where, f"got {len(raw)} bytes, which its header's lengths do not add up to")


def _positions(
    selector: int, bits: bytes, counts: tuple[int, int, int], where: str
) -> NDArray[np.int64]:
    """The positions of the replayed tokens, ascending."""
    tokens, replayed, start = counts
    if selector == _ALL and replayed in (0, tokens):
        return np.arange(replayed)
    if selector == _SUFFIX and start + replayed <= tokens:
        return np.arange(start, start + replayed)
    if selector == _BITMAP and len(bits) == (tokens + 7) // 8:
        marked = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[:tokens]
        if int(marked.sum()) == replayed:
            return np.flatnonzero(marked)
    raise _damaged(
        where, f"selector {selector} with {replayed} of {tokens} tokens replayed from {start}"
    )


def from_r3(payload: str, facts: ModelFacts, where: str) -> tuple[IntArray, int]:
    """The rows [T, W, K] of base64(zstd(R3/v1)) and their start; -1 for tokens that it leaves out.

    Header, selector (all, suffix or bitmap), matrices of uint8 or uint16, one a replayed token.
    Tokens before the first replayed one have no row, nor has the last where it was not replayed.
    Source: eval-protocol python-sdk 3393c047 (adapters/r3_deserializer.py).
    """
    raw = _inflated(payload, where)
    selector, code, tokens, replayed, start, selector_bytes, matrix_bytes, at = _head(raw, where)
    if code not in (1, 2):
        raise UnsupportedError(f"{where}: R3/v1: dtype code {code}, known are 1 and 2")
    row_bytes = matrix_bytes // max(replayed, 1)
    if replayed * row_bytes != matrix_bytes:
        raise _damaged(where, f"{matrix_bytes} bytes of matrices for {replayed} tokens")
    if not replayed:
        return np.zeros((0, len(facts.layers), facts.top_k), np.int32), max(tokens - 1, 0)
    _, width, slots = _sizes(row_bytes, (code,), facts, where)
    bits = raw[at : at + selector_bytes]
    place = _positions(selector, bits, (tokens, replayed, start), where)
    first, last = int(place[0]), int(place[-1])
    rows = max(tokens - 1, last + 1) - first
    check_inflation(2 * code * rows * width * slots, len(payload), where, part=_PART)
    ids_TWK = np.full((rows, width, slots), -1, f"<i{2 * code}")
    flat = np.frombuffer(raw, f"<u{code}", offset=at + selector_bytes)
    ids_TWK[place - first] = flat.reshape(-1, width, slots)
    return ids_TWK, first


def _sizes(
    row_bytes: int, codes: tuple[int, ...], facts: ModelFacts, where: str
) -> tuple[int, int, int]:
    """Bytes of an id (one of ``codes``), layers and ids of a row, of so many bytes of a token."""
    for width, slots in sizes_of_row(facts):
        for code in codes:
            if width * slots * code == row_bytes:
                return code, width, slots
    raise FormatError(
        f"{where}: routing matrix: got {row_bytes // codes[-1]} ids a token, expected "
        f"{facts.num_layers} or {len(facts.layers)} layers x top-{facts.top_k}",
        hint=model_hint(facts),
    )


def is_matrices(payload: Any) -> bool:
    """Whether a list has strings, and beside them nothing but null."""
    return isinstance(payload, list) and {*map(type, payload)} <= _MATRIX_TYPES and any(payload)


def from_matrices(payload: Sequence[str | None], facts: ModelFacts, where: str) -> IntArray:
    """The rows [N, W, K] of a base64 matrix a token; -1 for null and "".

    uint8 or uint16, whichever the length of a matrix allows. Source: Fireworks' completions API,
    ``routing_matrices`` of eval-protocol python-sdk.
    """
    parts = [from_base64(part, where) for part in payload if part]
    sizes = {len(part) for part in parts}
    if len(sizes) != 1:
        raise FormatError(
            f"{where}: routing matrices are of {sorted(sizes)[:9]} bytes, not of one size"
        )
    (row_bytes,) = sizes
    code, width, slots = _sizes(
        row_bytes, (1, 2) if facts.num_experts <= 256 else (2,), facts, where
    )
    rows_bytes = 2 * code * len(payload) * width * slots
    check_inflation(rows_bytes, row_bytes * len(parts), where, part=_PART)
    there = np.fromiter(map(bool, payload), np.bool_, len(payload))
    ids_NWK = np.full((len(payload), width, slots), -1, f"<i{2 * code}")
    flat = np.frombuffer(b"".join(parts), np.dtype(f"<u{code}"))
    ids_NWK[there] = flat.reshape(-1, width, slots)
    return ids_NWK


def from_pti(payload: str, where: str) -> NDArray[np.int32]:
    """Prompt token ids of base64(zstd(PTI/v1)): little-endian int32 after 24 bytes of header.

    Source: eval-protocol python-sdk aee752b6 (adapters/pti_deserializer.py).
    """
    raw = _inflated(payload, where)
    whole = raw[:4] == b"PTI1" and len(raw) >= _PTI.size
    if not whole or len(raw) != _PTI.size + 4 * _PTI.unpack_from(raw)[4]:
        raise FormatError(f"{where}: prompt_token_ids: damaged PTI/v1 of {len(raw)} bytes")
    ids = np.frombuffer(raw, "<i4", offset=_PTI.size).astype(np.int32)
    if ids.size and ids.min() < 0:
        raise FormatError(f"{where}: prompt_token_ids: got {ids.min()}, expected token ids")
    return ids
