"""A dump as a JSON document, routectl.show/1; docs/json.md is the contract."""

from ...ops.check.alone.results import Power
from ...ops.diff.measures import Vio, dead_experts, entropy, rate, vio
from ...ops.summary import Summary
from ..diff.detail import load_document
from ..document import dump_document, finite
from .schema import DamagedEntry, LayerSummary, LayerViolations, ShowDocument, ShowExtras

__all__ = ["summary_document"]


def _margins(summary: Summary) -> ShowExtras:
    """Rows with a margin, where the dump has margins."""
    if not summary.meta.margins:
        return {}
    return {"rows_with_margin": summary.rows_with_margin, "ties": summary.ties}


def _damaged(summary: Summary) -> DamagedEntry | None:
    """The samples that their reader refused; None where it refused none."""
    if summary.first_damaged is None:
        return None
    sample, reason = summary.first_damaged
    return {"samples": summary.damaged, "sample": sample, "reason": reason}


def _detail(summary: Summary, detail: bool) -> ShowExtras:
    return {"detail": load_document(summary.load_LE)} if detail else {}


def _violations(found: Vio | None) -> LayerViolations:
    if found is None:
        return {"max_vio": None, "min_vio": None, "avg_vio": None}
    return {"max_vio": found.max, "min_vio": found.min, "avg_vio": found.avg}


def summary_document(
    summary: Summary, *, lift: Power | None = None, detail: bool = False
) -> ShowDocument:
    """The routectl.show/1 document; with ``detail``, the expert load that a page shows too.

    ``lift`` is how far the routes follow their tokens, None where it was not measured.
    """
    meta = summary.meta
    bits = None if lift is None or lift.reason else lift.lift_L
    layers: list[LayerSummary] = [
        {
            "layer": layer,
            "rows": summary.positions - int(summary.rows_missing_L[i]),
            "rows_missing": int(summary.rows_missing_L[i]),
            **_violations(vio(summary.load_LE[i])),
            "entropy": entropy(summary.load_LE[i]),
            "dead_experts": dead_experts(summary.load_LE[i]),
            "lift": None if bits is None else bits[i],
        }
        for i, layer in enumerate(meta.layers_L)
    ]
    document: ShowDocument = {
        "schema": "routectl.show/1",
        "dump": dump_document(meta, summary.samples),
        "samples": summary.samples,
        "damaged": _damaged(summary),
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
        **_margins(summary),
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
        **_detail(summary, detail),
    }
    return finite(document)
