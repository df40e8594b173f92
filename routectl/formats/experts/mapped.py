"""A dump of physical expert ids, read as logical ones.

Shape suffixes: T tokens, L MoE layers, K top_k, S steps, P physical experts.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...damage import DamagedSampleError, Fault
from ...dump import Dump, Sample, SampleBatch
from ...errors import FormatError, MismatchError, RoutectlError
from ...kernels.mapping import look_up
from ...routes import Routes, ids_dtype
from .maps import ExpertMap

__all__ = ["PROVENANCE", "StepsOf", "mapped"]

PROVENANCE = "expert_map"  # of DumpMeta.provenance: what made logical ids of physical ones
_RECOMPUTED = "mode"  # there, of what a router in routectl selected
StepsOf = Callable[[int, Sample], NDArray[np.int64]]
_ALONE = "PATH::expert_map=FILE maps one dump alone"
_MOVED = f"{_ALONE}; where experts were placed anew meanwhile, FILE has a map a step"
_NUMBER = re.compile(r"(\d{1,18})$")


def mapped(dump: Dump, experts: ExpertMap, steps_of: StepsOf | None = None) -> Dump:
    """The dump with logical ids; its meta says so, and which map it was.

    ``steps_of`` is given a sample's index and the sample, and tells the step of each of its rows,
    int64 [T]; without it they are the numbers of the weight versions that made its rows.

    Raises MismatchError where the map does not fit: at once, for layers and experts, or when a
    sample with ids beyond the map, or of no known step, is read; DamagedSampleError for a sample
    that has two copies of one expert in a row, which no router gives: its ids are logical already,
    or of another map.
    """
    meta = dump.meta
    for name, why in ((PROVENANCE, "mapped already, by "), (_RECOMPUTED, "recomputed, mode ")):
        if name in meta.provenance:
            told = f"{meta.path}: its ids are logical: {why}{meta.provenance[name]}"
            raise MismatchError(told, hint=_ALONE)
    experts.check_onto(experts.num_logical)
    if meta.num_experts not in (experts.num_physical, experts.num_logical):
        raise MismatchError(
            f"{experts.source}: a map of {experts.num_physical} physical to {experts.num_logical} "
            f"logical experts, but {meta.path} has ids of {meta.num_experts}",
            hint=_ALONE,
        )
    table_SLP = experts.of_layers(meta.layers_L, meta.num_layers)
    return _Mapping(experts, table_SLP, meta.layers_L, steps_of or _by_version(experts)).of(dump)


class _Mapping:
    """How a dump's ids are mapped, in all of its layers or some."""

    def __init__(
        self,
        experts: ExpertMap,
        table_SLP: NDArray[np.int32],
        layers_L: tuple[int, ...],
        steps_of: StepsOf,
    ) -> None:
        self.experts, self.layers_L, self.steps_of = experts, layers_L, steps_of
        self.table_SLP = np.ascontiguousarray(table_SLP, ids_dtype(experts.num_logical))

    def of(self, dump: Dump) -> Dump:
        meta = replace(
            dump.meta,
            num_experts=self.experts.num_logical,
            id_space="logical",
            provenance={**dump.meta.provenance, PROVENANCE: str(self.experts)},
        )

        def load(index: int) -> Sample:
            return self._sample(dump, index)

        def narrow(layers: tuple[int, ...]) -> Dump:
            columns = [self.layers_L.index(layer) for layer in layers]
            table = self.table_SLP[:, columns]
            return _Mapping(self.experts, table, layers, self.steps_of).of(
                dump.select(layers=layers)
            )

        def batch(index: int) -> SampleBatch | None:
            found = dump.batch(index)
            if found is None or found.routes is None:
                return found
            routes, copies = self._routes(found.routes, None)
            return replace(found, routes=routes) if copies is None else None

        one = not self.experts.has_steps
        found = Dump(meta, dump.keys, load, narrow, batch if one else None, dump.rows)
        found.starts = dump.starts if one else None
        return found

    def _sample(self, dump: Dump, index: int) -> Sample:
        try:
            sample = dump[index]
        except DamagedSampleError as error:
            raise self._told(error, dump) from None
        if sample.routes is None:
            return sample
        steps = self.steps_of(index, sample) if self.experts.has_steps else None
        routes, copies = self._routes(sample.routes, steps)
        if copies is not None:
            raise self._of_copies(f"{dump.meta.path}: {_name(sample)}", sample, routes, copies)
        return replace(sample, routes=routes)

    def _of_copies(
        self, where: str, sample: Sample, routes: Routes, place: tuple[int, int]
    ) -> DamagedSampleError:
        """What to say of a row with two copies of one expert."""
        assert sample.routes is not None
        row, layer = place
        before_K, after_K = (side.ids_TLK[row, layer].tolist() for side in (sample.routes, routes))
        twice = next(expert for expert in after_K if after_K.count(expert) > 1)
        copies = [one for one, to in zip(before_K, after_K, strict=True) if to == twice]
        text = (
            f"row {row} (position {routes.start + row}), layer {routes.layers_L[layer]}: got "
            f"physical experts {copies[0]} and {copies[1]}, both of them expert {twice} by "
            f"{self.experts}: its ids are logical already, or of another map"
        )
        ids_TLK = routes.ids_TLK.astype(np.int64)
        if routes.missing_TL is not None:
            ids_TLK[routes.missing_TL] = -1
        told = (replace(sample, routes=None), ids_TLK, routes.start, _MOVED)
        return DamagedSampleError(where, [Fault("ids", text)], *told)

    def _told(self, error: DamagedSampleError, dump: Dump) -> RoutectlError:
        """What its reader refused, with logical ids; of ids beyond the map, that they are."""
        if any(fault.kind == "ids" for fault in error.faults):
            return MismatchError(f"{error}: the physical experts of {self.experts.source}")
        if self.experts.has_steps:
            return FormatError(str(error), hint=error.hint)
        ids_TWK, count = error.ids_TWK, self.experts.num_physical
        wide = self.experts.of_layers(range(ids_TWK.shape[1]), dump.meta.num_layers)
        table_WP = self.table_SLP[0] if ids_TWK.shape[1] == len(self.layers_L) else wide[0]
        known = (ids_TWK >= 0) & (ids_TWK < count)
        ids, _ = look_up(np.where(known, ids_TWK, 0), table_WP.astype(np.int64))
        told = (error.faults, error.sample, np.where(known, ids, ids_TWK), error.start, error.hint)
        found = DamagedSampleError("", *told)
        found.args = error.args
        return found

    def _routes(
        self, routes: Routes, steps_T: NDArray[np.int64] | None
    ) -> tuple[Routes, tuple[int, int] | None]:
        """Logical ids, and the first row and layer, if any, with two copies of one expert."""
        ids_TLK, missing_TL, copies = routes.ids_TLK, routes.missing_TL, None
        if steps_T is None:
            found, copies = look_up(ids_TLK, self.table_SLP[0], missing_TL)
        else:
            found = np.empty(ids_TLK.shape, self.table_SLP.dtype)
            for step in np.unique(steps_T):
                rows = np.flatnonzero(steps_T == step)
                table_LP = self.table_SLP[self.experts.place_of(int(step))]
                missing = None if missing_TL is None else missing_TL[rows]
                found[rows], place = look_up(ids_TLK[rows], table_LP, missing)
                if place is not None and copies is None:
                    copies = int(rows[place[0]]), place[1]
        mapped_routes = replace(routes, ids_TLK=found, num_experts=self.experts.num_logical)
        return mapped_routes, copies


def _name(sample: Sample) -> str:
    return "a sample" if sample.sample_id is None else f"sample {sample.sample_id}"


def _by_version(experts: ExpertMap) -> StepsOf:
    """Steps that are the numbers of weight versions, such as 7 of v7."""

    def steps(_: int, sample: Sample) -> NDArray[np.int64]:
        assert sample.routes is not None
        name = _name(sample)
        prompt, spans = sample.prompt_length, sample.weight_spans
        if prompt is None or not spans:
            raise MismatchError(
                f"{experts.source}: a map a step, but {name} does not say the weight versions "
                "of its tokens, whose numbers the steps are"
            )
        numbers = [_NUMBER.search(span.version) for span in spans]
        if None in numbers:
            bad = spans[numbers.index(None)].version
            raise MismatchError(f"{experts.source}: a map a step, but {name} is of version {bad!r}")
        ends = np.array([prompt - 1 + span.end for span in spans[:-1]], np.int64)
        positions_T = np.arange(sample.routes.start, sample.routes.stop, dtype=np.int64)
        found = np.array([int(number[1]) for number in numbers if number], np.int64)
        return found[np.searchsorted(ends, positions_T, side="right")]

    return steps
