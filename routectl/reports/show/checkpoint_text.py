"""A routectl.checkpoint/1 document as terminal text."""

from typing import Any

from rich.console import Console

from ..text.tables import print_line
from ..text.wording import bytes_text, layers_text, plural

__all__ = ["render_checkpoint"]


def _model(doc: dict[str, Any]) -> str:
    name = f"{doc['model']}: " if doc["model"] else ""
    count = "" if doc["num_layers"] is None else f"{plural(doc['num_layers'], 'layer')}, "
    top_k = "top-K not recorded," if doc["top_k"] is None else f"top-{doc['top_k']}"
    return (
        f"{name}{count}MoE in {layers_text(doc['layers'])}, {top_k} of {doc['num_experts']} experts"
    )


def _router(doc: dict[str, Any]) -> str:
    router = doc["router"]
    experts, hidden = router["shape"]
    parts = [f"{'/'.join(router['dtypes'])} weight [{experts}, {hidden}]"]
    parts += ["linear bias"] if router["linear_bias"] else []
    if router["expert_bias_dtypes"]:
        parts.append(f"{'/'.join(router['expert_bias_dtypes'])} expert bias")
    parts += router["extras"]
    return f"{', '.join(parts)}; {bytes_text(router['bytes'])} in all layers"


def _stream(doc: dict[str, Any]) -> str:
    if doc["streamed_bytes"] is None:
        return "layers are stored stacked"
    largest = doc["largest_layer"]
    return (
        f"{bytes_text(doc['streamed_bytes'])} in {plural(len(doc['layer_bytes']), 'layer')} to "
        f"stream, the largest layer {largest['layer']} with {bytes_text(largest['bytes'])}; "
        f"{bytes_text(doc['other_bytes'])} outside of them"
    )


def render_checkpoint(doc: dict[str, Any], console: Console) -> None:
    """Print a routectl.checkpoint/1 document."""
    iteration = "" if doc["iteration"] is None else f"iteration {doc['iteration']}, "
    print_line(
        console,
        "folder",
        f"{doc['path']}  ({doc['format']}, {iteration}{plural(doc['files'], 'file')}, "
        f"{bytes_text(doc['file_bytes'])})",
    )
    print_line(console, "model", _model(doc))
    print_line(console, "router", _router(doc))
    if doc["recipe"] is not None:
        print_line(console, "recipe", doc["recipe"])
    dtypes = ", ".join(
        f"{entry['dtype']} {bytes_text(entry['bytes'])} ({entry['tensors']:,})"
        for entry in doc["dtypes"]
    )
    print_line(
        console,
        "weights",
        f"{bytes_text(doc['tensor_bytes'])} in {plural(doc['tensors'], 'tensor')}: {dtypes}",
    )
    print_line(console, "layers", _stream(doc))
    if doc["unindexed"]:
        print_line(
            console,
            "left out",
            f"{plural(len(doc['unindexed']), 'tensor')} in shards, not in the index",
        )
