"""One row of a native file as Python values: made of a Sample, and a Sample made of it.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import DumpMeta, Sample, WeightSpan
from ...gate_logprobs import GateLogprobs
from ...routes import Bools, Routes
from .schema import COLUMNS
from .table import LEAST

__all__ = [
    "check_row",
    "missing_of",
    "row_of",
    "sample_of",
    "spans_of",
]

_PLAIN = [name for name, _ in COLUMNS if name in Sample.__dataclass_fields__]


def row_of(sample: Sample) -> dict[str, Any]:
    """What a row tells of a sample beside its layer columns."""
    row: dict[str, Any] = {name: getattr(sample, name) for name in _PLAIN}
    row["weight_spans"] = [dataclasses.asdict(span) for span in sample.weight_spans]
    routes = sample.routes
    if routes is None:
        return row
    row |= {"start": routes.start, "num_rows": routes.num_tokens}
    if routes.missing_TL is not None:
        row["missing"] = np.packbits(routes.missing_TL, bitorder="little").tobytes()
    return row


def _missing(packed: bytes | None, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    if packed is None:
        return None
    bits = np.frombuffer(packed, np.uint8)
    if len(bits) != -(-shape[0] * shape[1] // 8):
        raise ValueError(f"missing: got {len(bits)} bytes for {shape} rows")
    return np.unpackbits(bits, count=shape[0] * shape[1], bitorder="little").reshape(shape) > 0


def _array(values: Any, dtype: type) -> Any:
    return None if values is None else np.array(values, dtype)


def check_row(row: dict[str, Any]) -> None:
    """Raise ValueError on what no writer makes: negative numbers, absent ones among others."""
    for name, value in row.items():
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} is {value}")
        least = LEAST.get(name)
        if least is not None and value is not None and (value < least).any():
            raise ValueError(f"{name} has an id below {least}")
    if (row["start"] is None) != (row["num_rows"] is None):
        raise ValueError("start and num_rows are not both there")
    if any(span is None or None in span.values() for span in row["weight_spans"] or ()):
        raise ValueError("a weight span is not whole")


def missing_of(row: dict[str, Any], meta: DumpMeta, layers: tuple[int, ...]) -> Bools | None:
    """Which rows of a sample are missing in these layers, [T, L]. Raises ValueError."""
    missing = _missing(row["missing"], (row["num_rows"], len(meta.layers_L)))
    if missing is not None and layers != meta.layers_L:
        missing = missing[:, [meta.layers_L.index(layer) for layer in layers]]
    return missing


def spans_of(spans: list[dict[str, Any]] | None) -> tuple[WeightSpan, ...]:
    """The weight spans of a row that was checked."""
    return tuple(WeightSpan(**span) for span in spans) if spans else ()


def sample_of(row: dict[str, Any], routes: Routes | None, gates: GateLogprobs | None) -> Sample:
    """The sample of a row that was checked, with these routes."""
    return Sample(
        routes=routes,
        sample_id=row["sample_id"],
        group_id=row["group_id"],
        prompt_ids=_array(row["prompt_ids"], np.int32),
        response_ids=_array(row["response_ids"], np.int32),
        prompt_length=row["prompt_length"],
        response_length=row["response_length"],
        loss_mask=_array(row["loss_mask"], np.bool_),
        logprobs=_array(row["logprobs"], np.float64),
        weight_spans=spans_of(row["weight_spans"]),
        finish_reason=row["finish_reason"],
        cached_tokens=row["cached_tokens"],
        retractions=row["retractions"],
        start_inferred=bool(row["start_inferred"]),
        gates=gates,
    )
