"""From a sample's routes to the rows of a target: which, how many, in which dtype.

Shape suffixes: R rows of a target, L MoE layers, W layers of a target, K top_k.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample
from ...errors import MismatchError, RoutectlError, UnsupportedError, unknown
from ...routes import Bools, Routes, ids_dtype
from .table import MISSING, TargetSpec

__all__ = ["Feed", "Shape", "TargetRows", "are_numbered", "tokens_of"]

_WORDS = {
    "logprobs": "log-probs",
    "loss_mask": "a loss mask",
    "prompt_mask": "a loss mask of the prompt",
    "weight_spans": "weight versions",
    "margins": "margins",
    "gates": "gate log-probabilities",
}
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A target, and what the caller settled: the layers W, what becomes of missing rows.

    num_layers  decoder layers of the model, for targets with a column for each; else not asked.
    missing     one of targets.MISSING, or None for what the target itself says.
    lossy       fields that the target has no place for are left out, else they are an error.
    """

    target: TargetSpec
    meta: DumpMeta
    num_layers: int | None = None
    missing: str | None = None
    lossy: bool = False

    def __post_init__(self) -> None:
        if self.missing is not None and self.missing not in MISSING:
            raise unknown("--missing", self.missing, MISSING, UnsupportedError)
        if self.target.axis == "all" and self.num_layers is None:
            raise RoutectlError(
                f"{self.meta.path}: how many layers the model has is not known, and "
                f"{self.target.name} has a column for each, dense ones too",
                hint="--model CONFIG",
            )
        if self.target.axis == "all" and max(self.meta.layers_L) >= (self.num_layers or 0):
            raise MismatchError(
                f"{self.meta.path}: layer {max(self.meta.layers_L)} has routes, but the model has "
                f"{self.num_layers} layers"
            )

    def dtype(self, *, missing: bool = False) -> np.dtype[Any]:
        """The dtype of the rows; of ``value`` the widest, which a grid narrows in the end."""
        experts, rule = self.meta.num_experts, self.target.dtype
        if rule == "signed" or (rule == "own" and missing):
            small = np.int8 if experts <= 128 else np.int16
            return np.dtype(small if experts <= 32768 else np.int32)
        if rule in ("narrow", "own"):
            return ids_dtype(experts)
        dtype = np.dtype(np.int32 if rule == "value" else rule)
        if experts - 1 > np.iinfo(dtype).max:
            raise UnsupportedError(f"{self.target.name}: {dtype} does not hold {experts} experts")
        return dtype


@dataclass(frozen=True, slots=True, eq=False)
class TargetRows:
    """A sample with its rows in the target's form; None where it has no routes, or in a survey.

    captured tells how many of the rows are before the padding of an uncaptured tail; whole that
    none of them is missing, or that those are wanted as routes.
    """

    index: int
    sample: Sample
    ids_RWK: IntArray | None
    captured: int
    whole: bool = True


def tokens_of(sample: Sample, where: str) -> NDArray[np.int32]:
    """Prompt and response ids. Raises RoutectlError when the dump has none."""
    ids = sample.token_ids
    if ids is None:
        raise RoutectlError(f"{where}: no token ids, which the target is made of")
    if ids.size and int(ids.min()) < 0:
        raise RoutectlError(f"{where}: {int((ids < 0).sum())} positions have no token id: media")
    return ids


def are_numbered(sample: Sample) -> bool:
    """Whether its weight versions are numbers, and it says whose its first response token is."""
    spans = sample.weight_spans
    names = [span.version for span in spans]
    plain = all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names)
    return plain and (spans[0].start == 0 if spans else not sample.response_length)


def _range(sample: Sample, rows: str, where: str) -> tuple[int, int]:
    """The positions of a target's first row, and after its last one."""
    routes, total = sample.routes, sample.num_tokens
    start = 0 if routes is None else routes.start
    stop = start + (0 if routes is None else routes.num_tokens)
    if rows == "own" or (rows == "engine" and total is None):
        return start, stop
    if total is None:
        raise RoutectlError(f"{where}: the token counts are not known, and rows go by them")
    if rows == "engine":
        return start, max(start, total - 1)
    return 0, total if rows == "N" else max(0, total - 1)


