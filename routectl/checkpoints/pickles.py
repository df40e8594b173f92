"""Pickles that torch and Megatron-Core write, read without running or importing what they name.

Every name that a pickle may use is listed here, and stands for an inert record, a plain container
or a dtype; another name is refused. So no torch and no megatron is needed, and nothing runs.

Sources: torch 2.13 (distributed.checkpoint.metadata, .planner, .filesystem; _utils; serialization)
and megatron-core 0.15.3 (dist_checkpointing.strategies.torch.MCoreMetadata) and 0.16.1.
"""

import io
import pickle
from typing import Any

from ..errors import FormatError

__all__ = ["Record", "StoredTensor", "load_pickle"]

_FAILURES = (
    *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError),
    *(IndexError, OverflowError, RecursionError, MemoryError, AssertionError),
)


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
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in sizes):
            raise FormatError("a tensor without a storage, shape or strides")
        key, dtype = storage.args[0], storage.args[1]
        return key, dtype, offset, tuple(shape), tuple(strides)


class _Storage(Record):
    """A storage, by key and dtype."""


def _sizes(shape: object, strides: object) -> bool:
    return isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)


class _Dict(dict[Any, Any]):
    """An OrderedDict or defaultdict, which may have attributes."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Its attributes are not kept."""


class _DType(str):
    """A torch dtype or storage class, in safetensors' words."""

    __slots__ = ()


class _Parameter(Record):
    """A Parameter gives the tensor that it holds."""

    def __new__(cls, value: Any = None, *_: Any, **__: Any) -> Any:
        return value


_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "BoolStorage": "BOOL", "ByteStorage": "U8", "CharStorage": "I8", "ShortStorage": "I16",
    "IntStorage": "I32", "LongStorage": "I64", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "FloatStorage": "F32", "DoubleStorage": "F64",
}  # fmt: skip
_DCP = "torch.distributed.checkpoint."
_CORE = "megatron.core."
_INERT = {  # modules, and the names of theirs that become records
    f"{_DCP}metadata": (
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("BytesStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    f"{_DCP}planner": ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData"),
    f"{_DCP}filesystem": ("_StorageInfo",),
    f"{_CORE}dist_checkpointing.strategies.torch": ("MCoreMetadata", "MCoreSavePlan"),
    f"{_CORE}dist_checkpointing.strategies.filesystem_async": ("_StorageInfo",),
    f"{_CORE}enums": ("ModelType", "Fp8Recipe", "Fp4Recipe"),
    f"{_CORE}transformer.enums": ("AttnBackend", "AttnMaskType", "LayerType", "CudaGraphScope"),
    f"{_CORE}transformer.pipeline_parallel_layer_layout": ("PipelineParallelLayerLayout",),
    f"{_CORE}rerun_state_machine": ("RerunMode", "RerunState", "RerunDiagnostic"),
    "torch.serialization": ("_get_layout",),
    "torch": ("device", "Generator"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath"),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "io": ("BytesIO",),
    "_io": ("BytesIO",),
    "_codecs": ("encode",),
    "builtins": ("set", "frozenset", "bytearray", "slice", "complex"),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
}
_NAMES: dict[tuple[str, str], Any] = {
    **{(m, n): type(n, (Record,), {}) for m, names in _INERT.items() for n in names},
    **{("torch", name): _DType(dtype) for name, dtype in _DTYPES.items()},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): _Dict,
    ("collections", "defaultdict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
}

# Opcodes of protocols 2 to 5 that these writers use: bytes of argument, or of a length before it.
_ARGUMENT = {
    **dict.fromkeys(b".0(12NR)}]abesltQu\x85\x86\x87\x88\x89\x81\x94\x93\x8f\x90\x91\x92", 0),
    **dict.fromkeys(b"Khq\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jjr", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_LENGTH = {**dict.fromkeys(b"U\x8c\x8aC", 1), **dict.fromkeys(b"TXB\x8b", 4),
           **dict.fromkeys(b"\x8d\x8e", 8)}  # fmt: skip


def _check(data: bytes) -> None:
    """Walk the opcodes: no other ones, all inside the data, memo slots no more than its bytes."""
    at, end = 0, len(data)
    while at < end:
        opcode = data[at]
        at += 1
        size = _ARGUMENT.get(opcode)
        if size is None:
            width = _LENGTH.get(opcode)
            if width is not None:
                size = width + int.from_bytes(data[at : at + width], "little")
            elif opcode == 0x63:  # GLOBAL: two lines
                size = data.index(b"\n", data.index(b"\n", at) + 1) + 1 - at
            else:
                raise FormatError(f"opcode {opcode:#04x} at byte {at - 1}")
        elif opcode == 0x72 and int.from_bytes(data[at : at + 4], "little") > end:
            raise FormatError(f"memo slot beyond the data at byte {at - 1}")
        at += size
        if opcode == 0x2E:
            return
    raise FormatError("no end")


class _Unpickler(pickle.Unpickler):
    """Finds names in the list above alone."""

    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise FormatError(f"names {module[:80]}.{name[:80]}, which is not on the list")
        return found

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, dtype, key, _, _ = pid
            if isinstance(dtype, _DType) and isinstance(key, str):
                return _Storage(key, str(dtype))
        raise FormatError("a persistent object that is no storage of a known dtype")


def load_pickle(data: bytes, where: str) -> Any:
    """What a pickle of torch or Megatron-Core holds, its objects as Records.

    Raises FormatError, opened by ``where``, for a damaged pickle and for one that names anything
    but the classes listed in this file, before anything of it is made.
    """
    try:
        _check(data)
        return _Unpickler(io.BytesIO(data)).load()
    except FormatError as error:
        raise FormatError(f"{where}: refused pickle: {error}") from None
    except _FAILURES as error:
        kind = type(error).__name__
        raise FormatError(f"{where}: damaged pickle: {kind}: {str(error)[:120]}") from None
