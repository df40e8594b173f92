"""Dumped router inputs: the hidden states that each router was given, as one safetensors file.

``layer.N`` [T, D] of each MoE layer N (0-based), the samples end to end; ``cu_seqlens`` int [B + 1]
and ``token_ids`` int [T] where they are known. A router trace of Megatron-Core with hidden states
(router_trace.py) is the same. Shape suffixes: T tokens of all samples, D hidden size, B samples, L
MoE layers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import FormatError, MismatchError
from ..files.reading import open_regular
from ..files.writing import replacing
from .headers import layer_tensors, read_header
from .infos import TensorInfo
from .router_trace import read_trace, trace_files, trace_tensor

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = [
    "InputShapes",
    "InputsWriter",
    "RouterInputs",
    "is_router_inputs",
    "open_router_inputs",
    "writing_inputs",
]

SCHEMA = "routectl.router_inputs/1"
_LAYER = re.compile(r"layer\.(\d{1,4})")
_FLOATS = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True, slots=True, eq=False)
class RouterInputs(Mapping[int, "torch.Tensor"]):
    """Hidden states [T, D] by layer, mapped when asked for; without lens, all is one sample.

    ``staged``: layers may be numbered within a pipeline stage, so that they are a model's only
    where they are all of its.
    """

    path: Path
    infos: Mapping[int, TensorInfo]
    lens: tuple[int, ...] | None
    token_ids_T: "torch.Tensor | None"
    staged: bool = False

    def __getitem__(self, layer: int) -> "torch.Tensor":
        from .tensors import read_tensor

        return read_tensor(self.infos[layer], str(self.path))

    def __iter__(self) -> Iterator[int]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def is_router_inputs(path: Path) -> bool:
    """Whether a path names router inputs: safetensors, by the header, or a trace that has some."""
    if traces := trace_files(path):
        sides = [one.with_name(f"hidden_states_{one.stem[13:]}.bin") for one in traces]
        return any(side.is_file() and side.stat().st_size for side in sides)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    found = layer_tensors(read_header(path), _LAYER)
    return any(info.dtype in _FLOATS and len(info.shape) == 2 for _, info in found)


def open_router_inputs(
    path: Path, tokens: "Sequence[NDArray[np.int32]] | None" = None
) -> RouterInputs:
    """A file of router inputs, from its header, lengths and token ids; or the trace of a rank.

    ``tokens`` are the ids of each sample of a trace, in the order of its rows, which has none
    itself; without, a micro-batch is a sample. Raises FormatError where a layer is not [T, D]
    floats, lengths do not fit, or a tensor is another than these.
    """
    from .tensors import read_tensor

    if traces := trace_files(path):
        return _of_trace(path, traces, tokens)
    if tokens is not None:
        raise MismatchError(f"{path}: no router trace: it has its own tokens, or none")
    _refuse_texts(path)
    header = read_header(path)
    _refuse_others(path, header)
    infos = {}
    for layer, info in layer_tensors(header, _LAYER):
        if info.dtype not in _FLOATS or len(info.shape) != 2:
            raise FormatError(
                f"{path}: {info.name}: got {info.dtype} {list(info.shape)}, expected floats [T, D]"
            )
        infos[layer] = info
    if not infos:
        raise FormatError(f"{path}: no layer.N among {len(header)} tensors")
    rows = next(iter(infos.values())).shape[0]
    lens = None
    if "cu_seqlens" in header:
        ends = read_tensor(header["cu_seqlens"], str(path)).flatten().tolist()
        lens = tuple(end - begin for begin, end in pairwise(ends))
        if not lens or ends[0] != 0 or ends[-1] != rows or min(lens) < 1:
            raise FormatError(f"{path}: cu_seqlens do not cut {rows} tokens: got {ends[:4]}...")
    ids_T = read_tensor(header["token_ids"], str(path)) if "token_ids" in header else None
    if ids_T is not None and tuple(ids_T.shape) != (rows,):
        raise FormatError(f"{path}: token_ids: got {list(ids_T.shape)}, expected [{rows}]")
    return RouterInputs(path, dict(sorted(infos.items())), lens, ids_T)


def _of_trace(
    path: Path, traces: Sequence[Path], tokens: "Sequence[NDArray[np.int32]] | None"
) -> RouterInputs:
    """The hidden states of a trace, where they are in its sidecar."""
    import numpy as np
    import torch

    if len(traces) != 1:
        raise FormatError(f"{path}: traces of {len(traces)} ranks, expected the file of one")
    trace = read_trace(traces[0])
    if not trace.has_inputs:
        raise FormatError(
            f"{trace.path}: a router trace without hidden states",
            hint="Megatron's --moe-routing-trace-capture-hidden-states",
        )
    infos = {layer: trace_tensor(trace, layer) for layer in trace.layers}
    rows, ids_T = sum(batch.tokens for batch in trace.batches), None
    lens = tuple(batch.tokens for batch in trace.batches)
    if tokens is not None:
        ids_T = torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *tokens]))
        lens = tuple(len(ids) for ids in tokens)
        if len(ids_T) != rows or 0 in lens:
            raise MismatchError(f"{trace.path}: {rows} rows, tokens of {len(ids_T)}")
    return RouterInputs(trace.path, infos, lens, ids_T, staged=trace.hooked)


def _refuse_texts(path: Path) -> None:
    """Raise FormatError for a dump in place of router inputs: JSON, or Parquet."""
    with open_regular(path) as file:
        begins = file.read(4)
    if begins != b"PAR1" and begins.lstrip()[:1] not in (b"{", b"["):
        return
    kind = "Parquet" if begins == b"PAR1" else "JSON"
    kind += " lines" if ".jsonl" in path.suffixes else ""
    raise FormatError(
        f"{path}: is {kind}: expected router inputs, a safetensors file",
        hint="routectl recompute CHECKPOINT DUMP --router-inputs INPUTS.safetensors writes them",
    )


def _refuse_others(path: Path, header: Mapping[str, TensorInfo]) -> None:
    """Raise FormatError for a tensor that would be left out in silence: a renamed layer, say."""
    for name in header:
        if not _LAYER.fullmatch(name) and name not in ("cu_seqlens", "token_ids"):
            raise FormatError(
                f"{path}: tensor {name[:80]!a} is not of router inputs: expected layer.N, "
                "cu_seqlens and token_ids"
            )


@dataclass(frozen=True, slots=True)
class InputShapes:
    """What a file of router inputs will hold: layers, tokens of each sample, D, and the dtype."""

    layers: tuple[int, ...]
    lens: tuple[int, ...]
    hidden_size: int
    dtype: str


class InputsWriter:
    """A file of router inputs, written sample by sample in any order; nothing is held."""

    def __init__(self, stream: IO[bytes], shapes: InputShapes, token_ids: Sequence[int]) -> None:
        self._stream, self._shapes = stream, shapes
        self._rows = (0, *accumulate(shapes.lens))
        width = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}[shapes.dtype]
        self._row_bytes = shapes.hidden_size * width
        tokens, count = self._rows[-1], len(self._rows)
        sizes = {f"layer.{n}": (shapes.dtype, [tokens, shapes.hidden_size]) for n in shapes.layers}
        sizes |= {"cu_seqlens": ("I64", [count]), "token_ids": ("I64", [tokens])}
        entries: dict[str, dict[str, object]] = {}
        offset = lengths_at = 0
        for name, (dtype, shape) in sizes.items():
            size = tokens * self._row_bytes if name.startswith("layer.") else 8 * shape[0]
            lengths_at = offset if name == "cu_seqlens" else lengths_at
            ends = [offset, offset + size]
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": ends}
            offset += size
        header = json.dumps({"__metadata__": {"origin": SCHEMA}, **entries}).encode()
        header += b" " * (-len(header) % 8)
        self._base = 8 + len(header)
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(self._base + offset)
        stream.seek(self._base + lengths_at)
        for number in (*self._rows, *token_ids):
            stream.write(int(number).to_bytes(8, "little"))

    def put(self, index: int, states: "Mapping[int, torch.Tensor]") -> None:
        """Write a sample's hidden states [T, D] by layer."""
        import torch

        for column, layer in enumerate(self._shapes.layers):
            part_TD = states[layer].detach().cpu().contiguous()
            expected = (self._shapes.lens[index], self._shapes.hidden_size)
            if tuple(part_TD.shape) != expected:
                raise ValueError(f"layer {layer}: got {tuple(part_TD.shape)}, expected {expected}")
            row = column * self._rows[-1] + self._rows[index]
            self._stream.seek(self._base + row * self._row_bytes)
            self._stream.write(part_TD.view(torch.uint8).numpy().tobytes())


@contextmanager
def writing_inputs(
    path: Path, shapes: InputShapes, token_ids: Sequence[int], *, force: bool
) -> Iterator[InputsWriter]:
    """A writer whose file appears when the block ends well."""
    with replacing(path, force=force) as stream:
        yield InputsWriter(stream, shapes, token_ids)
