"""The tables of a Staleness: every comparison, and each by layer, sample and position."""

from collections.abc import Callable
from typing import Any

from ...ops.adding.intervals import Interval
from ...ops.diff.measures import rate
from ...ops.staleness.comparison import Comparison
from ...ops.staleness.gain import TAUS
from ...ops.staleness.staleness import Staleness
from ..staleness.advice import advise
from .diff import (
    LAYER_COLUMNS,
    POSITION_COLUMNS,
    SAMPLE_COLUMNS,
    layer_cells,
    position_cells,
    sample_cells,
)
from .frame import F_TAU, LOGPROB_TOKENS, ArrowColumn, Frame, Rows, counted_columns

__all__ = ["STALENESS_FRAMES"]

_WHICH = (
    ArrowColumn("kind", "string", "", "mismatch, staleness or total"),
    ArrowColumn("old", "string", "", "dump, or a version"),
    ArrowColumn("new", "string", "", "a version, or own version"),
    ArrowColumn("lag", "int64", "updates", "between the two; null of a total of several"),
    ArrowColumn("mode", "string", "", "free or forced"),
)
_INTERVAL = (
    ArrowColumn("low", "float64", "0..1", "of the interval of mismatch_rate"),
    ArrowColumn("high", "float64", "0..1", "of the interval of mismatch_rate"),
)


def _which(c: Comparison) -> tuple[Any, ...]:
    return c.kind, c.old, c.new, c.lag, c.mode


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _compared(c: Comparison) -> tuple[Any, ...]:
    result, sums = c.result, c.result.logprobs
    return (
        *_which(c),
        result.num_tokens,
        result.tokens_mismatched,
        result.rows,
        result.rows_mismatched,
        c.mismatch_rate,
        *_ends(c.intervals.mismatch),
        sums.tokens,
        sums.mean_of("k3"),
        c.f2_rate,
    )


def _comparisons(result: Staleness, eps: float) -> Rows:
    return map(_compared, result.comparisons)


def _by_lag(result: Staleness, eps: float) -> Rows:
    return map(_compared, result.by_lag)


def _layers(result: Staleness, eps: float) -> Rows:
    for c in result.comparisons:
        for cells, interval in zip(layer_cells(c.result, eps), c.intervals.layers, strict=True):
            yield (*_which(c), *cells, *_ends(interval))


def _parts(cells: Callable[[Any, float], Rows]) -> Callable[[Staleness, float], Rows]:
    """The rows of a comparison's own table, each with the comparison before it."""

    def rows(result: Staleness, eps: float) -> Rows:
        return ((*_which(c), *part) for c in result.comparisons for part in cells(c.result, eps))

    return rows


def _own_rows(result: Staleness, eps: float) -> Rows:
    for cell in result.cells:
        rows, wrong = cell.result.rows, cell.result.rows_mismatched
        yield cell.own, cell.version, cell.lag, cell.mode, rows, wrong, rate(wrong, rows)


def _replays(result: Staleness, eps: float) -> Rows:
    for one in result.gains.versions:
        for mode, f in one.figures.items():
            fall = one.fall(mode)
            yield (
                one.version,
                one.lag,
                mode,
                one.tokens,
                f.k1,
                f.k3,
                *_ends(f.k3_interval),
                f.mean_abs,
                f.max_abs,
                *f.over,
                None if fall is None else fall.ratio,
                *_ends(None if fall is None else fall.interval),
            )


def _findings(result: Staleness, eps: float) -> Rows:
    for f in advise(result, eps=eps).findings:
        yield f.about, f.alarm, f.text, f.evidence


_K3 = ArrowColumn("k3", "float64", "nats", "mean of e^d - 1 - d; docs/metrics.md")
_FIGURES = (
    *_WHICH,
    *counted_columns("tokens"),
    *_INTERVAL,
    LOGPROB_TOKENS,
    _K3,
    F_TAU,
)
STALENESS_FRAMES = (
    Frame("comparisons", "a comparison", _FIGURES, _comparisons),
    Frame("lags", "staleness of a lag, all pairs of it added up", _FIGURES, _by_lag),
    Frame("layers", "a layer of a comparison", (*_WHICH, *LAYER_COLUMNS, *_INTERVAL), _layers),
    Frame("samples", "a sample of a comparison", (*_WHICH, *SAMPLE_COLUMNS), _parts(sample_cells)),
    Frame(
        "positions",
        "a bin of positions of a comparison",
        (*_WHICH, *POSITION_COLUMNS),
        _parts(position_cells),
    ),
    Frame(
        "own_rows",
        "the dump's rows of one version against one version",
        (
            ArrowColumn("own", "string", "", "the version that made the rows"),
            ArrowColumn("version", "string", "", "the version that they are held against"),
            ArrowColumn("lag", "int64", "updates", "between the two"),
            ArrowColumn("mode", "string", "", "free or forced"),
            *counted_columns(),
        ),
        _own_rows,
    ),
    Frame(
        "replays",
        "what replay gains: a mode at the weights of a version",
        (
            ArrowColumn("version", "string", "", "whose weights"),
            ArrowColumn("lag", "int64", "updates", "since the rollout; null of several"),
            ArrowColumn("mode", "string", "", "none, R2 or R3"),
            LOGPROB_TOKENS,
            ArrowColumn("k1", "float64", "nats", "mean of log p_dump - log p"),
            _K3,
            ArrowColumn("k3_low", "float64", "nats", "of the interval of k3"),
            ArrowColumn("k3_high", "float64", "nats", "of the interval of k3"),
            ArrowColumn("mean_abs_d", "float64", "nats", "mean of |d|"),
            ArrowColumn("max_abs_d", "float64", "nats", "greatest |d|"),
            *(
                ArrowColumn(
                    f"f_{tau:g}", "float64", "0..1", f"ratio over {tau:g} or under its inverse"
                )
                for tau in TAUS
            ),
            ArrowColumn("gain", "float64", "times", "k3 of none / k3 of the mode; null of none"),
            ArrowColumn("gain_low", "float64", "times", "of the interval of gain"),
            ArrowColumn("gain_high", "float64", "times", "of the interval of gain"),
        ),
        _replays,
    ),
    Frame(
        "findings",
        "a piece of advice",
        (
            ArrowColumn("about", "string", "", "mode, mismatch, nearest, cached, staleness, ..."),
            ArrowColumn("alarm", "bool", "", "something is wrong, or over a limit"),
            ArrowColumn("text", "string", "", "in a sentence"),
            ArrowColumn("evidence", "list<string>", "", "the figures behind it"),
        ),
        _findings,
    ),
)
