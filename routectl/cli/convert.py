"""``routectl convert SRC DST``."""

from pathlib import Path
from typing import Annotated

import typer

from ..reports.wording import plural
from .convert_targets import Lossy, Missing, To, Wanted, convert_to_target, is_native
from .options import (
    Force,
    Format,
    Model,
    NumExperts,
    NumLayers,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import check_output, note, watching

__all__ = ["convert_command"]

_SRC = typer.Argument(metavar="SRC", show_default=False, help="A file, a folder or a glob.")
_DST = typer.Argument(
    metavar="DST", show_default=False,
    help="The file to write: NAME.parquet is native; - is stdout, for JSON lines.",
)  # fmt: skip


def convert_command(
    src: Annotated[str, _SRC],
    dst: Annotated[Path, _DST],
    to: To = None,
    missing: Missing = None,
    lossy: Lossy = False,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Write a dump as native Parquet, or as trainers read it.

    Native is one row a sample, one column a MoE layer. Every target is described in
    docs/formats.md. The file appears whole or not at all.
    """
    native = is_native(dst, to)
    check_output(dst, force)
    given = model_from(model, num_layers, top_k, num_experts)
    dump = open_input(src, given, form, start)
    if not native:
        return convert_to_target(dump, dst, Wanted(to, missing, lossy, force, given))
    from ..formats.native import write_native

    with watching(dump, "converting") as watched:
        count = write_native(watched, dump.meta, dst, force=force)
    note(f"wrote {dst}: {plural(count, 'sample')}")
    return 0
