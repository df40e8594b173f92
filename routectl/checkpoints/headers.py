"""The header of a safetensors file, read alone and checked to the last byte.

Source: safetensors 0.8.0, ``SafeTensors::read_metadata`` and ``Metadata::validate``. An 8-byte
little-endian length, that many bytes of JSON, then the tensors without gap or overlap to the end
of the file.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files.reading import open_regular, size_of
from ..limits import check_budget
from ..pickled.dtypes import bytes_of
from ..visible import quoted
from .infos import Piece, TensorInfo

__all__ = ["layer_tensors", "read_header", "stored_texts", "strict_json"]

_MAX_HEADER = 100_000_000
_MAX_TENSORS = 1 << 18  # 61 layers of 384 experts, three matrices each, quantized: 211,000
_MAX_RANK = 16
_MAX_SIZE = 1 << 62


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise FormatError(f"{twice[:80]!a} is there twice")
    return entries


def strict_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no key is there twice; raises FormatError, also over the budget of
    values, which are counted by their commas and brackets before they are parsed.
    """
    check_budget("nodes", sum(map(text.count, (b",", b"[", b"{"))), f"{where}: values of JSON")
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise FormatError(f"{where}: got {type(document).__name__}, expected a JSON object")
    return document


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The header's JSON text, and the size of the file."""
    with open_regular(path) as file:
        size = size_of(file)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise FormatError(f"{path}: bad header length: got {length} in a file of {size} bytes")
        if length > _MAX_HEADER:
            raise FormatError(f"{path}: header of {length} bytes, expected at most {_MAX_HEADER}")
        return file.read(length), size


def _numbers(value: object, count: int | None) -> tuple[int, ...] | None:
    """A list of sizes or offsets; None when it is anything else."""
    if not isinstance(value, list) or len(value) > _MAX_RANK or count not in (None, len(value)):
        return None
    for number in value:
        if type(number) is not int or not 0 <= number < _MAX_SIZE:
            return None
    return tuple(value)


def _entry(path: Path, base: int, name: str, entry: object) -> TensorInfo:
    """A tensor of the header, its bytes counted against its shape."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise FormatError(
            f"{path}: {name[:80]!a}: got no dtype, expected dtype, shape and data_offsets"
        )
    shape = _numbers(entry.get("shape"), None)
    span = _numbers(entry.get("data_offsets"), 2)
    if shape is None or span is None:
        raise FormatError(
            f"{path}: {name[:80]!a}: bad shape or data_offsets, expected whole numbers"
        )
    dtype = entry["dtype"]
    num_bytes = bytes_of(dtype, shape, path)
    if span[1] - span[0] != num_bytes:
        raise FormatError(
            f"{path}: {name[:80]!a}: {span[1] - span[0]} bytes for {dtype} "
            f"{quoted(list(shape))}, "
            f"expected {quoted(num_bytes)}"
        )
    piece = Piece(path, base + span[0], num_bytes, (0,) * len(shape), shape)
    return TensorInfo(name, dtype, shape, num_bytes, (piece,))


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, from its header alone.

    Raises FormatError for a file that is truncated, whose header is longer than 100 MB, of more
    than 262,144 tensors or not JSON, with a name twice, or with ranges that overlap, leave gaps or
    do not end with the file; UnsupportedError for an unknown dtype.
    """
    try:
        text, size = _header_bytes(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    if (tensors := text.count(b"{")) > _MAX_TENSORS + 2:  # the whole, and __metadata__
        raise FormatError(f"{path}: a header of {tensors} tensors, expected {_MAX_TENSORS} at most")
    header = strict_json(text, f"{path}: header")
    header.pop("__metadata__", None)
    base = 8 + len(text)
    found = {name: _entry(path, base, name, entry) for name, entry in header.items()}
    end = base
    for info in sorted(found.values(), key=lambda t: (t.pieces[0].offset, t.num_bytes)):
        begin = info.pieces[0].offset
        if begin != end:
            what = "overlaps the one before it" if begin < end else "leaves a gap before it"
            raise FormatError(f"{path}: {info.name[:80]!a} {what}: got {begin}, expected {end}")
        end += info.num_bytes
    if end != size:
        raise FormatError(f"{path}: tensors end at byte {end}, the file at {size}")
    return found


def stored_texts(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, texts by name. Raises FormatError."""
    found = strict_json(_header_bytes(path)[0], f"{path}: header").get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise FormatError(f"{path}: damaged .safetensors: its metadata are no texts")
    return found


def layer_tensors(
    header: Mapping[str, TensorInfo], pattern: re.Pattern[str]
) -> Iterator[tuple[int, TensorInfo]]:
    """The tensors whose name is that of a layer, the pattern's first group, and that layer."""
    for name, info in header.items():
        match = pattern.fullmatch(name)
        if match is not None:
            yield int(match[1]), info
