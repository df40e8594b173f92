"""The tables of a comparison."""

from typing import Any

from ...ops.diff.counts import PLACES, bin_edges
from ...ops.diff.measures import layer_measures, rate
from ...ops.diff.result import ComparedSample, DiffResult
from .frame import (
    F_TAU,
    LAYER,
    LOGPROB_TOKENS,
    OLD_SAMPLE,
    POSITION,
    ArrowColumn,
    Frame,
    Rows,
    counted_columns,
)

__all__ = ["DIFF_FRAMES", "cells_of_sample", "layer_cells", "position_cells", "sample_cells"]

_COUNTED = counted_columns()
_WITH_TOKENS = counted_columns("tokens")
LAYER_COLUMNS = (
    LAYER,
    *_COUNTED,
    ArrowColumn("overlap_rate", "float64", "0..1", "mean of shared ids / K"),
    ArrowColumn("order_mismatches", "int64", "rows", "equal sets in another slot order"),
    ArrowColumn("zero_overlap_rate", "float64", "0..1", "rows that share no id"),
    ArrowColumn("rows_missing", "int64", "rows", "left out: one side has no route"),
    ArrowColumn("load_shift", "float64", "0..1", "total variation between the loads"),
    ArrowColumn("load_js", "float64", "nats", "Jensen-Shannon divergence of the loads"),
    ArrowColumn("max_vio_old", "float64", "", "OLD: busiest expert over the even share, less 1"),
    ArrowColumn("max_vio_new", "float64", "", "the same of NEW"),
    ArrowColumn("min_vio_old", "float64", "", "OLD: idlest expert over the even share, less 1"),
    ArrowColumn("min_vio_new", "float64", "", "the same of NEW"),
    ArrowColumn("avg_vio_old", "float64", "", "OLD: mean distance from the even share"),
    ArrowColumn("avg_vio_new", "float64", "", "the same of NEW"),
    ArrowColumn("tie_rate", "float64", "0..1", "mismatched at margin 0, of rows with a margin"),
    ArrowColumn("near_rate", "float64", "0..1", "above 0 and up to eps"),
    ArrowColumn("clear_rate", "float64", "0..1", "above eps"),
)
SAMPLE_COLUMNS = (
    OLD_SAMPLE,
    *_WITH_TOKENS,
    LOGPROB_TOKENS,
    ArrowColumn("k1", "float64", "nats", "mean of log p_old - log p_new; docs/metrics.md"),
    ArrowColumn("k3", "float64", "nats", "mean of e^d - 1 - d"),
    F_TAU,
)
POSITION_COLUMNS = (
    ArrowColumn("start", "int64", "positions", "first of the bin"),
    ArrowColumn("stop", "int64", "positions", "after the last of the bin"),
    *_WITH_TOKENS,
    ArrowColumn("token_mismatch_rate", "float64", "0..1", "tokens_mismatched / tokens"),
)


def layer_cells(result: DiffResult, eps: float) -> Rows:
    """A row a compared layer."""
    for m in layer_measures(result.counts, result.layers, result.margins, eps):
        yield (
            m.layer,
            m.rows,
            m.rows_mismatched,
            m.mismatch_rate,
            m.overlap_rate,
            m.order_mismatches,
            m.zero_overlap_rate,
            m.rows_missing,
            m.load_shift,
            m.load_js,
            *(getattr(v, of, None) for of in ("max", "min", "avg") for v in (m.vio_old, m.vio_new)),
            m.tie_rate,
            m.near_rate,
            m.clear_rate,
        )


def cells_of_sample(one: ComparedSample) -> tuple[Any, ...]:
    """The row of a compared sample."""
    s, sums = one.counts, one.logprobs
    return (
        s.sample,
        s.tokens,
        s.tokens_mismatched,
        s.rows,
        s.rows_mismatched,
        s.mismatch_rate,
        sums.tokens,
        rate(-sums.sum_of("d"), sums.tokens),
        sums.mean_of("k3"),
        rate(sums.over_tau, sums.tokens),
    )


def sample_cells(result: DiffResult, eps: float) -> Rows:
    """A row a compared sample, in the order of OLD, of a result that has each."""
    return map(cells_of_sample, result.each)


def _four(row: Any) -> tuple[Any, ...]:
    tokens, tokens_mismatched, rows, rows_mismatched = (int(n) for n in row)
    return tokens, tokens_mismatched, rows, rows_mismatched, rate(rows_mismatched, rows)


def position_cells(result: DiffResult, eps: float) -> Rows:
    """A row a bin of absolute positions that has compared tokens."""
    for i, row in enumerate(result.counts.bins_B4):
        if row[0]:
            yield (*bin_edges(i), *_four(row), rate(int(row[1]), int(row[0])))


def _places(result: DiffResult, eps: float) -> Rows:
    for name, row in zip(PLACES, result.counts.places_P4, strict=True):
        yield name, *_four(row)


def _examples(result: DiffResult, eps: float) -> Rows:
    for e in result.examples:
        yield e.sample, e.position, e.layer, e.old, e.new, e.margin_old, e.margin_new


DIFF_FRAMES = (
    Frame("layers", "a compared layer", LAYER_COLUMNS, layer_cells),
    Frame("samples", "a compared sample", SAMPLE_COLUMNS, sample_cells),
    Frame("positions", "a bin of absolute positions", POSITION_COLUMNS, position_cells),
    Frame(
        "places",
        "the prompt, the cached part of it, the response",
        (ArrowColumn("place", "string", "", "prompt, cached or response"), *_WITH_TOKENS),
        _places,
    ),
    Frame(
        "examples",
        "one of the first mismatched rows",
        (
            OLD_SAMPLE,
            POSITION,
            LAYER,
            ArrowColumn("old", "list<int64>", "expert ids", "sorted"),
            ArrowColumn("new", "list<int64>", "expert ids", "sorted"),
            ArrowColumn("margin_old", "float64", "score", "boundary margin of OLD"),
            ArrowColumn("margin_new", "float64", "score", "boundary margin of NEW"),
        ),
        _examples,
    ),
)
