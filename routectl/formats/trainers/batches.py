"""The pickled batch of a trainer as arrays by name: verl's and ROLL's DataProto, SkyRL's own.

None of them, nor tensordict, nor torch is needed: what their pickles name stands for inert records
(pickled/names.py), and every tensor is laid over bytes that are there. Sources: verl 0.9.1
(protocol.py), ROLL 8eb27cc2 (distributed/scheduler/protocol.py), SkyRL 0.3.0 and 0.4.0
(backends/skyrl_train/training_batch.py), tensordict 0.15 (_reductions.py).
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...pickled.archives import Archive, open_archive
from ...pickled.dtypes import TORCH_DTYPES, numpy_dtype
from ...pickled.names import BATCHES
from ...pickled.reading import load_pickle_file
from ...pickled.records import Record, StoredArray, StoredTensor
from ...visible import quoted
from ..documents.forms import unlike
from ..wire.sample import NoSamplesError
from .fields import fields_of

__all__ = ["PickledBatch", "read_batch"]

Array = NDArray[Any]
_SHARED = 8  # times that the bytes of a batch may be used


@dataclass(frozen=True, slots=True)
class PickledBatch:
    """What a pickled batch holds.

    tensors  arrays by name; of a dtype that numpy has not (float8) or jagged: left out
    columns  one value a sample, by name: verl's and ROLL's non_tensor_batch; damage in one that
             nobody asks for, or several axes, are in nobody's way
    about    what holds for all samples: meta_info, metadata
    packed   SkyRL 0.4's PackedTensors by name, not looked at: values of all samples end to end,
             and cu_seqlens, their bounds
    """

    tensors: dict[str, Array]
    columns: dict[str, StoredArray]
    about: Mapping[str, Any]
    packed: dict[str, tuple[Array, Array]] = field(default_factory=dict)


def _array(dtype: str, shape: Any, data: Any, begin: int, strides: Any = None) -> Array | None:
    """The elements over ``data`` from byte ``begin`` on, at most as many as are there.

    None for a dtype that numpy has not. Raises FormatError for what does not lie within.
    """
    kind = numpy_dtype("U16" if dtype == "BF16" else dtype)
    if kind is None:
        return None
    sizes = tuple(shape) if isinstance(shape, list | tuple) else (-1,)
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise FormatError(f"a tensor of shape {quoted(shape)}")
    if math.prod(sizes) * kind.itemsize > len(data) - begin:
        raise FormatError(f"a tensor {sizes} of {dtype} larger than its {len(data) - begin} bytes")
    steps = None if strides is None else tuple(step * kind.itemsize for step in strides)
    try:
        array: Array = np.ndarray(sizes, kind, data, begin, steps)
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"a tensor {sizes} of {dtype}: {error}") from None
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def _stored(archive: Archive, data: bytes, tensor: StoredTensor, where: str) -> Array | None:
    dtype, begin, shape, strides = archive.place(tensor)
    archive.check(tensor, data, where)
    return _array(dtype, shape, data, begin, strides)


def _consolidated(archive: Archive, data: bytes, record: Record, where: str) -> dict[str, Array]:
    """The leaves of a consolidated TensorDict: ranges of the bytes of one storage."""
    metadata, storage = record.args if len(record.args) == 2 else (None, None)
    leaves = metadata.get("leaves") if isinstance(metadata, dict) else None
    if not isinstance(leaves, dict) or not isinstance(storage, StoredTensor):
        raise FormatError("a TensorDict without leaves or without its storage")
    _, begin, shape, strides = archive.place(storage)
    if len(shape) != 1 or strides != (1,):
        raise FormatError(f"a TensorDict in a storage {shape}, expected plain bytes")
    archive.check(storage, data, where)
    return _named(_leaves(leaves, memoryview(data)[begin : begin + shape[0]]), len(data))


def _leaves(leaves: dict[Any, Any], data: memoryview) -> Iterator[tuple[Any, Array | None]]:
    for name, leaf in leaves.items():
        if not isinstance(leaf, tuple) or len(leaf) < 5 or not isinstance(leaf[0], str):
            raise FormatError(
                f"{quoted(name)}: got {quoted(leaf)}, expected dtype, shape and range"
            )
        word, sizes, start, stop, *_ = leaf
        if not all(type(n) is int for n in (start, stop)) or not 0 <= start <= stop <= len(data):
            raise FormatError(
                f"{quoted(name)}: bytes {quoted(start, 20)} to {quoted(stop, 20)} of {len(data)}"
            )
        dtype = TORCH_DTYPES.get(word.removeprefix("torch."), "")
        yield name, _array(dtype, sizes, data[start:stop], 0)


def _tensordict(data: Any, where: str) -> dict[str, Array]:
    """What torch.save made of a TensorDict."""
    if not isinstance(data, bytes):
        raise FormatError(f"got {type(data).__name__}, expected what torch.save wrote")
    archive = open_archive(io.BytesIO(data), where, BATCHES)
    record = archive.value
    if not isinstance(record, Record):
        raise NoSamplesError(f"{where}: no TensorDict in the batch")
    if type(record).__name__ == "_rebuild_tensordict_files_consolidated":
        return _consolidated(archive, data, record, where)
    fields = fields_of(record)
    if fields is None:
        raise FormatError("a TensorDict without its fields")
    tensors = {n: t for n, t in fields.items() if isinstance(t, StoredTensor)}
    arrays = ((n, _stored(archive, data, t, where)) for n, t in tensors.items())
    return _named(arrays, len(data))


def _named(arrays: Iterable[tuple[Any, Array | None]], held: int) -> dict[str, Array]:
    """The arrays that have a name.

    Raises FormatError where they are of many more bytes than ``held``, those of file or archive:
    tensors may share bytes, and each may be copied.
    """
    found, size = {}, 0
    for name, array in arrays:
        if isinstance(name, str) and array is not None:
            found[name] = array
            size += array.nbytes
        if size > _SHARED * held:
            raise FormatError(f"tensors that share bytes: more than {_SHARED} times {held} bytes")
    return found


def _encoded(items: Any) -> Iterator[tuple[Any, Array | None]]:
    """verl's other form, of VERL_DATAPROTO_SERIALIZATION_METHOD=numpy: dtype, shape, bytes."""
    for name, item in items.items() if isinstance(items, dict) else ():
        if isinstance(item, tuple) and len(item) == 3 and isinstance(item[2], StoredArray):
            dtype = TORCH_DTYPES.get(item[0], "") if isinstance(item[0], str) else ""
            yield name, _array(dtype, item[1], np.ascontiguousarray(item[2].array).data, 0)


