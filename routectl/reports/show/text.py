"""What a dump and a checkpoint hold, for the terminal."""

from collections.abc import Iterator

from rich.console import Console

from ..text.tables import Column, Headline, print_layers, print_line, print_lines, under_verdict
from ..text.wording import (
    amount,
    bytes_text,
    dump_line,
    figure,
    figures,
    layers_text,
    part_text,
    plural,
)
from .schema import CheckpointDocument, ShowDocument

__all__ = [
    "checkpoint_headline",
    "render_checkpoint",
    "render_summary",
    "show_headline",
    "show_lines",
]

_SKIPPED = 10  # files that are named
_LIFT = "bits an id: how much better a token tells its experts than its layer does"


def _rows_lines(doc: ShowDocument) -> Iterator[tuple[str, str]]:
    """How many rows there are, where they start, which calls they were merged of."""
    yield (
        "rows",
        f"{amount(doc['rows'])} of {plural(doc['tokens_with_routes'], 'token')}, "
        f"{amount(doc['rows_missing'])} missing; starts: "
        + (", ".join(f"{n} {kind}" for kind, n in doc["starts"].items()) or "none")
        + "".join(f"; {kind} of {plural(n, 'sample')}" for kind, n in doc["row_counts"].items()),
    )
    if doc["samples_merged"]:
        yield (
            "calls",
            f"{plural(doc['samples_merged'], 'sample')} merged of "
            f"{plural(doc['segments'], 'call')}; "
            f"{plural(doc['segment_rows_differing'], 'row')} that two calls have otherwise"
            + (", the earlier call's kept" if doc["segment_rows_differing"] else ""),
        )


def _making_lines(doc: ShowDocument) -> list[tuple[str, str]]:
    """What the document says of margins, slot order and how the dump was made."""
    dump, lines = doc["dump"], []
    if "margins" in dump:
        known = plural(doc["rows_with_margin"], "row")
        lines.append(("margins", f"of {known}, {amount(doc['ties'])} at a tie"))
    if "order" in dump:
        lines.append(("order", f"ids by {dump['order']}"))
    made = ", ".join(f"{name} {value}" for name, value in dump.get("provenance", {}).items())
    return [*lines, ("made by", made)] if made else lines


def _tokens(doc: ShowDocument) -> str:
    unknown = doc["samples_of_unknown_length"]
    cached = "cached tokens not recorded"
    if doc["cached_tokens"] is not None:
        cached = f"{amount(doc['cached_tokens'])} of the prompt's cached"
    return (
        f"{amount(doc['prompt_tokens'])} prompt + {amount(doc['response_tokens'])} response, "
        + cached
        + (f"; {plural(unknown, 'sample')} of unknown length" if unknown else "")
    )


def _size(doc: ShowDocument) -> str:
    dump, each = doc["dump"], doc["file_bytes_per_token"]
    return (
        f"{doc['id_bytes_per_token']} B of ids a token ({dump['wire_dtype'] or 'unknown'} as "
        f"written), {bytes_text(dump['file_bytes'])} in file"
        + (f" by codec {dump['codec']}" if "codec" in dump else "")
        + ("" if each is None else f", {each:,.0f} B a token")
    )


def _samples(doc: ShowDocument) -> str:
    reasons = ", ".join(f"{r} {n}" for r, n in doc["finish_reasons"].items())
    extra = [
        (doc["samples_without_routes"], "without routes"),
        (doc["samples_retracted"], "retracted"),
    ]
    notes = "".join(f"; {n} {what}" for n, what in extra if n)
    return f"finished by {reasons}; {doc['samples_with_logprobs']} with log-probs{notes}"


def show_lines(doc: ShowDocument) -> Iterator[tuple[str, str]]:
    """What a dump holds, each line with its label."""
    dump = doc["dump"]
    yield "dump", dump_line(dump)
    model = dump["model"] or "unnamed model"
    source = dump["facts_source"]
    told = "source of these facts not recorded"
    if source is not None:
        told = f"facts from {'the command line' if source == 'given' else source}"
    yield (
        "model",
        f"{model}: {layers_text(dump['layers'])}, top-{dump['top_k']} of {dump['num_experts']} "
        f"experts, {dump['id_space']} ids ({told})",
    )
    yield "tokens", _tokens(doc)
    yield from _rows_lines(doc)
    yield from _making_lines(doc)
    yield "size", _size(doc)
    versions = ", ".join(f"{v} ({amount(n)})" for v, n in doc["weight_versions"].items())
    yield "weights", f"{versions} response tokens" if versions else "versions not recorded"
    yield "samples", _samples(doc)
    damaged = doc.get("damaged")  # documents of before have none
    if damaged is not None:
        yield (
            "damaged",
            f"{damaged['samples']:,} of {plural(doc['samples'], 'sample')}, in no other figure; "
            f"the first, {damaged['sample']}: {damaged['reason']}",
        )
    for skipped in dump["skipped"][:_SKIPPED]:
        yield "skipped", skipped
    if dump["skipped"][_SKIPPED:]:
        more = plural(len(dump["skipped"]) - _SKIPPED, "more file")
        yield "skipped", f"{more}, which --json names"


