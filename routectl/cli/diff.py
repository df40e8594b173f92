"""``routectl diff OLD NEW``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError
from .options import (
    Detail,
    Eps,
    ExitZero,
    Force,
    Format,
    Html,
    Json,
    Layers,
    Model,
    NumExperts,
    NumLayers,
    Output,
    Start,
    TokenizerFile,
    Tokens,
    TopK,
    finite_eps,
    model_from,
    open_input,
    parse_layers,
    parse_positions,
)
from .output import check_output, emit, note, watching
from .pages import page_at

if TYPE_CHECKING:
    from ..dump import Dump

__all__ = ["diff_command"]

_OLD = typer.Argument(
    metavar="OLD", show_default=False, help="Dump: a file, a folder or a glob; - is stdin."
)
_SAMPLE = typer.Option(
    "--sample", metavar="NAME", show_default=False,
    help="Only this sample, by its id in OLD or, as #0, its place; repeatable.",
)  # fmt: skip
_RERUN = typer.Option(
    "--rerun", metavar="DUMP", show_default=False,
    help="The same side as OLD, run again: how much that differs is the noise floor.",
)  # fmt: skip
_POSITIONS = typer.Option(metavar="RANGE", help="Only these token positions, such as 128-255.")
_NEW = typer.Argument(metavar="NEW", show_default=False, help="Dump of the same tokens.")


_LOGPROBS = typer.Option(
    metavar="TRAIN.pt", show_default=False,
    help="Log-probs of NEW: those that the trainer computed, in slime's train data.",
)  # fmt: skip


def _scored(dump: "Dump", path: Path) -> "Dump":
    """NEW with the trainer's log-probs, and a word on how many samples have some."""
    from ..formats.train_data import read_train_data
    from ..ops.scored import with_logprobs

    scored, count = with_logprobs(dump, read_train_data(path).samples)
    if not count:
        raise RoutectlError(f"{path}: no log_probs in it: the trainer did not compute any")
    note(f"log-probs of NEW from {path}: {count} of {len(dump)} samples")
    return scored


def diff_command(
    old: Annotated[str, _OLD],
    new: Annotated[str, _NEW],
    match: Annotated[
        str,
        typer.Option(help="Join samples by: auto (id, else tokens), id, tokens, prefix, order."),
    ] = "auto",
    tokens: Tokens = "all",
    layers: Layers = None,
    sample: Annotated[list[str] | None, _SAMPLE] = None,
    positions: Annotated[str | None, _POSITIONS] = None,
    rerun: Annotated[str | None, _RERUN] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="How many mismatched rows and worst samples to show.")
    ] = 10,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC[@LAYER]:N[%]", help="Exit 1 only when over; repeatable."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC[@LAYER]:N[%]", help="Exit 1 only when under; repeatable."),
    ] = None,
    eps: Eps = None,
    logprobs: Annotated[Path | None, _LOGPROBS] = None,
    exit_zero: ExitZero = False,
    as_json: Json = False,
    detail: Detail = False,
    html: Html = None,
    tokenizer: TokenizerFile = None,
    output: Output = None,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Compare the routes of two dumps of the same tokens.

    Rows are compared as sets of expert ids, by absolute position. Exit status: 0 the same or
    within the thresholds, 1 different or over one, 2 trouble (nothing was comparable, say).

    Where a side has margins, mismatched rows are split into ties (margin 0), near-ties (up to
    --eps) and clear flips; the smallest margin known counts, of experts or of groups.

    Metrics for thresholds: mismatch, overlap, order, zero_overlap, tie, near, clear,
    margin_coverage, load_shift, rows_mismatched, rows_missing (these take @LAYER, or @* for every
    layer), token_mismatch, coverage, unmatched, k1, k3, abs_d, max_d, f2.
    """
    from ..ops.align import TOKENS
    from ..ops.diff import DiffOptions, diff_as
    from ..ops.gate import judge, parse_threshold
    from ..ops.join import MATCHES
    from ..ops.narrow import narrow_pair
    from ..reports.document import diff_document
    from ..reports.terminal import render_diff

    for name, value, known in (("--match", match, MATCHES), ("--tokens", tokens, TOKENS)):
        if value not in known:
            raise RoutectlError(f"{name} {value!r} is not known: {', '.join(known)}")
    limits = [parse_threshold(text, over=True) for text in fail_over or ()]
    limits += [parse_threshold(text, over=False) for text in fail_under or ()]
    width = finite_eps(eps)
    wanted = parse_layers(layers)
    between = parse_positions(positions)
    target = check_output(output, force)
    page = page_at(html, force, tokenizer)
    facts = model_from(model, num_layers, top_k, num_experts)
    old_dump = open_input(old, facts, form, start)
    new_dump = open_input(new, facts, form, start)
    if logprobs is not None:
        new_dump = _scored(new_dump, logprobs)
    old_dump, new_dump = narrow_pair(
        old_dump, new_dump, match=match, samples=sample or (), positions=between
    )
    options = DiffOptions(match, tokens, wanted, examples, detail=detail or html is not None)
    again = None if rerun is None else open_input(rerun, facts, form, start)
    with watching(old_dump, "comparing") as watched:
        result = diff_as(watched, new_dump, options)
    noise = None if again is None else diff_as(old_dump, again, replace(options, detail=False))
    verdict = judge(result, limits, eps=width)
    document = diff_document(result, verdict, noise=noise)
    page.write(document)
    if not detail:
        document.pop("detail", None)
    emit(document, render_diff, as_json=as_json, output=target, force=force)
    if verdict.incomparable:
        raise RoutectlError(
            f"nothing was compared in {len(verdict.incomparable)} of {len(result.layers)} layers, "
            f"first: layer {verdict.incomparable[0]}",
            hint="--layers compares the others",
        )
    return 0 if exit_zero else verdict.exit_code
