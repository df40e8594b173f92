"""A comparison as a JSON document, routectl.diff/1; docs/json.md is the contract."""

from dataclasses import asdict
from typing import Any, cast

from ...ops.adding.intervals import Bootstrap, Interval, rate_intervals
from ...ops.diff.counts import PLACES, bin_edges
from ...ops.diff.detail import Example
from ...ops.diff.logprobs import LOGPROB_METRICS, TAU, TAUS
from ...ops.diff.measures import Measures, layer_measures, rate, total_measures
from ...ops.diff.result import DiffResult, Sequences
from ...ops.diff.thresholds import Verdict, judge
from ..document import (
    CountedRows,
    IntervalEntry,
    dump_document,
    failure_entries,
    finite,
    not_finite,
)
from .detail import detail_document
from .figures import LogprobFigures, Violations
from .flips import margin_figures
from .schema import (
    ComparedFigures,
    DiffDocument,
    DiffExtras,
    DiffIntervals,
    ExampleEntry,
    LayerFigures,
    NoiseEntry,
    RowFigures,
    SampleFigures,
    SequenceFigures,
    UnmatchedEntry,
)

__all__ = ["counted_rows", "diff_document", "figures_document", "sample_figures"]

_QUANTILES = (0.5, 0.9, 0.99)


def counted_rows(rows: int, mismatched: int) -> CountedRows:
    """Rows, those that are mismatched, and the share."""
    return {
        "rows": rows,
        "rows_mismatched": mismatched,
        "mismatch_rate": rate(mismatched, rows),
    }


def sample_figures(result: DiffResult) -> SampleFigures:
    """Samples of each side, compared, and left over."""
    return cast("SampleFigures", {**asdict(result.samples), "matched_by": result.match})


def _measures(m: Measures) -> RowFigures:
    figures = {
        "rows": m.rows,
        "rows_mismatched": m.rows_mismatched,
        "mismatch_rate": m.mismatch_rate,
        "overlap_rate": m.overlap_rate,
        "order_mismatches": m.order_mismatches,
        "order_mismatch_rate": m.order_mismatch_rate,
        "zero_overlap_rate": m.zero_overlap_rate,
        "swaps": list(m.swaps),
        "rows_missing": m.rows_missing,
        "load_shift": m.load_shift,
        "load_js": m.load_js,
        **_violations(m),
    }
    return cast("RowFigures", figures)


def _violations(m: Measures) -> Violations:
    old, new = m.vio_old, m.vio_new
    return {
        "max_vio_old": None if old is None else old.max,
        "max_vio_new": None if new is None else new.max,
        "min_vio_old": None if old is None else old.min,
        "min_vio_new": None if new is None else new.min,
        "avg_vio_old": None if old is None else old.avg,
        "avg_vio_new": None if new is None else new.avg,
    }


def _four(row: Any) -> dict[str, Any]:
    tokens, mismatched, rows, rows_mismatched = (int(n) for n in row)
    return {
        "tokens": tokens,
        "tokens_mismatched": mismatched,
        "token_mismatch_rate": rate(mismatched, tokens),
        **counted_rows(rows, rows_mismatched),
    }


def _sequences(sequences: Sequences) -> SequenceFigures:
    spread = sequences.rates
    p50, p90, p99 = (spread.quantile(q) for q in _QUANTILES)
    return {
        "compared": spread.count,
        "mismatched": spread.above_zero,
        "mean": spread.mean,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "quantile_error": spread.error,
        "max": spread.greatest,
        "worst": [
            {
                "sample": s.sample,
                "tokens": s.tokens,
                "tokens_mismatched": s.tokens_mismatched,
                **counted_rows(s.rows, s.rows_mismatched),
            }
            for s in sequences.worst
        ],
    }


def _logprobs(result: DiffResult) -> LogprobFigures | None:
    sums = result.logprobs
    if not (sums.tokens or sums.one_sided):
        return None
    named = {m.key: m.of(sums) for m in LOGPROB_METRICS if m.key != "f_taus"}
    figures = cast("LogprobFigures", {"tokens": sums.tokens, **named, "tau": TAU})
    figures["f_taus"] = [{"tau": tau, "f_tau": sums.f_tau(tau)} for tau in TAUS]
    if sums.one_sided:
        figures["tokens_of_one_side"] = sums.one_sided
    infinite = not_finite(figures)
    if infinite:
        figures["not_finite"] = infinite
    return figures


def _example(example: Example, margins: bool) -> ExampleEntry:
    entry: ExampleEntry = {
        "sample": example.sample,
        "position": example.position,
        "layer": example.layer,
        "old": list(example.old),
        "new": list(example.new),
    }
    if margins:
        entry["margin_old"] = example.margin_old
        entry["margin_new"] = example.margin_new
    return entry


def _layer(result: DiffResult, index: int, m: Measures) -> LayerFigures:
    entry = cast("LayerFigures", {"layer": result.layers[index], **_measures(m)})
    if result.margins is not None:
        entry["margins"] = margin_figures(m, result.margins, index)
    return entry


