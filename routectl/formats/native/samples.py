"""One Sample as a row of a native file.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import dataclasses
from typing import Any

import numpy as np

from ...dump import DumpMeta, Sample
from .rows import gate_row, group_margin_name, layer_name, margin_name
from .schema import COLUMNS, kinds_of

__all__ = ["row_of"]


def row_of(sample: Sample, meta: DumpMeta, *, coded: bool) -> dict[str, Any]:
    """A sample as one row; the layer columns are null when it has no routes.

    With ``coded`` the ids are left out. Raises ValueError for margins or gates that meta denies.
    """
    row: dict[str, Any] = {
        name: getattr(sample, name) for name, _ in COLUMNS if hasattr(sample, name)
    }
    row["weight_spans"] = [dataclasses.asdict(span) for span in sample.weight_spans]
    routes = sample.routes
    if routes is None:
        return row
    if routes.layers_L != meta.layers_L:
        raise ValueError(f"a sample has layers {routes.layers_L}, its dump {meta.layers_L}")
    row |= {"start": routes.start, "num_rows": routes.num_tokens}
    if routes.missing_TL is not None:
        row["missing"] = np.packbits(routes.missing_TL, bitorder="little").tobytes()
    if not coded:
        by_layer = np.ascontiguousarray(routes.ids_TLK.transpose(1, 0, 2))
        for layer, ids_TK in zip(meta.layers_L, by_layer, strict=True):
            row[layer_name(layer)] = ids_TK.astype(ids_TK.dtype.newbyteorder("<"), copy=False).data
    for name, margin_TL, kinds in (
        (margin_name, routes.margin_TL, 2),
        (group_margin_name, routes.group_margin_TL, 3),
    ):
        if margin_TL is None:
            continue
        if kinds_of(meta) < kinds:
            raise ValueError("a sample has margins, but its dump's meta says that none has")
        margin_LT = np.ascontiguousarray(margin_TL.T, "<f2")
        row |= {name(n): column.data for n, column in zip(meta.layers_L, margin_LT, strict=True)}
    return row | gate_row(sample, meta)
