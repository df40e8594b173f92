"""What stands for numpy's and slime's objects in a pickle: inert, made arrays when asked.

Nothing of numpy is called while a pickle is read: an array stays bytes, a shape and a dtype's name
until it is wanted, and is then held against its bytes. Sources: numpy 2.4 (``ndarray.__reduce__``,
protocol 2) and slime (utils/tensor_store.py, ``DiskTensorRef``).
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .array_files import open_array_file
from .fields import one_line

__all__ = ["STAND_INS", "DiskTensor", "StoredArray"]

_KINDS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class _StoredDType:
    """A dtype by its code, such as i4, and its byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code
        self.big = False

    def __setstate__(self, state: Any) -> None:
        self.big = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"


class StoredArray:
    """An array of a pickle: its state is version, shape, dtype, Fortran order and bytes."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self, where: str) -> NDArray[Any]:
        """The array. Raises FormatError unless it is numbers, with as many bytes as its shape."""
        match self._state:
            case (int(), tuple(shape), _StoredDType(code=str(code)) as dtype, bool(fortran), data):
                pass
            case _:
                raise FormatError(f"{where}: a numpy array that is not whole")
        if code not in _KINDS or not isinstance(data, bytes):
            raise FormatError(
                f"{where}: got a numpy array of {one_line(repr(code))}, expected numbers"
            )
        if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise FormatError(f"{where}: got a numpy array of shape {one_line(shape)}")
        kind = np.dtype(code).newbyteorder(">" if dtype.big else "<")
        if prod(shape) * kind.itemsize != len(data):
            raise FormatError(
                f"{where}: got {len(data)} bytes, expected {prod(shape) * kind.itemsize} for "
                f"{code} {tuple(shape)}"
            )
        array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        return array.astype(kind.newbyteorder("="), copy=False)


class _Scalar:
    """A numpy number in what nobody here asks for, such as a reward."""

    def __init__(self, *_: Any) -> None:
        """It is not kept."""


class DiskTensor:
    """slime's reference to a tensor that it spilled to a safetensors file beside the dump."""

    path: Any = None
    shape: Any = None

    def read(self, dump: Path, where: str) -> NDArray[Any]:
        """The tensor, out of the dump's own spill folder and from nowhere else.

        slime links spilled files to ``<dump>_r3_spill/<id>/<n>_<name>`` and pickles the path as it
        was then; only its last two parts are used. Raises FormatError.
        """
        parts = Path(self.path).parts[-2:] if isinstance(self.path, str) else ()
        if len(parts) != 2 or any(part in ("..", "/") for part in parts):
            raise FormatError(f"{where}: a spilled tensor without a path")
        file = dump.parent / f"{dump.stem}_r3_spill" / parts[0] / parts[1]
        if not file.is_file():
            raise FormatError(f"{where}: its routes were spilled to {file}, which is not there")
        held = open_array_file(file, "safetensors")
        shape = held.shapes.get("tensor")
        if shape != self.shape:
            raise FormatError(f"{where}: {file} holds {shape}, expected {one_line(self.shape)}")
        return held.read("tensor")


class _NDArray:
    """The class that ``_reconstruct`` is told to make; never made."""


STAND_INS: dict[str, type] = {
    "numpy.core.multiarray._reconstruct": StoredArray,
    "numpy._core.multiarray._reconstruct": StoredArray,
    "numpy.core.multiarray.scalar": _Scalar,
    "numpy._core.multiarray.scalar": _Scalar,
    "numpy.ndarray": _NDArray,
    "numpy.dtype": _StoredDType,
    "slime.utils.tensor_store.DiskTensorRef": DiskTensor,
}