def figures_document(result: DiffResult, eps: float) -> ComparedFigures:
    """Every figure of a comparison: of all rows, by layer, place, position and sequence.

    eps is the margin up to which a flip is a near-tie. Floats that JSON cannot hold may be in it.
    """
    counts, whole = result.counts, total_measures(result, eps)
    total = _measures(whole)
    first = ("rows", "rows_mismatched", "mismatch_rate", "overlap_rate")
    parts = layer_measures(counts, result.layers, result.margins, eps)
    figures: dict[str, Any] = {
        **{name: value for name, value in total.items() if name in first},
        "chance_overlap_rate": result.old.top_k / result.old.num_experts,
        "tokens": result.num_tokens,
        "tokens_mismatched": result.tokens_mismatched,
        "token_mismatch_rate": rate(result.tokens_mismatched, result.num_tokens),
        **{name: value for name, value in total.items() if name not in first},
        "rows_only_old": counts.only_old,
        "rows_only_new": counts.only_new,
        "rows_lost_old": counts.lost_old,
        "rows_lost_new": counts.lost_new,
        "rows_unmatched_old": counts.alone_old,
        "rows_unmatched_new": counts.alone_new,
        "coverage_rate": rate(result.rows, result.rows + result.rows_left_over),
        "layers_only_old": list(result.layers_only_old),
        "layers_only_new": list(result.layers_only_new),
        "layers": [_layer(result, i, m) for i, m in enumerate(parts)],
        "tokens_by_differing_layers": counts.depth_N.tolist(),
        "tokens_by_first_differing_layer": [
            {"layer": layer, "tokens": n}
            for layer, n in zip(result.layers, counts.first_L.tolist(), strict=True)
        ],
        "places": [
            {"place": name, **_four(row)}
            for name, row in zip(PLACES, counts.places_P4, strict=True)
        ],
        "positions": [
            {**dict(zip(("from", "to"), bin_edges(i), strict=True)), **_four(row)}
            for i, row in enumerate(counts.bins_B4)
            if row[0]
        ],
        "sequences": _sequences(result.sequences),
        "logprobs": _logprobs(result),
    }
    if result.margins is not None:
        figures["margins"] = {"eps": eps, **margin_figures(whole, result.margins)}
    figures["examples"] = [_example(e, result.margins is not None) for e in result.examples]
    return cast("ComparedFigures", figures)


def _noise(noise: DiffResult) -> NoiseEntry:
    """How much a rerun of OLD differs from it."""
    return {
        "name": noise.new.path,
        **counted_rows(noise.rows, noise.rows_mismatched),
        "layers": [
            {"layer": layer, **counted_rows(m.rows, m.rows_mismatched)}
            for layer, m in zip(
                noise.layers, layer_measures(noise.counts, noise.layers), strict=True
            )
        ],
    }


def _intervals(sequences: Sequences) -> DiffIntervals:
    """Where the rates lie, from draws of buckets of samples; columns are those of CLUSTERED."""
    plan, sums_CM = Bootstrap(), sequences.buckets.sums_CM
    rows, tokens = rate_intervals(sums_CM[:, ::2], sums_CM[:, 1::2], plan)
    return {
        "level": plan.level,
        "clusters": len(sums_CM),
        "mismatch_rate": _interval(rows),
        "token_mismatch_rate": _interval(tokens),
    }


def _interval(found: Interval | None) -> IntervalEntry | None:
    return None if found is None else {"low": found.low, "high": found.high}


def _extras(result: DiffResult, noise: DiffResult | None, eps: float) -> DiffExtras:
    extras: DiffExtras = {} if noise is None else {"noise": [_noise(noise)]}
    if result.sequences.rates.count > 1:
        extras["intervals"] = _intervals(result.sequences)
    if result.detail is not None:
        extras["detail"] = detail_document(result, result.detail, eps)
    return extras


def diff_document(
    result: DiffResult, verdict: Verdict | None = None, *, noise: DiffResult | None = None
) -> DiffDocument:
    """The routectl.diff/1 document; without a verdict, every mismatch counts as a difference.

    It has the key ``detail`` where the result has one (``DiffOptions.detail``), and ``noise``
    where a comparison of OLD with a rerun of OLD is given.
    """
    verdict = judge(result) if verdict is None else verdict
    document: DiffDocument = {
        "schema": "routectl.diff/1",
        "old": dump_document(result.old, result.samples.old),
        "new": dump_document(result.new, result.samples.new),
        "samples": sample_figures(result),
        "token_selection": result.tokens,
        **figures_document(result, verdict.eps),
        "verdict": {
            "differs": verdict.differs,
            "failed": failure_entries(verdict.failed),
            "incomparable_layers": list(verdict.incomparable),
            "unmatched": cast("UnmatchedEntry", asdict(verdict.unmatched)),
            "allow_unmatched": verdict.allowed,
            "exit_code": verdict.exit_code,
        },
        **_extras(result, noise, verdict.eps),
    }
    return finite(document)
