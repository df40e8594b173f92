"""Results as JSON documents: the report itself, of which the other voices are views.

docs/json.md is the contract. Undefined figures are null; nan and infinity never appear.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from ...dump import DumpMeta
from ...ops.diff.counts import PLACES, bin_edges
from ...ops.diff.detail import Example
from ...ops.diff.diff import DiffResult, SequenceCount
from ...ops.diff.measures import (
    Measures,
    dead_experts,
    entropy,
    layer_measures,
    max_vio,
    rate,
    total_measures,
)
from ...ops.diff.thresholds import Verdict, judge
from ...ops.summary import Summary
from .detail import detail_document, load_document, worst_first
from .flips import margin_document, sides_document

__all__ = [
    "Document",
    "diff_document",
    "dump_document",
    "figures_document",
    "finite",
    "summary_document",
]

Document = dict[str, Any]
_QUANTILES = (0.5, 0.9, 0.99)
_OF_SEQUENCE = ("sample", "tokens", "tokens_mismatched", "rows", "rows_mismatched")


def finite(value: Any) -> Any:
    """The value with every float that JSON cannot hold as None."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_WHERE_KNOWN = ("order", "margins", "group_margins", "gates", "provenance", "codec")


def dump_document(meta: DumpMeta, samples: int) -> Document:
    """What a document says of a dump that it is about."""
    about = asdict(meta)
    del about["num_layers"]  # of the model, for convert: reports are of the MoE layers
    for name in _WHERE_KNOWN:
        if about[name] in ("unknown", False, {}, None):
            del about[name]
    return {
        "path": about.pop("path"),
        "samples": samples,
        "layers": list(about.pop("layers_L")),
        **about,
        "skipped": list(meta.skipped),
    }


def _measures(m: Measures) -> Document:
    return {
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
        "max_vio_old": m.max_vio_old,
        "max_vio_new": m.max_vio_new,
    }


def _four(name: str, key: Any, row: Any) -> Document:
    tokens, mismatched, rows, rows_mismatched = (int(n) for n in row)
    return {
        name: key,
        "tokens": tokens,
        "tokens_mismatched": mismatched,
        "token_mismatch_rate": rate(mismatched, tokens),
        "rows": rows,
        "rows_mismatched": rows_mismatched,
        "mismatch_rate": rate(rows_mismatched, rows),
    }


def _sequences(sequences: tuple[SequenceCount, ...], limit: int) -> Document:
    rates = [s.mismatch_rate for s in sequences]
    worst = worst_first(sequences)
    return {
        "compared": len(sequences),
        "mismatched": sum(s.rows_mismatched > 0 for s in sequences),
        "mean": float(np.mean(rates)) if rates else None,
        **{
            f"p{round(100 * q)}": float(np.quantile(rates, q)) if rates else None
            for q in _QUANTILES
        },
        "max": max(rates, default=None),
        "worst": [
            {**{name: getattr(s, name) for name in _OF_SEQUENCE}, "mismatch_rate": s.mismatch_rate}
            for s in worst[:limit]
            if s.rows_mismatched
        ],
    }


def _logprobs(result: DiffResult) -> Document | None:
    sums = result.logprobs
    if not sums.tokens:
        return None
    return {
        "tokens": sums.tokens,
        "k1": rate(-sums.sum_d, sums.tokens),
        "k3": rate(sums.sum_k3, sums.tokens),
        "mean_abs_d": rate(sums.sum_abs, sums.tokens),
        "max_abs_d": sums.max_abs,
        "tau": sums.TAU,
        "f_tau": rate(sums.over_tau, sums.tokens),
    }


def _margins(
    result: DiffResult, m: Measures, layer: int | None, first: Document | None = None
) -> Document:
    """The entry ``margins`` of a layer, by its index, or of all; nothing without margins."""
    if result.margins is None:
        return {}
    sides = sides_document(result.margins, layer)
    return {"margins": {**(first or {}), **margin_document(m), **sides}}


def _example(example: Example, margins: bool) -> Document:
    found = asdict(example)
    if not margins:
        del found["margin_old"], found["margin_new"]
    return found


