"""A checkpoint as a JSON document, routectl.checkpoint/1; docs/json.md is the contract.

Apart from that of a dump, whose figures load compiled loops: a checkpoint is headers alone.
"""

from ...checkpoints.facts import CheckpointFacts
from .schema import CheckpointDocument, RouterDtypes

__all__ = ["checkpoint_document"]


def checkpoint_document(facts: CheckpointFacts) -> CheckpointDocument:
    """The routectl.checkpoint/1 document; bytes are as stored."""
    checkpoint = facts.checkpoint
    routers = facts.routers.values()
    moe = set(facts.layers)
    largest, layer_bytes = facts.largest_layer, facts.layer_bytes
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
        else {"layer": largest, "bytes": layer_bytes[largest]},
        "streamed_bytes": sum(layer_bytes.values()) if layer_bytes else None,
        "other_bytes": facts.other_bytes if layer_bytes else None,
        "layer_bytes": [
            {
                "layer": layer,
                "moe": layer in moe,
                "bytes": sum(sizes.values()),
                "dtypes": dict(sizes),
            }
            for layer, sizes in facts.layer_dtypes.items()
        ],
        "layer_routers": [_router(facts, layer) for layer in facts.layers],
    }


def _router(facts: CheckpointFacts, layer: int) -> RouterDtypes:
    names, info = facts.routers[layer], facts.checkpoint.info
    bias = names.expert_bias
    return {
        "layer": layer,
        "dtype": info(names.weight.name).dtype,
        "expert_bias_dtype": None if bias is None else info(bias.name).dtype,
    }
