"""A dump whose model is not known as a JSON document, routectl.outline/1, and as text."""

from typing import TYPE_CHECKING

from rich.console import Console

from ..document import finite
from ..text.tables import print_line
from ..text.wording import amount, bytes_text, plural
from .schema import OutlineDocument

if TYPE_CHECKING:
    from ...ops.outline import Outline

__all__ = ["outline_document", "render_outline"]


def outline_document(found: "Outline", hint: str) -> OutlineDocument:
    """The routectl.outline/1 document; ``hint`` says how the model is said."""
    meta = found.meta
    one = next(iter(found.shapes)) if len(found.shapes) == 1 else None
    axes = None if one is None or one[0] == 1 else one
    unknown = ["which layers are MoE layers", "num_experts"]
    if axes is None:
        unknown += ["how many layers", "top_k"]
    document: OutlineDocument = {
        "schema": "routectl.outline/1",
        "path": meta.path,
        "format": meta.format,
        "engine": meta.engine,
        "engine_version": meta.engine_version,
        "samples": found.samples,
        "samples_with_routes": found.with_routes,
        "samples_with_token_ids": found.with_token_ids,
        "samples_with_logprobs": found.with_logprobs,
        "samples_of_unknown_length": found.lengths_unknown,
        "prompt_tokens": found.prompt_tokens,
        "response_tokens": found.response_tokens,
        "weight_versions": dict(found.weight_versions),
        "tokens_with_routes": found.rows,
        "ids_per_token": None if one is None else one[0] * one[1],
        "layers_written": None if axes is None else axes[0],
        "ids_per_row": None if axes is None else axes[1],
        "greatest_id": found.greatest,
        "wire_dtype": meta.wire_dtype,
        "file_bytes": meta.file_bytes,
        "refused": found.refused,
        "reason": found.first_refused,
        "skipped": list(meta.skipped),
        "unknown": unknown,
        "hint": hint,
    }
    return finite(document)


def _routes(doc: OutlineDocument) -> str:
    if doc["greatest_id"] is None:
        return "not read: their shape is not told without the model"
    axes = "of several shapes"
    if doc["ids_per_token"] is not None:
        axes = f"{doc['ids_per_token']} ids each"
    if doc["layers_written"] is not None:
        axes = f"{doc['layers_written']} layers as written x {doc['ids_per_row']} ids"
    return (
        f"of {plural(doc['tokens_with_routes'], 'token')} in "
        f"{plural(doc['samples_with_routes'], 'sample')}: {axes}, the greatest id "
        f"{doc['greatest_id']}; {doc['wire_dtype'] or 'unknown'} as written"
    )


def render_outline(doc: OutlineDocument, console: Console) -> None:
    """Print a routectl.outline/1 document."""
    engine = " ".join(filter(None, (doc["engine"], doc["engine_version"])))
    about = [*filter(None, (engine, doc["format"])), plural(doc["samples"], "sample")]
    print_line(console, "dump", f"{doc['path']}  ({', '.join(about)})")
    print_line(console, "model", f"not known: {', '.join(doc['unknown'])}")
    print_line(console, "", doc["hint"])
    print_line(console, "routes", _routes(doc))
    unknown = doc["samples_of_unknown_length"]
    print_line(
        console,
        "tokens",
        f"{amount(doc['prompt_tokens'])} prompt + {amount(doc['response_tokens'])} response; "
        f"ids of {plural(doc['samples_with_token_ids'], 'sample')}, log-probs of "
        f"{doc['samples_with_logprobs']}"
        + (f"; {plural(unknown, 'sample')} of unknown length" if unknown else ""),
    )
    versions = ", ".join(f"{v} ({amount(n)})" for v, n in doc["weight_versions"].items())
    print_line(
        console, "weights", f"{versions} response tokens" if versions else "versions not recorded"
    )
    print_line(console, "size", f"{bytes_text(doc['file_bytes'])} in file")
    if doc["refused"]:
        print_line(console, "not read", f"{plural(doc['refused'], 'sample')}: {doc['reason']}")
    for skipped in doc["skipped"]:
        print_line(console, "skipped", skipped)