def figures_document(result: DiffResult, eps: float) -> Document:
    """Every figure of a comparison: of all rows, by layer, place, position and sequence.

    eps is the margin up to which a flip is a near-tie. Floats that JSON cannot hold may be in it.
    """
    counts = result.counts
    whole = total_measures(result, eps)
    total = _measures(whole)
    bins = [
        {"from": bin_edges(i)[0], **_four("to", bin_edges(i)[1], row)}
        for i, row in enumerate(counts.bins_B4)
        if row[0]
    ]
    return {
        **{k: total[k] for k in ("rows", "rows_mismatched", "mismatch_rate", "overlap_rate")},
        "chance_overlap_rate": result.old.top_k / result.old.num_experts,
        "tokens": result.num_tokens,
        "tokens_mismatched": result.tokens_mismatched,
        "token_mismatch_rate": rate(result.tokens_mismatched, result.num_tokens),
        **{
            k: v
            for k, v in total.items()
            if k not in ("rows", "rows_mismatched", "mismatch_rate", "overlap_rate")
        },
        "rows_only_old": counts.only_old,
        "rows_only_new": counts.only_new,
        "coverage_rate": rate(result.rows, result.rows + counts.only_old + counts.only_new),
        "layers_only_old": list(result.layers_only_old),
        "layers_only_new": list(result.layers_only_new),
        "layers": [
            {"layer": m.layer, **_measures(m), **_margins(result, m, i)}
            for i, m in enumerate(layer_measures(counts, result.layers, result.margins, eps))
        ],
        "tokens_by_differing_layers": counts.depth_N.tolist(),
        "tokens_by_first_differing_layer": [
            {"layer": layer, "tokens": n}
            for layer, n in zip(result.layers, counts.first_L.tolist(), strict=True)
        ],
        "places": [_four("place", p, row) for p, row in zip(PLACES, counts.places_P4, strict=True)],
        "positions": bins,
        "sequences": _sequences(result.sequences, result.limit),
        "logprobs": _logprobs(result),
        **_margins(result, whole, None, {"eps": eps}),
        "examples": [_example(e, result.margins is not None) for e in result.examples],
    }


def _noise(noise: DiffResult | None) -> Document:
    """How much a rerun of OLD differs from it; nothing where there is none."""
    if noise is None:
        return {}
    keys = ("rows", "rows_mismatched", "mismatch_rate")
    layers = layer_measures(noise.counts, noise.layers)
    total = {key: _measures(total_measures(noise))[key] for key in keys}
    return {
        "noise": [
            {
                "name": noise.new.path,
                **total,
                "layers": [
                    {
                        "layer": m.layer,
                        **{key: getattr(m, key) for key in keys[:2]},
                        "mismatch_rate": m.mismatch_rate,
                    }
                    for m in layers
                ],
            }
        ]
    }


def diff_document(
    result: DiffResult, verdict: Verdict | None = None, *, noise: DiffResult | None = None
) -> Document:
    """The routectl.diff/1 document; without a verdict, every mismatch counts as a difference.

    It has the key ``detail`` where the result has one (``DiffOptions.detail``), and ``noise``
    where a comparison of OLD with a rerun of OLD is given.
    """
    verdict = judge(result) if verdict is None else verdict
    document: Document = {
        "schema": "routectl.diff/1",
        "old": dump_document(result.old, result.samples.old),
        "new": dump_document(result.new, result.samples.new),
        "samples": {**asdict(result.samples), "matched_by": result.match},
        "token_selection": result.tokens,
        **figures_document(result, verdict.eps),
        "verdict": {
            "differs": verdict.differs,
            "failed": [asdict(f) for f in verdict.failed],
            "incomparable_layers": list(verdict.incomparable),
            "exit_code": verdict.exit_code,
        },
        **_noise(noise),
        **detail_document(result),
    }
    return finite(document)  # type: ignore[no-any-return]


def summary_document(summary: Summary, *, detail: bool = False) -> Document:
    """The routectl.show/1 document; with ``detail``, the expert load that a page shows too."""
    meta = summary.meta
    layers = [
        {
            "layer": layer,
            "rows": summary.positions - int(summary.rows_missing_L[i]),
            "rows_missing": int(summary.rows_missing_L[i]),
            "max_vio": max_vio(summary.load_LE[i]),
            "entropy": entropy(summary.load_LE[i]),
            "dead_experts": dead_experts(summary.load_LE[i]),
        }
        for i, layer in enumerate(meta.layers_L)
    ]
    document: Document = {
        "schema": "routectl.show/1",
        "dump": dump_document(meta, summary.samples),
        "samples": summary.samples,
        "samples_without_routes": summary.without_routes,
        "samples_with_logprobs": summary.with_logprobs,
        "samples_with_cached_tokens": summary.with_cached,
        "samples_retracted": summary.retracted,
        "samples_of_unknown_length": summary.lengths_unknown,
        "prompt_tokens": summary.prompt_tokens,
        "response_tokens": summary.response_tokens,
        "cached_tokens": summary.cached_tokens if summary.with_cached else None,
        "tokens_with_routes": summary.positions,
        "rows": summary.rows,
        "rows_missing": int(summary.rows_missing_L.sum()),
        **(
            {"rows_with_margin": summary.rows_with_margin, "ties": summary.ties}
            if meta.margins
            else {}
        ),
        "id_bytes_per_token": summary.id_bytes_per_token,
        "file_bytes_per_token": rate(meta.file_bytes or 0, summary.positions),
        "starts": summary.starts,
        "row_counts": summary.row_counts,
        "samples_merged": summary.merged,
        "segments": summary.segments,
        "segment_rows_differing": summary.segment_rows_differing,
        "weight_versions": summary.weight_versions,
        "finish_reasons": summary.finish_reasons,
        "layers": layers,
        **(load_document(summary.load_LE) if detail else {}),
    }
    return finite(document)  # type: ignore[no-any-return]
