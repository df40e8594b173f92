"""``routectl show DUMP``."""

from typing import Annotated

import typer

from .options import (
    Force,
    Format,
    Json,
    Model,
    NumExperts,
    NumLayers,
    Output,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import check_output, emit, watching

__all__ = ["show_command"]

_DUMP = typer.Argument(metavar="DUMP", show_default=False, help="A file, a folder or a glob.")


def show_command(
    dump: Annotated[str, _DUMP],
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Say what a dump holds: format, tokens, layers, load.

    Engine and version, samples, prompt, response and cached tokens, MoE layers, K, E, dtype,
    missing rows, bytes per token, weight versions, and the expert load of each layer.
    """
    from ..ops.summary import summarize
    from ..reports.document import summary_document
    from ..reports.terminal import render_summary

    target = check_output(output, force)
    opened = open_input(dump, model_from(model, num_layers, top_k, num_experts), form, start)
    with watching(opened, "reading") as watched:
        summary = summarize(watched)
    emit(summary_document(summary), render_summary, as_json=as_json, output=target, force=force)
    return 0
