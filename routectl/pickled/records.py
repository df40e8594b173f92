"""What the objects of a pickle become: inert records, and arrays checked when asked for.

Sources: torch 2.13 (_utils), numpy 2.4 (_core: ``ndarray.__reduce__``, protocols 2 to 5).
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..visible import quoted

__all__ = [
    "MAX_RANK",
    "AttributeDict",
    "Parameter",
    "PickledCall",
    "Record",
    "Storage",
    "StoredArray",
    "StoredBuffer",
    "StoredDType",
    "StoredTensor",
    "numpy_scalar",
]

_PLAIN = re.compile(r"[iu][1248]|f[248]|b1|c(?:8|16)|U[1-9]\d{0,5}")
_ORDERS = {"<": "<", "|": "", ">": ">", "=": "="}
MAX_RANK = 64  # axes, as numpy 2 has them at most; torch files have fewer


class PickledCall:
    """A function that a pickle may call, and not change.

    ``copies``: it copies the bytes or text that it is given, which is counted (reading.py).
    """

    __slots__ = ("_function", "copies")

    def __init__(self, function: Callable[..., Any], *, copies: bool = False) -> None:
        self._function, self.copies = function, copies

    def __call__(self, *args: Any) -> Any:
        """What the function gives."""
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        """No pickle changes it."""
        raise FormatError("a function with a state")


class Record:
    """An object of a pickle: the arguments it was made with, and its state by name."""

    args: tuple[Any, ...]
    fields: dict[str, Any]

    def __new__(cls, *args: Any, **_: Any) -> "Record":
        """Make it whole: a pickle may call this alone."""
        record = super().__new__(cls)
        record.args, record.fields = args, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.fields = state if isinstance(state, dict) else {"state": state}


class StoredTensor(Record):
    """A tensor of a torch.save archive: its storage, and where and how it lies in it."""

    @property
    def layout(self) -> tuple[str, str, int, tuple[int, ...], tuple[int, ...]]:
        """Storage key, dtype, first element, shape and strides; raises FormatError."""
        args = [*self.args, None, None, None, None][:4]
        storage, offset, shape, strides = args
        sizes = [offset, *(shape or ()), *(strides or ())] if _sizes(shape, strides) else [None]
        if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in sizes):
            raise FormatError("a tensor without a storage, shape or strides")
        key, dtype = storage.args[0], storage.args[1]
        return key, dtype, offset, tuple(shape), tuple(strides)


class Storage(Record):
    """A storage, by key and dtype."""


def _sizes(shape: object, strides: object) -> bool:
    both = isinstance(shape, tuple) and isinstance(strides, tuple)
    return both and len(shape) == len(strides) <= MAX_RANK  # type: ignore[arg-type]


class AttributeDict(dict[Any, Any]):
    """An OrderedDict or defaultdict, which may have attributes."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Its attributes are not kept."""


class StoredDType(str):
    """A torch dtype or storage class, in safetensors' words."""

    __slots__ = ()


class Parameter(Record):
    """A Parameter gives the tensor that it holds."""

    def __new__(cls, value: Any = None, *_: Any, **__: Any) -> Any:
        """The tensor."""
        return value


class StoredArray(Record):
    """A numpy array: ``numpy._core.multiarray._reconstruct`` and its state."""

    @property
    def _parts(self) -> tuple[Any, Any, Any, Any]:
        """Shape, dtype, whether in Fortran order, and the bytes or the list of elements."""
        state = self.fields.get("state")
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("a numpy array without its state")
        return state[1], state[2], state[3], state[4]

    @property
    def weight(self) -> int:
        """Its bytes, which are elements at most; objects are counted as what they are."""
        data = self._parts[3] if self.fields or self.args else b""
        return len(data) if isinstance(data, bytes | bytearray) else 0

    @property
    def array(self) -> NDArray[Any]:
        """The array over its bytes. Raises FormatError where it holds no numbers or text."""
        shape, dtype, fortran, data = self._parts
        kind = _numpy_dtype(dtype)
        if kind is None or not isinstance(data, bytes | bytearray):
            raise FormatError("a numpy array of objects, expected numbers")
        return _over(data, shape, kind, "F" if fortran else "C")

    @property
    def values(self) -> list[Any]:
        """The elements along the first axis, of an array of objects too; raises FormatError."""
        shape, _, _, data = self._parts
        if not isinstance(data, list):
            array = self.array
            return list(array.tolist()) if array.size else []
        if not isinstance(shape, tuple) or len(shape) != 1 or shape[0] != len(data):
            raise FormatError(f"{len(data)} objects in a numpy array of shape {quoted(shape)}")
        return data


class StoredBuffer(StoredArray):
    """A numpy array of pickle protocol 5: ``numpy._core.numeric._frombuffer``."""

    @property
    def _parts(self) -> tuple[Any, Any, Any, Any]:
        """As of an array: the arguments are bytes, dtype, shape and order."""
        if len(self.args) != 4:
            raise FormatError("a numpy buffer without dtype, shape or order")
        data, dtype, shape, order = self.args
        return shape, dtype, order == "F", data


class _Scalar(Record):
    """A numpy scalar of another kind than numbers and text."""


def numpy_scalar(*args: Any) -> Any:
    """The value of a numpy scalar: ``numpy._core.multiarray.scalar``."""
    kind = _numpy_dtype(args[0]) if len(args) == 2 else None
    if kind is None or not isinstance(args[1], bytes):
        return _Scalar(*args)
    return _over(args[1], (), kind, "C").item()


def _numpy_dtype(value: Any) -> np.dtype[Any] | None:
    """A plain numpy dtype from its code and the byte order in its state; None for any other."""
    code = value.args[0] if isinstance(value, Record) and value.args else None
    state = value.fields.get("state") if isinstance(value, Record) else None
    if not isinstance(code, str) or not _PLAIN.fullmatch(code):
        return None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    known = isinstance(order, str) and order in _ORDERS
    return np.dtype(_ORDERS[order] + code) if known else None


def _over(data: bytes | bytearray, shape: Any, dtype: np.dtype[Any], order: Any) -> NDArray[Any]:
    """An array that is exactly its bytes; raises FormatError."""
    sizes = shape if isinstance(shape, tuple) and len(shape) <= MAX_RANK else (-1,)
    sizes = sizes if all(type(n) is int for n in sizes) else (-1,)
    count = dtype.itemsize
    for size in sizes:
        count *= size if size >= 0 else -1
    if min(sizes, default=0) < 0 or count != len(data):
        raise FormatError(f"{len(data)} bytes for a numpy array {quoted(shape)} of {dtype}")
    try:
        return np.ndarray(sizes, dtype, data, order=order)
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"no numpy array is of shape {quoted(shape)}: {error}") from None
