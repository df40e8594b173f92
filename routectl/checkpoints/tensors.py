"""Bytes of a checkpoint as torch tensors, in their stored dtype."""

import math
import mmap
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import FormatError, UnsupportedError
from ..files.places import RemotePath
from ..files.reading import open_mappable, open_regular
from ..pickled.archives import single_tensor
from ..pickled.members import Member
from .infos import Piece, TensorInfo

__all__ = ["read_tensor"]

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
} | ({"F8_E8M0": torch.float8_e8m0fnu} if hasattr(torch, "float8_e8m0fnu") else {})


@lru_cache(1 << 16)
def _check_storage(file: Path, _written: int, member: Member) -> None:
    """Raise FormatError unless a storage of a file, written at that time, is what was written."""
    with (
        open_mappable(file) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as pages,
    ):
        member.check_mapped(pages, str(file))


def _mapped(piece: Piece, dtype: torch.dtype) -> torch.Tensor:
    """The elements of a raw piece over privately mapped pages."""
    if piece.member is not None:
        _check_storage(piece.file, piece.file.stat().st_mtime_ns, piece.member)
    if isinstance(piece.file, RemotePath):
        return _ranged(piece, dtype)
    start = piece.offset - piece.offset % mmap.ALLOCATIONGRANULARITY
    skip = piece.offset - start
    with open_regular(piece.file) as file:
        pages = mmap.mmap(
            file.fileno(), skip + piece.num_bytes, access=mmap.ACCESS_COPY, offset=start
        )
    if skip % dtype.itemsize == 0:
        flat = torch.frombuffer(pages, dtype=dtype, count=math.prod(piece.shape), offset=skip)
    else:  # a header of odd length: elements must be aligned
        flat = torch.frombuffer(bytearray(pages[skip:]), dtype=dtype)
    return flat.view(piece.shape)


def _ranged(piece: Piece, dtype: torch.dtype) -> torch.Tensor:
    """The elements of a raw piece of a remote file: its bytes alone, in memory."""
    data = bytearray(piece.num_bytes)
    with open_regular(piece.file) as file:
        file.seek(piece.offset)
        if file.readinto(data) != len(data):
            raise ValueError("cut short")
    return torch.frombuffer(data, dtype=dtype, count=math.prod(piece.shape)).view(piece.shape)


def _archived(piece: Piece, name: str, where: str) -> torch.Tensor:
    """The one tensor of a torch.save archive that lies within a file."""
    dtype = _DTYPES[name]
    with open_regular(piece.file) as file:
        file.seek(piece.offset)
        data = file.read(piece.num_bytes)
    stored, begin, strides = single_tensor(data, where)
    if stored != name:
        raise FormatError(f"{where}: {piece.file.name} holds {stored}, expected {name}")
    last = sum((size - 1) * step for size, step in zip(piece.shape, strides, strict=False))
    elements = bytearray(data[begin : begin + (last + 1) * dtype.itemsize])
    if len(strides) != len(piece.shape) or len(elements) != (last + 1) * dtype.itemsize:
        raise FormatError(f"{where}: {piece.file.name} holds another shape than {piece.shape}")
    return torch.frombuffer(elements, dtype=dtype).as_strided(piece.shape, strides)


def _piece(piece: Piece, name: str, where: str) -> torch.Tensor:
    if math.prod(piece.shape) == 0:
        return torch.empty(piece.shape, dtype=_DTYPES[name])
    try:
        return _archived(piece, name, where) if piece.archived else _mapped(piece, _DTYPES[name])
    except (OSError, ValueError) as error:
        raise FormatError(f"{where}: {piece.file}: cannot be read: {error}") from None


def read_tensor(info: TensorInfo, where: str) -> torch.Tensor:
    """A stored tensor on the CPU: mapped when it is one raw piece, else put together.

    ``where`` opens the message of a FormatError, or of an UnsupportedError for a dtype that torch
    has not.
    """
    where = f"{where}: {info.name}"
    if info.dtype not in _DTYPES:
        raise UnsupportedError(f"{where}: torch has no {info.dtype}")
    if not info.pieces:
        raise UnsupportedError(f"{where}: not stored in C order")
    if len(info.pieces) == 1 and info.pieces[0].shape == info.shape:
        return _piece(info.pieces[0], info.dtype, where)
    whole = torch.empty(info.shape, dtype=_DTYPES[info.dtype])
    covered = torch.zeros(info.shape, dtype=torch.bool)
    for piece in info.pieces:
        block = tuple(
            slice(begin, begin + size) for begin, size in zip(piece.start, piece.shape, strict=True)
        )
        whole[block] = _piece(piece, info.dtype, where)
        covered[block] = True
    if not covered.all():
        raise FormatError(f"{where}: its pieces leave part of it out")
    return whole
