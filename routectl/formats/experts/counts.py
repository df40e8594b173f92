"""Counts of experts without routes: what SGLang's recorder keeps in the modes stat and per_pass.

Source: SGLang 0.5.23 (eplb/expert_distribution.py: _StatAccumulator, _DetailAccumulator,
_SelectExpertsSinglePassGatherer). Shape suffixes: B passes, W layers as written, L MoE layers,
E logical experts, P physical ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, MismatchError
from ...model import ModelFacts
from ...pickled.torch_files import MappedTensor
from ..wire.sample import NoSamplesError
from .maps import ExpertMap

__all__ = ["ExpertCounts", "LoadsOnlyError", "counts_of_passes", "counts_of_steps"]

_MOST = 2**40  # assignments of an expert: a million of them add up


@dataclass(frozen=True, slots=True, eq=False)
class ExpertCounts:
    """How often each logical expert was taken in each layer, int64 [L, E], and in how many passes.

    ``mode`` is the recorder's; ``experts`` says by which map physical ids were counted as logical.
    """

    path: str
    mode: str
    passes: int
    layers_L: tuple[int, ...]
    load_LE: NDArray[np.int64]
    experts: str | None = None
    model: str | None = None


class LoadsOnlyError(NoSamplesError):
    """The file has counts of experts and no routes: ``counts``, for whoever shows loads."""

    def __init__(self, counts: ExpertCounts) -> None:
        super().__init__(
            f"{counts.path}: load-only: counts of experts (mode {counts.mode} of SGLang's "
            "recorder), no routes",
            hint="show and diff take it; mode per_token keeps routes",
        )
        self.counts = counts


def counts_of_steps(doc: Mapping[str, Any], path: Path, facts: ModelFacts | None) -> ExpertCounts:
    """Of ``logical_count`` [passes, layers, E], a pass of the buffer each; those not used are 0."""
    counts_BWE = _integers(doc["logical_count"], f"{path}: logical_count")
    if counts_BWE.ndim == 2:
        counts_BWE = counts_BWE[None]
    if counts_BWE.ndim != 3:
        raise FormatError(
            f"{path}: logical_count: got {counts_BWE.shape}, expected [passes, layers, experts]"
        )
    passes = int(counts_BWE.any(axis=(1, 2)).sum())
    return _counts(path, "stat", passes, counts_BWE.sum(axis=0), facts)


def counts_of_passes(
    doc: Mapping[str, Any], path: Path, facts: ModelFacts | None, experts: ExpertMap
) -> ExpertCounts:
    """Of ``global_physical_count`` [layers, P] of each forward pass, by the map of its step."""
    width, total_WE = 0, np.zeros((0, 0), np.int64)
    for i, record in enumerate(doc["records"]):
        where = f"{path}: records[{i}]"
        if not isinstance(record, Mapping) or "global_physical_count" not in record:
            raise FormatError(f"{where}: neither ids nor counts in it")
        counts_WP = _integers(record["global_physical_count"], where)
        step = record.get("forward_pass_id")
        if counts_WP.ndim != 2 or counts_WP.shape[1] != experts.num_physical:
            raise MismatchError(
                f"{where}: counts {counts_WP.shape}, expected [layers, {experts.num_physical}], "
                f"the physical experts of {experts.source}"
            )
        if type(step) is not int or (i and len(counts_WP) != width):
            raise FormatError(f"{where}: got pass {step!r:.20} of {len(counts_WP)} layers")
        if not i:
            width = len(counts_WP)
            total_WE = np.zeros((width, experts.num_logical), np.int64)
        place = experts.place_of(step) if experts.has_steps else 0
        logical_WP = experts.of_layers(range(width), width)[place]
        for layer in range(width):
            np.add.at(total_WE[layer], logical_WP[layer], counts_WP[layer])
    return _counts(path, "per_pass", len(doc["records"]), total_WE, facts, str(experts))


def _integers(value: Any, where: str) -> NDArray[np.int64]:
    try:
        array = value.array if isinstance(value, MappedTensor) else np.array(value)
    except (FormatError, ValueError, OverflowError):
        array = np.array("")
    if array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
        raise FormatError(f"{where}: got {array.dtype} {array.shape}, expected counts")
    if array.size and int(array.max()) > _MOST:
        raise FormatError(f"{where}: got a count of {int(array.max())}, expected at most {_MOST}")
    return array.astype(np.int64)


def _counts(
    path: Path,
    mode: str,
    passes: int,
    load_WE: NDArray[np.int64],
    facts: ModelFacts | None,
    experts: str | None = None,
) -> ExpertCounts:
    """Counts of a model's MoE layers; without a model of the layers that have any."""
    width, found = load_WE.shape
    if facts is None:
        layers = [layer for layer in range(width) if load_WE[layer].any()]
        return ExpertCounts(str(path), mode, passes, tuple(layers), load_WE[layers], experts)
    if found != facts.num_experts or width not in (facts.num_layers, len(facts.layers)):
        raise MismatchError(
            f"{path}: counts of {width} layers and {found} experts, expected {facts.num_layers} "
            f"layers and {facts.num_experts} experts, of the model"
        )
    load_LE = load_WE if width == len(facts.layers) else load_WE[list(facts.layers)]
    return ExpertCounts(str(path), mode, passes, facts.layers, load_LE, experts, facts.model_type)
