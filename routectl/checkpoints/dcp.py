"""Folders that torch.distributed.checkpoint wrote: the model's tensors, out of ``.metadata``.

Sources: torch 2.13 distributed.checkpoint (metadata, filesystem), as megatron-core 0.16.1's
dist_checkpointing writes it (torch_dist), and Megatron's torch_dcp and fsdp_dtensor; Megatron-LM
``core/dist_checkpointing/serialization.py`` at 0.20.0 for ``common_state``.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..files.names import is_own_name
from ..files.reading import open_regular, read_bytes
from ..pickled.archives import open_archive
from ..pickled.dtypes import bytes_of
from ..pickled.reading import load_pickle
from ..pickled.records import Record
from .infos import Piece, TensorInfo

__all__ = ["read_metadata"]

_MAX_METADATA = 1 << 30
_MAX_OBJECT = 1 << 26
_COMMON_STATE = "common_state/shard_0_1"
_NOT_MODEL = ("optimizer", "rng_state", "rerun_state_machine_state")
_MAX_RANK = 16


def _load(path: Path) -> Record:
    try:
        metadata = load_pickle(
            read_bytes(path, _MAX_METADATA, f"more than {_MAX_METADATA} bytes"), str(path)
        )
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    if isinstance(metadata, Record):
        parts = (metadata.fields.get("state_dict_metadata"), metadata.fields.get("storage_data"))
        if all(isinstance(part, dict) for part in parts):
            return metadata
    raise FormatError(f"{path}: not the metadata of a torch checkpoint")


def _sizes(value: object, where: str) -> tuple[int, ...]:
    """A torch.Size, checked."""
    if not isinstance(value, tuple) or len(value) > _MAX_RANK:
        raise FormatError(f"{where}: got no shape or offsets")
    for number in value:
        if type(number) is not int or not 0 <= number < 1 << 62:
            raise FormatError(f"{where}: a size or offset that is no whole number")
    return value


def _fields(record: object, where: str, *names: str) -> list[Any]:
    if not isinstance(record, Record) or not set(names) <= record.fields.keys():
        raise FormatError(f"{where}: expected {', '.join(names)}")
    return [record.fields[name] for name in names]


class _Folder:
    """Where each block of each tensor lies; files are looked at once."""

    def __init__(self, path: Path, storage: dict[Any, Any]) -> None:
        self.path = path
        self.where = str(path / ".metadata")
        self.bytes: dict[str, int] = {}
        self.places: dict[tuple[str, tuple[int, ...]], Any] = {}
        self.objects: dict[str, Any] = {}
        for index, info in storage.items():
            (fqn,) = _fields(index, self.where, "fqn")
            offset = index.fields.get("offset")  # None, and then not stored, for bytes
            if isinstance(fqn, str) and offset is not None:
                self.places[fqn, _sizes(offset, self.where)] = info
            elif isinstance(fqn, str):
                self.objects[fqn] = info

    def _file_bytes(self, name: Any) -> int:
        if not isinstance(name, str) or name not in self.bytes:
            if not is_own_name(name):
                raise FormatError(
                    f"{self.where}: got file {str(name)[:80]!a}, expected one in the same folder"
                )
            file = self.path / name
            if not file.is_file():
                raise FormatError(f"{file}: not there, but {self.where} names it")
            self.bytes[name] = file.stat().st_size
        return self.bytes[name]

    def _span(self, info: Any, where: str) -> tuple[str, int, int]:
        """File, first byte and bytes of an entry; raises FormatError when beyond the file."""
        name, offset, length = _fields(info, where, "relative_path", "offset", "length")
        if info.fields.get("transform_descriptors"):
            raise UnsupportedError(f"{where}: stored through a transform (compressed)")
        if (
            type(offset) is not int
            or type(length) is not int
            or min(offset, length) < 0
            or (offset + length > self._file_bytes(name))
        ):
            raise FormatError(f"{where}: bytes {offset}+{length} are beyond {name}")
        return name, offset, length

    def piece(self, fqn: str, start: tuple[int, ...], shape: tuple[int, ...]) -> Piece:
        """Where one block lies; raises FormatError when that is nowhere or beyond a file."""
        where = f"{self.where}: {fqn}"
        if (fqn, start) not in self.places:
            raise FormatError(f"{where}: block at {list(start)} is in no file")
        name, offset, length = self._span(self.places[fqn, start], where)
        return Piece(self.path / name, offset, length, start, shape, archived=True)

    def object(self, fqn: str) -> Any:
        """What was saved under a name that is no tensor's; None where there is none."""
        if fqn not in self.objects:
            return None
        where = f"{self.where}: {fqn}"
        name, offset, length = self._span(self.objects[fqn], where)
        if length > _MAX_OBJECT:
            raise FormatError(f"{where}: more than {_MAX_OBJECT} bytes")
        with open_regular(self.path / name) as file:
            file.seek(offset)
            return open_archive(io.BytesIO(file.read(length)), where).value


