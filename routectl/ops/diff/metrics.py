"""Every figure of a comparison that a threshold or a scalar names."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .logprobs import LOGPROB_METRICS, LogprobMetric
from .measures import Measures, Vio, rate
from .result import DiffResult

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that can be gated: of a layer or the total, or of the whole result only.

    key is where a document has it, dotted: in the entry of a layer and of all, or of all alone.
    """

    name: str
    key: str
    is_rate: bool
    about: str
    of_measures: Callable[[Measures], float | None] | None = None
    of_result: Callable[[DiffResult], float | None] | None = None


def _coverage(result: DiffResult) -> float | None:
    return rate(result.rows, result.rows + result.rows_left_over)


def _gated(metric: LogprobMetric) -> Metric:
    """A figure of log-probs as it is gated: NaN where a token has none on one side alone."""

    def found(result: DiffResult) -> float | None:
        sums = result.logprobs
        return math.nan if sums.one_sided else metric.of(sums)

    return Metric(metric.name, f"logprobs.{metric.key}", metric.is_rate, metric.about, None, found)


def _each_side(name: str, about: str, of: Callable[[Vio], float]) -> tuple[Metric, Metric]:
    """A violation of OLD's load, and of NEW's."""

    def found(vio: Vio | None) -> float | None:
        return None if vio is None else of(vio)

    old, new = f"{name}_old", f"{name}_new"
    return (
        Metric(old, old, False, f"{about}, of OLD", lambda m: found(m.vio_old)),
        Metric(new, new, False, f"{about}, of NEW", lambda m: found(m.vio_new)),
    )


METRICS = (
    Metric(
        "mismatch",
        "mismatch_rate",
        True,
        "rows whose expert sets differ",
        lambda m: m.mismatch_rate,
    ),
    Metric("overlap", "overlap_rate", True, "mean of shared ids / K", lambda m: m.overlap_rate),
    Metric(
        "order",
        "order_mismatch_rate",
        True,
        "equal sets in another slot order",
        lambda m: m.order_mismatch_rate,
    ),
    Metric(
        "zero_overlap",
        "zero_overlap_rate",
        True,
        "rows that share no id",
        lambda m: m.zero_overlap_rate,
    ),
    Metric(
        "tie",
        "margins.tie_rate",
        True,
        "mismatched at a margin of 0, of rows with a margin",
        lambda m: m.tie_rate,
    ),
    Metric(
        "near",
        "margins.near_rate",
        True,
        "mismatched at a margin up to --eps",
        lambda m: m.near_rate,
    ),
    Metric(
        "clear",
        "margins.clear_rate",
        True,
        "mismatched at a margin over --eps",
        lambda m: m.clear_rate,
    ),
    Metric(
        "margin_coverage",
        "margins.margin_coverage_rate",
        True,
        "rows whose margin is known",
        lambda m: m.margin_coverage_rate,
    ),
    Metric(
        "load_shift", "load_shift", True, "total variation of expert load", lambda m: m.load_shift
    ),
    Metric(
        "load_js",
        "load_js",
        False,
        "Jensen-Shannon divergence of expert load",
        lambda m: m.load_js,
    ),
    *_each_side("max_vio", "busiest expert over the even share, less 1", lambda v: v.max),
    *_each_side("min_vio", "idlest expert over the even share, less 1", lambda v: v.min),
    *_each_side("avg_vio", "mean distance of experts from the even share", lambda v: v.avg),
    Metric(
        "rows_mismatched",
        "rows_mismatched",
        False,
        "the count behind mismatch",
        lambda m: m.rows_mismatched,
    ),
    Metric(
        "rows_missing",
        "rows_missing",
        False,
        "rows without a route on a side",
        lambda m: m.rows_missing,
    ),
    Metric(
        "token_mismatch",
        "token_mismatch_rate",
        True,
        "tokens with a layer that differs",
        None,
        lambda r: rate(r.tokens_mismatched, r.num_tokens),
    ),
    Metric(
        "coverage",
        "coverage_rate",
        True,
        "rows compared, of all rows of both dumps",
        None,
        _coverage,
    ),
    Metric(
        "unmatched",
        "samples",
        False,
        "samples without a partner",
        None,
        lambda r: r.samples.only_old + r.samples.only_new,
    ),
    *map(_gated, LOGPROB_METRICS),
)