def _spread(routes: Routes | None, first: int, stop: int, shape: Shape) -> tuple[IntArray, Bools]:
    """The captured rows at their places, and which are absent [R, L]."""
    layers, top_k = len(shape.meta.layers_L), shape.meta.top_k
    ids_RLK = np.zeros((stop - first, layers, top_k), np.int32)
    absent_RL = np.ones((stop - first, layers), np.bool_)
    if routes is not None:
        lo, hi = max(first, routes.start), min(stop, routes.start + routes.num_tokens)
        if lo < hi:
            part = slice(lo - routes.start, hi - routes.start)
            ids_RLK[lo - first : hi - first] = routes.ids_TLK[part]
            there = False if routes.missing_TL is None else routes.missing_TL[part]
            absent_RL[lo - first : hi - first] = there
    return ids_RLK, absent_RL


def _repeat(ids_RLK: IntArray, absent_RL: Bools) -> None:
    """Write into rows that are absent the nearest one before them in their layer, 0 where none is.

    As AReaL #1496 does (r3/preprocess.py _nearest_valid_row).
    """
    for column, absent_R in enumerate(absent_RL.T):
        from_R = np.maximum.accumulate(np.where(absent_R, -1, np.arange(len(absent_R))))
        ids_RLK[:, column] = np.where(
            from_R[:, None] < 0, 0, ids_RLK[np.maximum(from_R, 0), column]
        )


