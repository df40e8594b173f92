"""``routectl diff OLD NEW``."""

from pathlib import Path
from typing import Annotated

import typer

from ..jobs.diff.request import DiffRequest, answer_diff, refuse_incomparable
from ..jobs.reading import Reading
from .dashboards import Step, Tensorboard, Wandb, dashboards_to
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
    Plain,
    Start,
    TokenizerFile,
    Tokens,
    TopK,
)
from .output import check_output, emit, pictured
from .pages import page_at

__all__ = ["diff_command"]

_OLD = typer.Argument(
    metavar="OLD", show_default=False, help="Dump: a file, a folder or a glob; - is stdin."
)
_SAMPLE = typer.Option(
    "--sample",
    metavar="NAME",
    show_default=False,
    help="Only this sample, by its id in OLD or, as #0, its place; repeatable.",
)
_RERUN = typer.Option(
    "--rerun",
    metavar="DUMP",
    show_default=False,
    help="The same side as OLD, run again: how much that differs is the noise floor.",
)
_POSITIONS = typer.Option(metavar="RANGE", help="Only these token positions, such as 128-255.")
_NEW = typer.Argument(metavar="NEW", show_default=False, help="Dump of the same tokens.")


_LOGPROBS = typer.Option(
    metavar="TRAIN.pt",
    show_default=False,
    help="Log-probs of NEW: those that the trainer computed, in slime's train data.",
)


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
    plain: Plain = False,
    detail: Detail = False,
    html: Html = None,
    tokenizer: TokenizerFile = None,
    tensorboard: Tensorboard = None,
    wandb_offline: Wandb = None,
    step: Step = None,
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
    from ..reports.diff.text import render_diff

    request = DiffRequest(
        old=old,
        new=new,
        match=match,
        tokens=tokens,
        layers=layers,
        sample=tuple(sample or ()),
        positions=positions,
        rerun=rerun,
        examples=examples,
        fail_over=tuple(fail_over or ()),
        fail_under=tuple(fail_under or ()),
        eps=eps,
        logprobs=logprobs,
        reading=Reading(
            model=model,
            num_layers=num_layers,
            top_k=top_k,
            num_experts=num_experts,
            format=form,
            start=start,
        ),
    )
    target = check_output(output, force)
    page = page_at(html, force, tokenizer)
    boards = dashboards_to(tensorboard, wandb_offline, step)
    seen = detail or html is not None or pictured(as_json, plain, target)
    document = answer_diff(request, detail=seen)
    page.write(document)
    boards.write(document)
    if as_json and not detail:
        document.pop("detail", None)
    emit(document, render_diff, as_json=as_json, plain=plain, output=target, force=force)
    refuse_incomparable(document)
    return 0 if exit_zero else int(document["verdict"]["exit_code"])
