"""``routectl pack DUMP --save DIR``, and ``routectl layout [DUMP]``, which draws what it would."""

import sys

from ..jobs.pack.request import LayoutRequest, PackRequest, lay_out_samples, pack_dump
from ..reports.text.wording import plural
from .desk import CommandLine, desk
from .terminal import TERMINAL, emit, note

__all__ = ["layout_command", "pack_command"]


@desk(PackRequest, "as_json")
def pack_command(line: CommandLine) -> int:
    """Write the replay tensors of packed sequences, for every rank.

    One folder: a safetensors file a rank and micro-batch with one [rows, K] tensor for each of its
    MoE layers, the mask and cu_seqlens; manifest.json; samples.parquet. `routectl layout` draws
    where each token sits, `routectl verify` proves that every route is there exactly once,
    `routectl unpack` goes back.
    """
    request, voices = line.request(PackRequest), line.voices
    manifest = pack_dump(request, TERMINAL)
    from ..reports.pack.text import render_packed  # late: workers wait for no import

    emit(manifest, render_packed, as_json=voices.as_json, plain=voices.plain)
    note(f"wrote {request.save}: {plural(len(manifest['files']), 'file')}")
    return 0


@desk(LayoutRequest)
def layout_command(line: CommandLine) -> int:
    """Draw which token of packed sequences sits where, rank by rank; nothing is written.

    Of many micro-batches and ranks the first are drawn; --rank picks others.
    """
    from ..reports.pack.drawing import draw_layout
    from ..reports.text.tables import open_console

    request = line.request(LayoutRequest)
    packing = lay_out_samples(request, TERMINAL)
    draw_layout(packing, open_console(sys.stdout, plain=line.voices.plain), request.picked)
    return 0
