"""The names that a pickle may use, and the inert things that they stand for.

Two literal lists, CHECKPOINTS and BATCHES (below), are all that is ever found; nothing that a
pickle names is imported. So no torch, megatron, verl or tensordict is needed, and nothing runs.
Files of torch.save go through torch's own ``weights_only`` loader, once their names are found to
be among TORCH_NAMES, or, of verl's jagged batch, JAGGED_NAMES.

Sources: torch 2.13 (distributed.checkpoint.metadata, .planner, .filesystem; _utils;
serialization), megatron-core 0.15.3 (dist_checkpointing.strategies.torch.MCoreMetadata) and
0.16.1, verl 0.9.1 (protocol), ROLL 8eb27cc2 (distributed.scheduler.protocol), SkyRL 0.3.0
(backends.skyrl_train.training_batch), tensordict 0.15 (_reductions), numpy 2.4 (_core).
"""

from collections.abc import Mapping
from typing import Any

from .records import (
    AttributeDict,
    NumpyScalar,
    Parameter,
    Record,
    StoredArray,
    StoredBuffer,
    StoredDType,
    StoredTensor,
)

__all__ = ["BATCHES", "CHECKPOINTS", "JAGGED_NAMES", "NUMPY_NAMES", "TORCH_NAMES", "Names"]

Names = dict[tuple[str, str], Any]


def _records(modules: Mapping[str, tuple[str, ...]]) -> Names:
    return {(m, n): type(n, (Record,), {}) for m, names in modules.items() for n in names}


_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
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
    "_codecs": ("encode",),
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
    "_codecs": ("encode",),
    "builtins": ("set", "frozenset", "bytearray", "slice", "complex"),
    "datetime": ("datetime", "date", "timedelta"),
    "uuid": ("UUID", "SafeUUID"),
    "pathlib": ("Path", "PosixPath", "PurePosixPath"),
    "numpy": ("ndarray", "dtype"),
}
_TENSORS: Names = {
    **{("torch", name): StoredDType(dtype) for name, dtype in _DTYPES.items()},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): AttributeDict,
    ("collections", "defaultdict"): AttributeDict,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): Parameter,
}
CHECKPOINTS: Names = {**_TENSORS, **_records(_CHECKPOINTS)}
BATCHES: Names = {
    **_TENSORS,
    **_records(_BATCHES),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): StoredArray for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): StoredBuffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): NumpyScalar for core in ("core", "_core")},
}
NUMPY_NAMES = frozenset(  # of BATCHES, in files of torch.save
    {
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
    }
)
_STORAGES = ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double")
TORCH_NAMES = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.Size",
        "torch.device",
        "torch.uint16",
        "torch.uint32",
        "torch.uint64",
        "torch.storage.UntypedStorage",
        *(f"torch.{name}Storage" for name in _STORAGES),
        "_codecs.encode",
        "__builtin__.set",
        "builtins.set",
        "slime.utils.tensor_store.DiskTensorRef",
        *NUMPY_NAMES,
    }
)
JAGGED_NAMES = frozenset(  # of a TensorDict of jagged tensors, verl's tq_batch.pt
    {
        "tensordict._reductions._make_td",
        "tensordict._td.TensorDict",
        "tensordict.tensorclass.NonTensorData",
        "tensordict.tensorclass.NonTensorStack",
        "torch.Tensor",
        "torch._dynamo.decorators._DimRange",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nested._internal.nested_tensor.NestedTensor",
        "torch.nested._internal.nested_tensor._rebuild_njt",
    }
)
