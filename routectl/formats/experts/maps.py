"""Expert maps: which logical expert a physical one is a copy of, by layer, and by step.

An engine that balances expert load (EPLB) has more physical experts than the model has, some of
them copies. Source: SGLang 0.5.23 (eplb/expert_location.py: ExpertLocationMetadata,
compute_initial_expert_location_metadata; eplb/expert_distribution.py: _DetailAccumulator.dump).
Shape suffixes: S steps, W layers as written, L MoE layers, P physical experts.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, MismatchError
from ...files.places import place_of
from ...files.reading import open_regular, read_bytes
from ...model import MAX_EXPERTS, ModelFacts
from ...pickled.torch_files import MappedTensor, load_torch
from ..documents.fields import from_json
from ..wire.payload import from_npy

__all__ = ["MAP", "ExpertMap", "expert_map_of", "read_expert_map"]

MAP = "physical_to_logical_map"
_LAST = f"last_{MAP}"  # in a dump of SGLang's recorder
_MAX_BYTES = 256 << 20
_EXPECTED = "expected whole numbers [P], [layers, P] or [steps, layers, P]"


@dataclass(frozen=True, slots=True, eq=False)
class ExpertMap:
    """The logical expert of each physical one.

    logical_SWP  int32: of each step, of each layer or, with W = 1, of all layers alike
    steps        from which step on each map holds, ascending; of one from step 0 on none matters
    source       where it is from, for messages
    """

    logical_SWP: NDArray[np.int32]
    steps: tuple[int, ...]
    source: str

    @property
    def num_physical(self) -> int:
        """P."""
        return int(self.logical_SWP.shape[2])

    @property
    def num_logical(self) -> int:
        """One more than the highest logical id."""
        return int(self.logical_SWP.max()) + 1

    @property
    def has_steps(self) -> bool:
        """Whether a row's step decides which map holds for it, or that none does."""
        return len(self.steps) > 1 or self.steps[0] > 0

    def __str__(self) -> str:
        steps = f", {len(self.steps)} maps by step" if len(self.steps) > 1 else ""
        if self.has_steps and not steps:
            steps = f", from step {self.steps[0]} on"
        return f"{self.source} ({self.num_physical} physical to {self.num_logical} logical{steps})"

    def check(self, facts: ModelFacts) -> None:
        """Raise MismatchError where it is of another model: layers or experts do not fit."""
        width, every = self.logical_SWP.shape[1], facts.num_layers
        if width not in (1, every, len(facts.layers)):
            raise MismatchError(
                f"{self.source}: a map of {width} layers, expected {every} (all layers), "
                f"{len(facts.layers)} (MoE layers) or 1 (the same in all)"
            )
        if self.num_logical > facts.num_experts:
            raise MismatchError(
                f"{self.source}: a map to logical expert {self.num_logical - 1}, expected "
                f"0..{facts.num_experts - 1}, of the model"
            )
        self.check_onto(facts.num_experts)

    def physical(self, facts: ModelFacts) -> ModelFacts:
        """The model as its physical experts are, whose ids an engine writes: E is P."""
        return replace(facts, num_experts=self.num_physical, zero_experts=0)

    def check_onto(self, num_experts: int) -> None:
        """Raise MismatchError where a layer has no copy of some logical expert."""
        for step, logical_WP in zip(self.steps, self.logical_SWP, strict=True):
            for row, logical_P in enumerate(logical_WP):
                there = np.bincount(logical_P, minlength=num_experts)
                if (there == 0).any():
                    at = f"step {step}, layer {row}" if self.has_steps else f"layer {row}"
                    raise MismatchError(
                        f"{self.source}: {at}: no physical expert is logical expert "
                        f"{int(np.argmin(there))}: a map has each of 0..{num_experts - 1}"
                    )

    def of_layers(self, layers_L: Sequence[int], num_layers: int | None) -> NDArray[np.int32]:
        """The maps of MoE layers, int32 [S, L, P]; ``num_layers`` counts dense layers too."""
        width = self.logical_SWP.shape[1]
        if width == 1:
            return np.repeat(self.logical_SWP, len(layers_L), axis=1)
        if width == len(layers_L):
            return self.logical_SWP
        if width == num_layers or (num_layers is None and width > layers_L[-1]):
            return self.logical_SWP[:, list(layers_L)]
        raise MismatchError(
            f"{self.source}: a map of {width} layers, expected {len(layers_L)} (MoE layers)"
        )

    def place_of(self, step: int) -> int:
        """Which map holds at a step. Raises MismatchError before the first."""
        at = bisect_right(self.steps, step) - 1
        if at < 0:
            raise MismatchError(
                f"{self.source}: no map of step {step}: the first is of step {self.steps[0]}"
            )
        return at


