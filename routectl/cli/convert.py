"""``routectl convert SRC DST.parquet``."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UnsupportedError
from ..reports.wording import plural
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
_DST = typer.Argument(metavar="DST", show_default=False, help="The native file: NAME.parquet.")


def convert_command(
    src: Annotated[str, _SRC],
    dst: Annotated[Path, _DST],
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Write any dump as one native Parquet file.

    One row a sample, one column a MoE layer; the format is described in docs/formats.md. The
    file appears whole or not at all.
    """
    from ..formats.native import write_native

    if dst.suffix != ".parquet":
        raise UnsupportedError(f"{dst}: convert writes native files: expected NAME.parquet")
    check_output(dst, force)
    dump = open_input(src, model_from(model, num_layers, top_k, num_experts), form, start)
    with watching(dump, "converting") as watched:
        count = write_native(watched, dump.meta, dst, force=force)
    note(f"wrote {dst}: {plural(count, 'sample')}")
    return 0
