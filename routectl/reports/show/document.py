"""A dump and a checkpoint as JSON documents, routectl.show/1 and routectl.checkpoint/1.

docs/json.md is the contract.
"""

from ...checkpoints.facts import CheckpointFacts
from ...ops.diff.measures import dead_experts, entropy, max_vio, rate
from ...ops.summary import Summary
from ..diff.detail import load_document
from ..document import dump_document, finite
from .schema import CheckpointDocument, LayerSummary, ShowDocument, ShowExtras

__all__ = ["checkpoint_document", "summary_document"]


def _margins(summary: Summary) -> ShowExtras:
    """Rows with a margin, where the dump has margins."""
    if not summary.meta.margins:
        return {}
    return {"rows_with_margin": summary.rows_with_margin, "ties": summary.ties}


def _detail(summary: Summary, detail: bool) -> ShowExtras:
    return {"detail": load_document(summary.load_LE)} if detail else {}


def summary_document(summary: Summary, *, detail: bool = False) -> ShowDocument:
    """The routectl.show/1 document; with ``detail``, the expert load that a page shows too."""
    meta = summary.meta
    layers: list[LayerSummary] = [
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
    document: ShowDocument = {
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


def checkpoint_document(facts: CheckpointFacts) -> CheckpointDocument:
    """The routectl.checkpoint/1 document; bytes are as stored."""
    checkpoint = facts.checkpoint
    routers = facts.routers.values()
    moe = set(facts.layers)
    largest = facts.largest_layer
    return {
        "schema": "routectl.checkpoint/1",
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "iteration": checkpoint.iteration,
        "model": None if facts.facts is None else facts.facts.model_type,
        "num_layers": facts.num_layers,
        "layers": list(facts.layers),
        "num_experts": facts.num_experts,
        "top_k": facts.top_k,
        "recipe": facts.recipe,
        "router": {
            "shape": [facts.experts, facts.hidden_size],
            "dtypes": list(facts.weight_dtypes),
            "linear_bias": any(names.linear_bias is not None for names in routers),
            "expert_bias_dtypes": list(facts.bias_dtypes),
            "extras": sorted({extra for names in routers for extra in names.extras}),
            "bytes": facts.router_bytes,
        },
        "files": len(checkpoint.files),
        "file_bytes": checkpoint.file_bytes,
        "tensors": len(checkpoint.tensors),
        "tensor_bytes": facts.tensor_bytes,
        "unindexed": list(checkpoint.unindexed),
        "dtypes": [
            {"dtype": dtype, "tensors": facts.dtype_tensors[dtype], "bytes": num_bytes}
            for dtype, num_bytes in facts.dtype_bytes.items()
        ],
        "largest_layer": None
        if largest is None
        else {"layer": largest, "bytes": facts.layer_bytes[largest]},
        "streamed_bytes": sum(facts.layer_bytes.values()) if facts.layer_bytes else None,
        "other_bytes": facts.other_bytes if facts.layer_bytes else None,
        "layer_bytes": [
            {"layer": layer, "moe": layer in moe, "bytes": num_bytes}
            for layer, num_bytes in facts.layer_bytes.items()
        ],
    }
