"""``routectl show PATH``: a dump or a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RoutectlError
from .options import (
    Detail,
    Force,
    Format,
    Html,
    Json,
    Model,
    NumExperts,
    NumLayers,
    Output,
    Plain,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import check_output, emit, watching
from .pages import Page, page_at

__all__ = ["show_command"]

_PATH = typer.Argument(
    metavar="PATH",
    show_default=False,
    help="A dump: a file, a folder or a glob; - is stdin. Or a checkpoint: a folder of weights.",
)


def show_command(
    path: Annotated[str, _PATH],
    as_json: Json = False,
    plain: Plain = False,
    detail: Detail = False,
    html: Html = None,
    output: Output = None,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Say what a dump or a checkpoint holds: format, layers, sizes.

    Of a dump: engine and version, samples, prompt, response and cached tokens, MoE layers, K, E,
    dtype, missing rows, bytes per token, weight versions, and the expert load of each layer.

    Of a checkpoint (an HF folder of safetensors, or one of Megatron's), from its headers alone:
    format, MoE layers, K, E, the routers' dtypes, sizes by dtype and by layer.
    """
    target = check_output(output, force)
    page = page_at(html, force)
    if form is None and _is_checkpoint(path):
        if any(given is not None for given in (model, num_layers, top_k, num_experts, start)):
            raise RoutectlError(
                f"{path}: a checkpoint says its own layers, K and E",
                hint="--format where it is a dump",
            )
        return _show_checkpoint(path, as_json, plain, target, page)
    from ..ops.summary import summarize
    from ..reports.show.document import summary_document
    from ..reports.show.text import render_summary

    opened = open_input(path, model_from(model, num_layers, top_k, num_experts), form, start)
    with watching(opened, "reading") as watched:
        summary = summarize(watched)
    page.write(summary_document(summary, detail=True))
    document = summary_document(summary, detail=detail)
    emit(document, render_summary, as_json=as_json, plain=plain, output=target, force=force)
    return 0


def _is_checkpoint(path: str) -> bool:
    from ..checkpoints import is_checkpoint

    return is_checkpoint(path)


def _show_checkpoint(path: str, as_json: bool, plain: bool, target: Path | None, page: Page) -> int:
    import gc

    from ..checkpoints import open_checkpoint
    from ..checkpoints.facts import checkpoint_facts
    from ..reports.show.document import checkpoint_document
    from ..reports.show.text import render_checkpoint

    gc.disable()  # 100,000 entries without a cycle: collecting takes longer than reading them
    try:
        document = checkpoint_document(checkpoint_facts(open_checkpoint(path)))
    finally:
        gc.enable()
    page.write(document)
    emit(document, render_checkpoint, as_json=as_json, plain=plain, output=target, force=page.force)
    return 0
