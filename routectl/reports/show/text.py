"""What a dump holds, for the terminal."""

from rich.console import Console

from ..diff.document import Document
from ..diff.flips import making_lines
from ..text.tables import Column, print_line, print_lines, print_table
from ..text.wording import amount, bytes_text, dump_line, figure, layers_text, plural

__all__ = ["render_summary"]


def _print_rows(console: Console, doc: Document) -> None:
    print_line(
        console,
        "rows",
        f"{amount(doc['rows'])} of {plural(doc['tokens_with_routes'], 'token')}, "
        f"{amount(doc['rows_missing'])} missing; starts: "
        + (", ".join(f"{n} {kind}" for kind, n in doc["starts"].items()) or "none")
        + "".join(f"; {kind} of {plural(n, 'sample')}" for kind, n in doc["row_counts"].items()),
    )
    if doc["samples_merged"]:
        print_line(
            console,
            "calls",
            f"{plural(doc['samples_merged'], 'sample')} merged of {doc['segments']} calls; "
            f"{plural(doc['segment_rows_differing'], 'row')} that two calls have otherwise"
            + (", the earlier call's kept" if doc["segment_rows_differing"] else ""),
        )


def render_summary(doc: Document, console: Console) -> None:
    """Print a routectl.show/1 document."""
    dump = doc["dump"]
    print_line(console, "dump", dump_line(dump))
    model = dump["model"] or "unnamed model"
    print_line(
        console,
        "model",
        f"{model}: {layers_text(dump['layers'])}, top-{dump['top_k']} of {dump['num_experts']} "
        f"experts, {dump['id_space']} ids (facts from {dump['facts_source']})",
    )
    unknown = doc["samples_of_unknown_length"]
    cached = "cached tokens not recorded"
    if doc["cached_tokens"] is not None:
        cached = f"{amount(doc['cached_tokens'])} of the prompt's cached"
    print_line(
        console,
        "tokens",
        f"{amount(doc['prompt_tokens'])} prompt + {amount(doc['response_tokens'])} response, "
        + cached
        + (f"; {plural(unknown, 'sample')} of unknown length" if unknown else ""),
    )
    _print_rows(console, doc)
    print_lines(console, making_lines(doc))
    print_line(
        console,
        "size",
        f"{doc['id_bytes_per_token']} B of ids a token ({dump['wire_dtype'] or 'unknown'} as "
        f"written), {bytes_text(dump['file_bytes'])} in file"
        + (f" by codec {dump['codec']}" if "codec" in dump else "")
        + ("" if (each := doc["file_bytes_per_token"]) is None else f", {each:,.0f} B a token"),
    )
    versions = ", ".join(f"{v} ({amount(n)})" for v, n in doc["weight_versions"].items())
    print_line(
        console, "weights", f"{versions} response tokens" if versions else "versions not recorded"
    )
    reasons = ", ".join(f"{r} {n}" for r, n in doc["finish_reasons"].items())
    extra = [
        (doc["samples_without_routes"], "without routes"),
        (doc["samples_retracted"], "retracted"),
    ]
    notes = "".join(f"; {n} {what}" for n, what in extra if n)
    print_line(
        console,
        "samples",
        f"finished by {reasons}; {doc['samples_with_logprobs']} with log-probs{notes}",
    )
    for skipped in dump["skipped"]:
        print_line(console, "skipped", skipped)
    console.print()
    rows = doc["layers"]
    print_table(
        console,
        [
            Column("layer", [str(r["layer"]) for r in rows]),
            Column("rows", [amount(r["rows"]) for r in rows]),
            Column("missing", [amount(r["rows_missing"]) for r in rows], 1),
            Column("max_vio", [figure(r["max_vio"]) for r in rows]),
            Column("entropy", [figure(r["entropy"]) for r in rows]),
            Column("dead experts", [amount(r["dead_experts"]) for r in rows]),
        ],
    )
