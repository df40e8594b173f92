"""The names that a pickle may use, and the inert things that they stand for.

Three literal lists, CHECKPOINTS, BATCHES and DUMPS (below), are all that is ever found; nothing
that a pickle names is imported. So no torch, megatron, verl or tensordict is needed, and nothing
runs.

Sources: torch 2.13 (distributed.checkpoint.metadata, .planner, .filesystem; _utils;
serialization), megatron-core 0.15.3 (dist_checkpointing.strategies.torch.MCoreMetadata) and
0.16.1, verl 0.9.1 (protocol), ROLL 8eb27cc2 (distributed.scheduler.protocol), SkyRL 0.3.0 and
0.4.0 (backends.skyrl_train.training_batch), tensordict 0.15 (_reductions), numpy 2.4 (_core), slime
624b824a (utils.tensor_store), vime 2b83ea20 (data.tensor), xtuner b934f462 (data_proto.rl_data,
rl.replay_buffer), torch 2.13 (nested._internal.nested_tensor).
"""

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError
from ..visible import quoted
from .dtypes import TORCH_DTYPES
from .records import (
    MAX_RANK,
    AttributeDict,
    Parameter,
    PickledCall,
    Record,
    StoredArray,
    StoredBuffer,
    StoredDType,
    StoredTensor,
    numpy_scalar,
)

__all__ = ["BATCHES", "CHECKPOINTS", "DUMPS", "Names"]

Names = dict[tuple[str, str], Any]
_MOST_ARGUMENTS = 16  # of a maker of tensors


def _records(modules: Mapping[str, tuple[str, ...]]) -> Names:
    return {(m, n): type(n, (Record,), {}) for m, names in modules.items() for n in names}


_STORAGES = {
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
}
_DCP = "torch.distributed.checkpoint."
_CORE = "megatron.core."
_CHECKPOINTS = {  # modules, and the names of theirs that become records
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
    "builtins": ("set", "frozenset", "bytearray", "slice", "complex"),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
}
_SKYRL = ("TrainingInputBatch", "TrainingOutputBatch", "TensorBatch", "_rebuild_tensor_batch")
_BATCHES = {
    "verl.protocol": ("DataProto",),
    "roll.distributed.scheduler.protocol": ("DataProto",),
    "skyrl.backends.skyrl_train.training_batch": _SKYRL,
    "skyrl_train.training_batch": _SKYRL,
    "tensordict._reductions": ("_rebuild_tensordict_files_consolidated", "_make_td"),
    "tensordict._td": ("TensorDict",),
    "torch.serialization": ("_get_layout",),
    "torch": ("device",),
    "io": ("BytesIO",),
    "_io": ("BytesIO",),
    "builtins": ("set", "frozenset", "bytearray", "slice", "complex"),
    "datetime": ("datetime", "date", "timedelta"),
    "uuid": ("UUID", "SafeUUID"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "numpy": ("ndarray", "dtype"),
}


def _size(*args: Any) -> tuple[Any, ...]:
    """A torch.Size."""
    if len(args) != 1 or not isinstance(args[0], tuple | list) or len(args[0]) > MAX_RANK:
        raise FormatError(f"a torch.Size of {quoted(args)}")
    return tuple(args[0])


def _old_bytes(text: Any = None, encoding: Any = None) -> bytes:
    """Bytes as protocol 2 has them."""
    if encoding != "latin1" or not isinstance(text, str):
        raise FormatError(f"bytes encoded as {quoted(encoding, 20)}, expected latin1")
    return text.encode("latin1")


def _word(*args: Any) -> str:
    """A member of SkyRL's TensorFormat, an enum of words: the word."""
    if len(args) != 1 or type(args[0]) is not str:
        raise FormatError(f"a TensorFormat of {quoted(args)}")
    return args[0]


_PLAIN: Names = {
    ("torch", "Size"): PickledCall(_size),
    ("collections", "OrderedDict"): AttributeDict,
    ("_codecs", "encode"): PickledCall(_old_bytes, copies=True),
}
_TENSORS: Names = {
    **{("torch", n): StoredDType(dtype) for n, dtype in (TORCH_DTYPES | _STORAGES).items()},
    **_PLAIN,
    ("collections", "defaultdict"): AttributeDict,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): Parameter,
}
_CORES = ("core", "_core")  # numpy 1's and 2's
_SCALAR = PickledCall(numpy_scalar, copies=True)
_NUMPY: Names = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StoredArray for core in _CORES},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in _CORES},
}
CHECKPOINTS: Names = {**_TENSORS, **_records(_CHECKPOINTS)}
BATCHES: Names = {
    **_TENSORS,
    **_records(_BATCHES),
    **_NUMPY,
    ("skyrl.backends.skyrl_train.training_batch", "TensorFormat"): PickledCall(_word),
    **{(f"numpy.{core}.numeric", "_frombuffer"): StoredBuffer for core in _CORES},
}


def _of_type(maker: Any, _type: Any, args: Any, _state: Any) -> Any:
    """A tensor with attributes, or of a class of its own: what its maker makes, without them."""
    if not isinstance(args, tuple) or len(args) > _MOST_ARGUMENTS:
        raise FormatError(f"a tensor of a class of its own, made of {quoted(args)}")
    return maker(*args)


_NESTED = "torch.nested._internal.nested_tensor"
_DUMPS = {  # of slime's and vime's samples, and of verl's TensorDict of nested tensors
    "torch": ("device", "Tensor"),
    "__builtin__": ("set",),
    "builtins": ("set",),
    "numpy": ("ndarray", "dtype"),
    "slime.utils.tensor_store": ("DiskTensorRef",),
    "vime.data.tensor": ("DiskTensorRef",),
    "xtuner.v1.data_proto.rl_data": (
        *("RolloutState", "Status", "SampleParams", "RolloutToolCall", "RolloutFunctionCall"),
    ),
    "xtuner.v1.rl.replay_buffer": ("SerializedRayObjectRef",),
    "tensordict._reductions": ("_make_td",),
    "tensordict._td": ("TensorDict",),
    "tensordict.tensorclass": ("NonTensorData", "NonTensorStack"),
    "torch._dynamo.decorators": ("_DimRange",),
    _NESTED: ("NestedTensor", "_rebuild_njt"),
}
DUMPS: Names = {  # and the makers of tensors, which torch_files.py adds; by "*" what is not read
    **{("torch", n): StoredDType(dtype) for n, dtype in _STORAGES.items()},
    **{("torch", n): StoredDType(TORCH_DTYPES[n]) for n in ("uint16", "uint32", "uint64")},
    **_NUMPY,
    **_records(_DUMPS),
    ("torch.storage", "UntypedStorage"): StoredDType("U8"),
    **_PLAIN,
    ("torch._tensor", "_rebuild_from_type_v2"): PickledCall(_of_type),
    ("xtuner", "*"): "of xtuner's classes the states of debug_rollout_<step>.pt alone are read",
    ("ray", "*"): "references into a Ray cluster, which no file holds",
}
