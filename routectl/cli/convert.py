"""``routectl convert SRC DST``."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RoutectlError
from ..jobs.convert.native import (
    BaseDump,
    CodecName,
    KeepOrder,
    NativeWanted,
    Verify,
    convert_to_native,
)
from ..jobs.convert.targets import Lossy, Missing, To, Wanted, convert_to_target, is_native
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
from .output import check_output

__all__ = ["convert_command"]

_SRC = typer.Argument(
    metavar="SRC", show_default=False, help="A file, a folder or a glob; - is stdin."
)
_DST = typer.Argument(
    metavar="DST",
    show_default=False,
    help="The file to write: NAME.parquet is native; - is stdout, for native or JSON lines.",
)


_TOKENS_FROM = typer.Option(
    metavar="FILE",
    show_default=False,
    help="Tokens of a SRC that holds layers alone: a dump, train data, or a JSON list of ids.",
)


def convert_command(
    src: Annotated[str, _SRC],
    dst: Annotated[Path, _DST],
    to: To = None,
    missing: Missing = None,
    lossy: Lossy = False,
    codec: CodecName = "plain",
    keep_order: KeepOrder = False,
    base: BaseDump = None,
    verify: Verify = False,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
    tokens_from: Annotated[Path | None, _TOKENS_FROM] = None,
) -> int:
    """Write a dump as native Parquet, or as trainers read it.

    Native is one row a sample, one column a MoE layer, its codecs are in docs/codecs.md. Every
    target is described in docs/formats.md. The file appears whole or not at all.
    """
    native = is_native(dst, to)
    check_output(dst, force)
    given = model_from(model, num_layers, top_k, num_experts)
    if native and (missing is not None or lossy):
        raise RoutectlError("--missing and --lossy are of --to: a native file holds everything")
    if not native:
        if codec != "plain" or keep_order or base is not None or verify:
            raise RoutectlError("--codec, --keep-order, --base and --verify are of native files")
        dump = open_input(src, given, form, start, None, tokens_from)
        return convert_to_target(dump, dst, Wanted(to, missing, lossy, force, given))
    against = None if base is None else open_input(base, given, None, None)
    dump = open_input(src, given, form, start, against, tokens_from)
    return convert_to_native(dump, dst, NativeWanted(codec, keep_order, against, verify, force))
