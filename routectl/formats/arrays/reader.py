"""Arrays: ``.npy``, ``.npz`` and ``.safetensors``, one array a sample or one padded array.

Names (docs/formats.md): ``<id>.routed_experts`` [T, L, K] with ``<id>.prompt_token_ids``,
``<id>.token_ids``, ``<id>.logprobs``, ``<id>.start``; or the bare ``<id>``; or, padded,
``routed_experts`` [B, Tmax, L, K] with ``lengths`` [B] (rows) and, if known, ``start`` [B],
``sample_id`` [B], ``input_ids`` [B, Nmax], ``prompt_lengths`` [B], ``response_lengths`` [B].
Or what slime and vime spill of a sample: ``tensor`` [N - 1, L, K] whose metadata have ``kind``
``rollout_routed_experts``; the file's name has the sample's index (vime 2b83ea20, data/tensor.py
DiskTensorRef.write and utils/routed_experts.py spill_routed_experts).
Shape suffixes: B samples, T rows, L layers, K top_k, N tokens.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Keys, Sample, SampleKey, key_of
from ...errors import FormatError
from ...model import ModelFacts
from ..documents.facts import Model, find_context
from ..documents.fields import as_float64, from_json, one_line
from ..documents.forms import unlike
from ..documents.own import own_arrays
from ..wire.guess import facts_of_shape
from ..wire.sample import NoSamplesError, WireSample, to_sample
from .files import ArrayFile, open_array_file

__all__ = ["open_arrays"]

_ROUTES = "routed_experts"
_SUFFIX = "." + _ROUTES
_LOOSE = ("config", "origin")
_SPILLED_KIND = "rollout_routed_experts"
_SPILLED = re.compile(r"(?:\d+_)?sample_(?:(\d+)|none)_([0-9a-f]{32})\.safetensors")


def _own_config(file: ArrayFile) -> dict[str, Any] | None:
    """The HF config that the file carries as JSON text: an entry or metadata named ``config``."""
    if file.texts.get("config") is None:
        return None
    try:
        config = from_json(file.texts["config"], f"{file.path}: config")
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise FormatError(f"{file.path}: config: expected the JSON text of an HF config.json")
    return config


def _ints(array: NDArray[Any] | None, where: str, name: str) -> NDArray[np.int32] | None:
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise FormatError(
            f"{where}: {name}: got {array.dtype} {array.shape}, expected integers [N]"
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**31:
        raise FormatError(f"{where}: {name}: got ids outside 0..2^31-1")
    return array.astype(np.int32)


def _scalar(array: NDArray[Any] | None, where: str, name: str) -> int | None:
    if array is None:
        return None
    one = array.size == 1 and array.dtype.kind in "iu"
    if not one or not 0 <= int(array.reshape(())) < 2**31:
        raise FormatError(f"{where}: {name}: got {array.dtype} {array.shape}, expected one count")
    return int(array.reshape(()))


class _PerSample:
    """One array a sample."""

    def __init__(self, file: ArrayFile, names: dict[str, str]) -> None:
        self.file = file
        self.names = names
        self.ids = list(names)

    def _field(self, sample_id: str, name: str) -> NDArray[Any] | None:
        key = f"{sample_id}.{name}"
        return self.file.read(key) if key in self.file.shapes else None

    def _tokens(self, sample_id: str) -> tuple[NDArray[np.int32] | None, ...]:
        where = f"{self.file.path}: sample {sample_id}"
        names = ("prompt_token_ids", "token_ids")
        prompt, response = (_ints(self._field(sample_id, n), where, n) for n in names)
        return prompt, response

    def key(self, index: int) -> SampleKey:
        return key_of(self.ids[index], *self._tokens(self.ids[index]))

    def sample(self, index: int, facts: ModelFacts, start: int | None) -> Sample:
        sample_id = self.ids[index]
        where = f"{self.file.path}: sample {sample_id}"
        prompt, response = self._tokens(sample_id)
        begin = _scalar(self._field(sample_id, "start"), where, "start")
        logprobs = self._field(sample_id, "logprobs")
        if logprobs is not None:
            if response is None or logprobs.shape != response.shape or logprobs.dtype.kind != "f":
                raise FormatError(
                    f"{where}: logprobs: got {logprobs.dtype} {logprobs.shape}, "
                    "expected one float a response token"
                )
            logprobs = as_float64(logprobs)
        wire = WireSample(
            where=where,
            payload=self.file.read(self.names[sample_id]),
            start=begin,
            sample_id=sample_id,
            prompt_ids=prompt,
            response_ids=response,
            prompt_length=None if prompt is None else len(prompt),
            response_length=None if response is None else len(response),
            logprobs=logprobs,
            any_rows=True,
        )
        return to_sample(wire, facts, start)


class _Padded:
    """One padded array with lengths; the side arrays are small and read at once."""

    def __init__(self, file: ArrayFile) -> None:
        self.file = file
        where = str(file.path)
        shape = file.shapes[_ROUTES]
        if "lengths" not in file.shapes:
            raise FormatError(
                f"{where}: routed_experts is padded {shape}, but there is no 'lengths' array",
                hint="save the rows of each sample as 'lengths' [B]",
            )
        self.lengths = self._column("lengths", shape[0])
        self.starts = self._column("start", shape[0])
        self.prompts = self._column("prompt_lengths", shape[0])
        self.responses = self._column("response_lengths", shape[0])
        self.input_ids = file.read("input_ids") if "input_ids" in file.shapes else None
        named = file.read("sample_id") if "sample_id" in file.shapes else np.arange(shape[0])
        self.ids = [one_line(name) for name in named.reshape(-1)]
        self.whole: NDArray[Any] | None = None
        if self.lengths is None or int(self.lengths.max(initial=0)) > shape[1]:
            raise FormatError(f"{where}: lengths: a sample is longer than the padding {shape[1]}")
        if len(self.ids) != shape[0]:
            raise FormatError(f"{where}: sample_id: got {len(self.ids)}, expected {shape[0]}")

    def _column(self, name: str, count: int) -> NDArray[np.int32] | None:
        if name not in self.file.shapes:
            return None
        column = _ints(self.file.read(name), str(self.file.path), name)
        if column is None or len(column) != count:
            raise FormatError(f"{self.file.path}: {name}: expected {count} counts")
        return column

    def _tokens(self, index: int) -> tuple[NDArray[np.int32] | None, ...]:
        if self.input_ids is None or self.prompts is None or self.responses is None:
            return None, None
        prompt = int(self.prompts[index])
        end = prompt + int(self.responses[index])
        where = f"{self.file.path}: sample {self.ids[index]}"
        shape = self.input_ids.shape
        if len(shape) != 2 or shape[0] != len(self.ids) or end > shape[1]:
            raise FormatError(f"{where}: input_ids {shape} do not hold {end} tokens")
        row = _ints(self.input_ids[index, :end], where, "input_ids")
        return (None, None) if row is None else (row[:prompt], row[prompt:])

    def key(self, index: int) -> SampleKey:
        return key_of(self.ids[index], *self._tokens(index))

    def sample(self, index: int, facts: ModelFacts, start: int | None) -> Sample:
        where = f"{self.file.path}: sample {self.ids[index]}"
        if self.whole is None:
            self.whole = self.file.read(_ROUTES)
        assert self.lengths is not None
        rows = int(self.lengths[index])
        prompt, response = self._tokens(index)
        wire = WireSample(
            where=where,
            payload=self.whole[index, :rows],
            start=None if self.starts is None else int(self.starts[index]),
            sample_id=self.ids[index],
            prompt_ids=prompt,
            response_ids=response,
            prompt_length=None if self.prompts is None else int(self.prompts[index]),
            response_length=None if self.responses is None else int(self.responses[index]),
            any_rows=True,
        )
        return to_sample(wire, facts, start)


def _spilled_id(path: Path) -> str:
    """The sample's index out of the name of a spilled file; the rest of the name where it has none.

    A link of slime's into a dump's own folder is numbered in front.
    """
    found = _SPILLED.fullmatch(path.name)
    return path.stem if found is None else found[1] or found[2]


def _layout(file: ArrayFile) -> _PerSample | _Padded:
    """Which of the layouts the names spell; NoSamplesError when there are no routes."""
    named = {n.removesuffix(_SUFFIX): n for n in file.shapes if n.endswith(_SUFFIX)}
    if named:
        return _PerSample(file, named)
    if len(file.shapes.get(_ROUTES, ())) == 4:
        return _Padded(file)
    if file.texts.get("kind") == _SPILLED_KIND and len(file.shapes.get("tensor", ())) == 3:
        return _PerSample(file, {_spilled_id(file.path): "tensor"})
    own = own_arrays(file.texts)
    if own is not None:
        raise NoSamplesError(f"{file.path}: {own[0]}, not a dump", hint=own[1])
    bare = {n: n for n, shape in file.shapes.items() if len(shape) == 3 and n not in _LOOSE}
    if not bare:
        raise NoSamplesError(
            f"{file.path}: no routed_experts [T, L, K], or [B, T, L, K]: "
            f"{unlike(sorted(file.shapes), 'arrays')}"
        )
    return _PerSample(file, bare)


def _row_shape(file: ArrayFile, layout: _PerSample | _Padded) -> tuple[int, int]:
    """Columns and ids of a row, by the shape of the first array that has some."""
    names = list(layout.names.values()) if isinstance(layout, _PerSample) else [_ROUTES]
    shapes = [file.shapes[name] for name in names]
    found = next((s for s in shapes if len(s) >= 3 and 0 not in s[-2:]), None)
    return (1, 1) if found is None else (found[-2], found[-1])


def open_arrays(path: Path, kind: str, model: Model, start: int | None) -> Dump:
    """Open an array file; ``kind`` is npy, npz or safetensors.

    ``start`` places row 0 of samples that do not name their start; 0 when None.
    """
    file = open_array_file(path, kind)
    layout = _layout(file)
    context = find_context(
        path, model, _own_config(file), guess=lambda: facts_of_shape(*_row_shape(file, layout))
    )
    first = file.dtypes[layout.names[layout.ids[0]] if isinstance(layout, _PerSample) else _ROUTES]
    said = {name: file.texts.get(name) for name in ("engine", "engine_version", "model")}
    meta = context.meta(path, kind, wire_dtype=first, **said)
    keys = Keys(layout.key(i) for i in range(len(layout.ids)))
    return Dump(meta, keys, lambda index: layout.sample(index, context.facts, start))