def show_headline(doc: ShowDocument) -> Headline:
    """What a dump is, in a line."""
    dump, damaged = doc["dump"], doc.get("damaged")
    lost = 0 if damaged is None else damaged["samples"]
    parts = (
        plural(dump["samples"], "sample"),
        f"{plural(doc['tokens_with_routes'], 'token')} with routes",
        layers_text(dump["layers"]),
        f"top-{dump['top_k']} of {dump['num_experts']} experts",
    )
    text = ", ".join(parts) + (f"; {amount(lost)} damaged" if lost else "") + part_text(doc)
    return Headline("DUMP", "bold yellow" if lost else "bold", text)


def render_summary(doc: ShowDocument, console: Console) -> None:
    """Print a routectl.show/1 document."""
    with under_verdict(console, show_headline(doc)):
        print_lines(console, show_lines(doc))
        _print_table(doc, console)


def _print_table(doc: ShowDocument, console: Console) -> None:
    """Load and entropy of each layer."""
    console.print()
    rows = doc["layers"]
    print_layers(
        console,
        [
            Column("layer", [str(r["layer"]) for r in rows]),
            Column("rows", [amount(r["rows"]) for r in rows]),
            Column("missing", [amount(r["rows_missing"]) for r in rows], 1),
            Column("max_vio", figures([r["max_vio"] for r in rows])),
            Column("entropy", figures([r["entropy"] for r in rows])),
            Column("dead experts", [amount(r["dead_experts"]) for r in rows]),
            Column("lift", figures([r.get("lift") for r in rows])),
        ],
        [r["max_vio"] for r in rows],
        lambda left: f"of max_vio {figure(min(left))} to {figure(max(left))}",
    )
    if any(r.get("lift") is not None for r in rows):
        print_line(console, "lift", _LIFT)


def _model(doc: CheckpointDocument) -> str:
    name = f"{doc['model']}: " if doc["model"] else ""
    count = "" if doc["num_layers"] is None else f"{plural(doc['num_layers'], 'layer')}, "
    top_k = "top-K not recorded," if doc["top_k"] is None else f"top-{doc['top_k']}"
    return (
        f"{name}{count}MoE in {layers_text(doc['layers'])}, {top_k} of {doc['num_experts']} experts"
    )


def _router(doc: CheckpointDocument) -> str:
    router = doc["router"]
    experts, hidden = router["shape"]
    parts = [f"{'/'.join(router['dtypes'])} weight [{experts}, {hidden}]"]
    parts += ["linear bias"] if router["linear_bias"] else []
    if router["expert_bias_dtypes"]:
        parts.append(f"{'/'.join(router['expert_bias_dtypes'])} expert bias")
    parts += router["extras"]
    return f"{', '.join(parts)}; {bytes_text(router['bytes'])} in all layers"


def _stream(doc: CheckpointDocument) -> str:
    largest = doc["largest_layer"]
    if largest is None:
        return "layers are stored stacked"
    return (
        f"{bytes_text(doc['streamed_bytes'])} in {plural(len(doc['layer_bytes']), 'layer')} to "
        f"stream, the largest layer {largest['layer']} with {bytes_text(largest['bytes'])}; "
        f"{bytes_text(doc['other_bytes'])} outside of them"
    )


def checkpoint_headline(doc: CheckpointDocument) -> Headline:
    """What a checkpoint is, in a line."""
    top_k = "" if doc["top_k"] is None else f"top-{doc['top_k']} of "
    size = bytes_text(doc["tensor_bytes"])
    text = f"MoE in {layers_text(doc['layers'])}, {top_k}{doc['num_experts']} experts, {size}"
    if doc["refused"] is not None:
        return Headline("CHECKPOINT", "bold yellow", f"{text}; no forward is run of it")
    return Headline("CHECKPOINT", "bold", text)


def render_checkpoint(doc: CheckpointDocument, console: Console) -> None:
    """Print a routectl.checkpoint/1 document."""
    with under_verdict(console, checkpoint_headline(doc)):
        _print_checkpoint(doc, console)


def _print_checkpoint(doc: CheckpointDocument, console: Console) -> None:
    """What follows the first line."""
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
    if doc["refused"] is not None:
        print_line(console, "refused", f"no forward is run of it: {doc['refused']}")