def expert_map_of(value: Any, source: str, steps: Sequence[int] | None = None) -> ExpertMap:
    """A map out of numbers [P], [W, P] or [S, W, P]. Raises FormatError for any others.

    ``steps`` are from which on each holds; of several they are 0, 1, 2 ... otherwise.
    """
    array: NDArray[Any]
    try:
        array = value.array if isinstance(value, MappedTensor) else np.array(value)
    except (ValueError, OverflowError):
        raise FormatError(f"{source}: {MAP}: rows of several lengths, {_EXPECTED}") from None
    if array.dtype.kind not in "iu" or not 1 <= array.ndim <= 3 or not array.size:
        raise FormatError(f"{source}: {MAP}: got {array.dtype} {array.shape}, {_EXPECTED}")
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    low, high, count = int(array.min()), int(array.max()), array.shape[2]
    if low < 0 or high >= MAX_EXPERTS or count > MAX_EXPERTS:
        bad = low if low < 0 else high
        raise FormatError(
            f"{source}: {MAP}: got logical expert {bad} and {count} physical ones, expected 0 to "
            f"{MAX_EXPERTS - 1}, and at most {MAX_EXPERTS}"
        )
    found = tuple(range(len(array))) if steps is None else tuple(steps)
    return ExpertMap(np.ascontiguousarray(array, np.int32), found, source)


def read_expert_map(path: str | Path) -> ExpertMap:
    """The map in a file: JSON, .npy or .pt; see docs/formats.md. Raises FormatError.

    JSON and torch files have the numbers, or them under ``physical_to_logical_map``, as SGLang's
    ``--init-expert-location`` takes it; a dump of its recorder has its last map. JSON of several
    maps is ``{"maps": [{"step": 0, "physical_to_logical_map": ...}, ...]}``.
    """
    file, where = place_of(path), str(path)
    try:
        with open_regular(file) as stream:
            head = stream.read(8)
        if head.startswith(b"\x93NUMPY"):
            return expert_map_of(from_npy(read_bytes(file, _MAX_BYTES), where), where)
        if head.startswith(b"PK"):
            return _of_document(load_torch(file), where)
        return _of_document(_json(file, where), where)
    except OSError as error:
        raise FormatError(f"{where}: cannot be read: {error.strerror or error}") from None


def _json(file: Path, where: str) -> Any:
    try:
        return from_json(read_bytes(file, _MAX_BYTES), where)
    except (ValueError, RecursionError):
        raise FormatError(
            f"{where}: neither JSON nor .npy nor .pt, expected a map of physical experts"
        ) from None


def _of_document(doc: Any, where: str) -> ExpertMap:
    if not isinstance(doc, Mapping):
        return expert_map_of(doc, where)
    for name in (MAP, _LAST):
        if name in doc:
            return expert_map_of(doc[name], where)
    if isinstance(doc.get("maps"), list) and doc["maps"]:
        return _of_steps(doc["maps"], where)
    if "logical_count" in doc:
        raise FormatError(
            f"{where}: counts of logical experts and no map: SGLang places experts by them when "
            f"it starts",
            hint=f"its {MAP}, which a dump of its expert_distribution_recorder has, is the map",
        )
    raise FormatError(f"{where}: no {MAP} in it")


def _of_steps(maps: Sequence[Any], where: str) -> ExpertMap:
    """Several maps, each with the step from which it holds."""
    steps: list[int] = []
    parts: list[NDArray[np.int32]] = []
    for i, one in enumerate(maps):
        step = one.get("step") if isinstance(one, Mapping) else None
        if type(step) is not int or step < 0 or MAP not in one:
            raise FormatError(f'{where}: maps[{i}]: expected {{"step": N, "{MAP}": [...]}}')
        if steps and step <= steps[-1]:
            raise FormatError(f"{where}: maps[{i}]: step {step} after {steps[-1]}")
        part = expert_map_of(one[MAP], f"{where}: maps[{i}]").logical_SWP
        if len(part) != 1 or part.shape != (parts or [part])[0].shape:
            raise FormatError(f"{where}: maps[{i}]: got {part.shape[1:]}, unlike the first map")
        steps.append(step)
        parts.append(part)
    return expert_map_of(np.concatenate(parts), where, steps)
