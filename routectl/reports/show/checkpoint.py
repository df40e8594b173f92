"""A checkpoint as a JSON document, routectl.checkpoint/1; docs/json.md is the contract.

Apart from that of a dump, whose figures load compiled loops: a checkpoint is headers alone.
"""

from ...checkpoints.facts import CheckpointFacts
from .schema import CheckpointDocument

__all__ = ["checkpoint_document"]


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
        "refused": facts.refused,
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
