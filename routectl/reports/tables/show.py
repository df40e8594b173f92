"""The tables of a summary."""

from ...ops.diff.measures import dead_experts, entropy, vio
from ...ops.summary import Summary
from .frame import LAYER, ArrowColumn, Frame, Rows

__all__ = ["SUMMARY_FRAMES"]


def _layers(summary: Summary, eps: float) -> Rows:
    for i, layer in enumerate(summary.meta.layers_L):
        missing, load_E = int(summary.rows_missing_L[i]), summary.load_LE[i]
        rows = summary.positions - missing
        off = vio(load_E)
        parts = (None, None, None) if off is None else (off.max, off.min, off.avg)
        yield layer, rows, missing, *parts, entropy(load_E), dead_experts(load_E)


def _experts(summary: Summary, eps: float) -> Rows:
    for layer, load_E in zip(summary.meta.layers_L, summary.load_LE.tolist(), strict=True):
        for expert, rows in enumerate(load_E):
            yield layer, expert, rows


SUMMARY_FRAMES = (
    Frame(
        "layers",
        "a MoE layer",
        (
            LAYER,
            ArrowColumn("rows", "int64", "rows", "that are there"),
            ArrowColumn("rows_missing", "int64", "rows", "the others"),
            ArrowColumn("max_vio", "float64", "", "busiest expert over the even share, less 1"),
            ArrowColumn("min_vio", "float64", "", "idlest expert over the even share, less 1"),
            ArrowColumn("avg_vio", "float64", "", "mean distance from the even share"),
            ArrowColumn("entropy", "float64", "0..1", "of the load, 1 where it is even"),
            ArrowColumn("dead_experts", "int64", "experts", "that no row took"),
        ),
        _layers,
    ),
    Frame(
        "experts",
        "an expert of a layer",
        (
            LAYER,
            ArrowColumn("expert", "int64", "", "its id"),
            ArrowColumn("rows", "int64", "rows", "that took it"),
        ),
        _experts,
    ),
)