def _skyrl_tensor(item: Any, where: str) -> Array | None:
    """A tensor of a TensorBatch: its bytes, numpy's array of them, or what torch.save made of it.

    None of a list of tensors, and of a PackedTensor.
    """
    data = item.get("data") if isinstance(item, dict) else None
    if isinstance(data, StoredArray) and item.get("format") == "numpy_view":
        array = data.array
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if not isinstance(data, bytes):
        return None
    if item.get("format") == "torch":
        archive = open_archive(io.BytesIO(data), where, BATCHES)
        tensor = archive.value
        return _stored(archive, data, tensor, where) if isinstance(tensor, StoredTensor) else None
    word = item.get("dtype")
    return _array(
        TORCH_DTYPES.get(word, "") if isinstance(word, str) else "", item.get("shape"), data, 0
    )


def _columns(value: Any) -> dict[str, StoredArray]:
    """The arrays of a non_tensor_batch."""
    arrays = value.items() if isinstance(value, dict) else ()
    return {n: a for n, a in arrays if isinstance(n, str) and isinstance(a, StoredArray)}


def _proto(state: Any, where: str, held: int) -> PickledBatch:
    """A DataProto: of verl (tensors, columns, meta_info), of ROLL with a remote batch third."""
    if not isinstance(state, tuple) or len(state) not in (3, 4):
        raise FormatError("a DataProto without tensors, columns and meta_info")
    inner, columns, about = state[0], state[1], state[-1]
    if isinstance(inner, Record):  # ROLL's is a BytesIO: its bytes, the place in it and a dict
        whole = inner.fields.get("state")
        inner = whole[0] if isinstance(whole, tuple) and whole else None
    if isinstance(inner, tuple):
        tensors = _named(_encoded(inner[2] if len(inner) == 3 else None), held)
    else:
        tensors = _tensordict(inner, where)
    return PickledBatch(tensors, _columns(columns), about if isinstance(about, dict) else {})


def _skyrl(states: Iterable[Any], where: str, held: int) -> PickledBatch:
    """A TensorBatch of SkyRL: its state has the tensors in ``batch_dict``."""
    state = next((s for s in states if isinstance(s, dict) and "batch_dict" in s), {})
    items, about = state.get("batch_dict"), state.get("metadata")
    if not isinstance(items, dict):
        raise FormatError("a TensorBatch without its batch_dict")
    about = about if isinstance(about, dict) else {}
    tensors = ((name, _skyrl_tensor(item, where)) for name, item in items.items())
    return PickledBatch(_named(tensors, held), {}, about, _packed(items, where, held))


def _packed(items: dict[Any, Any], where: str, held: int) -> dict[str, tuple[Array, Array]]:
    """The PackedTensors of a TensorBatch."""
    found = {}
    for name, item in items.items():
        if isinstance(item, dict) and item.get("format") == "packed_tensor":
            parts = [(n, _skyrl_tensor(item.get(n), where)) for n in ("values", "cu_seqlens")]
            named = _named(parts, held)
            if len(named) != 2 or not isinstance(name, str):
                raise FormatError(f"{quoted(name)}: a PackedTensor without values or cu_seqlens")
            found[name] = (named["values"], named["cu_seqlens"])
    return found


def read_batch(path: Path) -> PickledBatch:
    """The batch that a trainer pickled.

    Raises FormatError on damage and on a pickle that names anything off the list, NoSamplesError
    when it is well and no such batch.
    """
    value = load_pickle_file(path, BATCHES)
    name, held = type(value).__name__, path.stat().st_size
    try:
        if name == "DataProto":
            return _proto(value.fields.get("state"), str(path), held)
        if name == "_rebuild_tensor_batch" or name.endswith("Batch"):
            return _skyrl((*value.args, value.fields), str(path), held)
    except FormatError as error:
        known = str(error).startswith(str(path))
        raise error if known else FormatError(f"{path}: {error}") from None
    raise NoSamplesError(f"{path}: a pickle without routes: {unlike([name], 'pickle')}")