@dataclass(slots=True)
class Feed:
    """The samples of a dump in a target's form, one at a time; counts what it drops."""

    dump: Dump
    shape: Shape
    dropped: int = 0
    greatest: int = -1
    left_out: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    numbered: bool = True

    def where(self, index: int, sample: Sample) -> str:
        """How messages name a sample."""
        name = index if sample.sample_id is None else sample.sample_id
        return f"{self.shape.meta.path}: sample {name}"

    def __iter__(self) -> Iterator[TargetRows]:
        for index, sample in enumerate(self.dump):
            self._check_fields(index, sample)
            placed = self._place(index, sample)
            if placed is None:
                self.dropped += 1
            else:
                yield placed

    def _check_fields(self, index: int, sample: Sample) -> None:
        """Raise RoutectlError on what the target has no place for, unless that is wanted.

        One weight version of all samples tells none from another: it is left out unasked.
        """
        routes = sample.routes
        self.versions |= {span.version for span in sample.weight_spans}
        self.numbered &= are_numbered(sample)
        holds = set(self.shape.target.holds)
        if "version_numbers" in holds and self.numbered:
            holds.add("weight_spans")
        there = {
            "logprobs": sample.logprobs is not None,
            "loss_mask": sample.loss_mask is not None,
            "weight_spans": len(self.versions) > 1,
            "margins": routes is not None and routes.margin_TL is not None,
            "gates": sample.gates is not None,
        }
        prompt = 0 if self.shape.target.kind == "msgpack" else sample.prompt_length or 0
        if sample.loss_mask is not None and "loss_mask" in holds:
            there["loss_mask"] = False
            there["prompt_mask"] = bool(sample.loss_mask[:prompt].any())
        names = {n for n, has in there.items() if has and n not in holds}
        if names and not self.shape.lossy:
            words = {**_WORDS, "weight_spans": "several weight versions"}
            what = " and ".join(words[name] for name in words if name in names)
            raise UnsupportedError(
                f"{self.where(index, sample)}: has {what}, and {self.shape.target.name} no place "
                "for that",
                hint="--lossy to leave them out",
            )
        if self.versions and "weight_spans" not in holds:
            names.add("weight_spans")
        self.left_out |= {_WORDS[name] for name in names}

    def _place(self, index: int, sample: Sample) -> TargetRows | None:
        """The rows of a sample; None when it is dropped for missing ones."""
        shape, where = self.shape, self.where(index, sample)
        target, routes = shape.target, sample.routes
        how = shape.missing or target.missing
        if routes is None and target.rows in ("engine", "own"):
            return TargetRows(index, sample, None, 0)
        first, stop = _range(sample, target.rows, where)
        ids_RLK, absent_RL = _spread(routes, first, stop, shape)
        captured = self._captured(routes, len(ids_RLK))
        absent_RL[captured:] = False
        missing = bool(absent_RL.any())
        if missing:
            if how == "drop":
                return None
            how = self._allowed(how, absent_RL, where)
            if how == "repeat":
                _repeat(ids_RLK, absent_RL)
                self.left_out.add("validity of samples with missing rows")
            else:
                fill: Any = {"arange": np.arange(shape.meta.top_k), "zero": 0, "minus-one": -1}[how]
                ids_RLK[absent_RL] = fill
        ids_RWK = self._widen(ids_RLK, shape.dtype(missing=missing and how == "minus-one"))
        if target.pad == "repeat":
            ids_RWK[captured:] = ids_RWK[captured - 1] if captured else 0
        else:
            ids_RWK[captured:] = np.arange(shape.meta.top_k) if target.pad == "arange" else 0
        whole = not missing or how in ("arange", "zero")  # rows that are wanted as routes
        return TargetRows(index, sample, ids_RWK, captured, whole)

    def _captured(self, routes: Routes | None, rows: int) -> int:
        """How many rows are a token's: engines have none of the last token, N rows or not."""
        if self.shape.target.rows != "N":
            return rows
        end = 0 if routes is None else routes.start + routes.num_tokens
        if self.shape.target.tail:
            return min(end, rows)
        return rows if end >= rows else max(rows - 1, 0)

    def _allowed(self, how: str | None, absent_RL: Bools, where: str) -> str:
        """How missing rows are written. Raises UnsupportedError where the target cannot."""
        rows = f"{int(absent_RL.sum())} of {absent_RL.size} rows are missing"
        name = self.shape.target.name
        if how is None:
            raise UnsupportedError(
                f"{where}: {rows}, which {name} cannot say",
                hint="--missing arange, zero, minus-one or drop",
            )
        dtype = self.shape.dtype(missing=True)
        unsigned = dtype.kind == "u" or self.shape.target.dtype == "value"
        if how == "minus-one" and unsigned:
            raise UnsupportedError(
                f"{where}: {rows}, and {name} is unsigned: it holds no -1",
                hint="--missing arange, zero or drop",
            )
        return how

    def _widen(self, ids_RLK: IntArray, dtype: np.dtype[Any]) -> IntArray:
        """[R, W, K] in its dtype: dense layers are columns of zeros, as engines write them."""
        layers, width = self.shape.meta.layers_L, self.shape.num_layers
        if self.shape.target.axis == "moe" or layers == tuple(range(width or 0)):
            return ids_RLK.astype(dtype, copy=False)
        ids_RWK = np.zeros((len(ids_RLK), width or 0, ids_RLK.shape[2]), dtype)
        ids_RWK[:, list(layers)] = ids_RLK
        return ids_RWK

    def survey(self) -> list[TargetRows]:
        """All samples without their rows, for forms that need to know sizes first.

        ``greatest`` becomes the greatest id of all.
        """
        found = []
        for placed in self:
            if placed.ids_RWK is not None and placed.ids_RWK.size:
                self.greatest = max(self.greatest, int(placed.ids_RWK.max()))
            sample = replace(placed.sample, routes=None, gates=None)
            found.append(replace(placed, sample=sample, ids_RWK=None))
        return found

    def rows(self) -> Iterator[IntArray]:
        """The rows of every sample, once more."""
        for placed in Feed(self.dump, self.shape):
            assert placed.ids_RWK is not None
            yield placed.ids_RWK
