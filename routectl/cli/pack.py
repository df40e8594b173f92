"""``routectl pack DUMP -o DIR``, with ``--explain`` and ``--verify``."""

import sys
from collections.abc import Mapping
from dataclasses import fields

from ..errors import RoutectlError
from ..jobs.pack.layout import LayoutOptions
from ..jobs.pack.request import (
    LayoutRequest,
    PackRequest,
    VerifyRequest,
    answer_verify,
    has_manifest,
    lay_out_samples,
    pack_dump,
)
from ..jobs.reading import Reading
from ..reports.text.wording import plural
from .desk import CommandLine, desk
from .terminal import TERMINAL, emit, note

__all__ = ["pack_command"]

_NOT_WRITING = {"lens", "against"}
_NOT_DRAWING = {"against", "rank", "as_json", "padding", "dtype", "allow_missing", "force", "ep"}
_NOT_WITH_LENS = {"dump", "rows", "context", "moe_layer_freq", "skip_damaged"} | {
    one.name for one in fields(Reading)
}
_NOT_VERIFYING = {"dump", "lens", "padding", "force"}
_OF_MANIFEST = {one.name for one in fields(LayoutOptions)} - {"ep"}
_OF_MANIFEST |= {"rows", "context", "dtype", "skip_damaged"}


@desk(PackRequest, "draw", LayoutRequest, VerifyRequest, "as_json force")
def pack_command(line: CommandLine) -> int:
    """Write the replay tensors of packed sequences, for every rank.

    One folder: a safetensors file a rank and micro-batch with one [rows, K] tensor for each of its
    MoE layers, the mask and cu_seqlens; manifest.json; samples.parquet. --verify proves that every
    route is there exactly once, --explain draws the layout, `routectl unpack` goes back.
    """
    line.request(LayoutOptions)  # a layout that makes no sense is told first
    values, given = line.values, line.given
    modes = (values["output"], values["draw"] or None, values["folder"])
    if sum(value is not None for value in modes) != 1:
        raise RoutectlError("expected one of -o DIR, --explain and --verify DIR")
    if values["draw"]:
        return _draw(line, given)
    return _write(line, given) if values["folder"] is None else _verify(line, given)


def _refuse(given: Mapping[str, str], names: set[str], why: str) -> None:
    """Raise RoutectlError for an option on the command line that would be ignored."""
    for name, flag in given.items():
        if name in names:
            raise RoutectlError(f"{flag} has no effect: {why}")


def _draw(line: CommandLine, given: Mapping[str, str]) -> int:
    from ..reports.pack.drawing import draw_layout
    from ..reports.text.tables import open_console

    _refuse(given, _NOT_DRAWING, "--explain draws the layout only")
    if "lens" in given:
        _refuse(given, _NOT_WITH_LENS, "--lens stands for the dump")
    packing = lay_out_samples(line.request(LayoutRequest), TERMINAL)
    draw_layout(packing, open_console(sys.stdout, plain=line.voices.plain))
    return 0


def _write(line: CommandLine, given: Mapping[str, str]) -> int:
    from ..reports.pack.text import render_packed

    voices = line.voices
    _refuse(given, _NOT_WRITING, "it is not for -o DIR")
    request = line.request(PackRequest)
    manifest = pack_dump(request, TERMINAL)
    emit(manifest, render_packed, as_json=voices.as_json, plain=voices.plain)
    note(f"wrote {request.output}: {plural(len(manifest['files']), 'file')}")
    return 0


def _verify(line: CommandLine, given: Mapping[str, str]) -> int:
    from ..reports.pack.text import render_verified

    folder, voices = line.values["folder"], line.voices
    _refuse(given, _NOT_VERIFYING, "it is not for --verify")
    if has_manifest(folder):
        _refuse(given, _OF_MANIFEST, f"{folder}/manifest.json says the layout")
    if line.values["against"] is None:
        raise RoutectlError("--verify needs --against DUMP")
    document = answer_verify(line.request(VerifyRequest), TERMINAL)
    emit(document, render_verified, as_json=voices.as_json, plain=voices.plain)
    return 0 if document["ok"] else 1