def _tensor(folder: _Folder, fqn: str, entry: Record) -> TensorInfo:
    where = f"{folder.where}: {fqn[:120]}"
    properties, size, chunks = _fields(entry, where, "properties", "size", "chunks")
    fields = properties.fields if isinstance(properties, Record) else {}
    state = fields.get("state")
    dtype = state[0] if isinstance(state, tuple) and state else fields.get("dtype")
    if not isinstance(dtype, str) or not isinstance(chunks, list):
        raise FormatError(f"{where}: got no dtype or blocks")
    shape = _sizes(size, where)
    pieces = []
    for chunk in chunks:
        start, block = (_sizes(v, where) for v in _fields(chunk, where, "offsets", "sizes"))
        inside = len(start) == len(block) == len(shape) and all(
            begin + n <= whole for begin, n, whole in zip(start, block, shape, strict=True)
        )
        if not inside:
            raise FormatError(f"{where}: block {list(block)} at {list(start)} of {list(shape)}")
        pieces.append(folder.piece(fqn, start, block))
        if pieces[-1].num_bytes < bytes_of(dtype, block, where):
            raise FormatError(f"{where}: {pieces[-1].num_bytes} bytes for {dtype} {list(block)}")
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise FormatError(f"{where}: its blocks do not make up {list(shape)}")
    return TensorInfo(fqn, str(dtype), shape, bytes_of(dtype, shape, where), tuple(pieces))


def _common(folder: _Folder) -> Mapping[str, Any]:
    """Arguments and iteration: in one entry since Megatron-Core 0.19, or one each (torch_dcp)."""
    try:
        whole = folder.object(_COMMON_STATE)
        if isinstance(whole, list) and len(whole) == 1 and isinstance(whole[0], dict):
            return whole[0]
        return {name: folder.object(name) for name in ("args", "iteration")}
    except (FormatError, UnsupportedError):
        return {}


def read_metadata(path: Path) -> tuple[dict[str, TensorInfo], Mapping[str, Any]]:
    """The tensors of a folder by name, those of optimizers left out; and what else was saved.

    That is ``args`` and ``iteration``, where they are stored beside the tensors and hold nothing
    that is refused; they are no part of the model, so a checkpoint opens without them too.

    Nothing of the pickles is imported or run, so that neither torch nor megatron is needed. Raises
    FormatError for a damaged or refused ``.metadata``, and for blocks that are in no file or do
    not make up their tensor; UnsupportedError for compressed blocks.
    """
    metadata = _load(path / ".metadata")
    folder = _Folder(path, metadata.fields["storage_data"])
    tensors = {
        fqn: _tensor(folder, fqn, entry)
        for fqn, entry in metadata.fields["state_dict_metadata"].items()
        if isinstance(fqn, str)
        and isinstance(entry, Record)
        and "size" in entry.fields
        and not fqn.startswith(_NOT_MODEL)
    }
    return tensors, _common(folder)
