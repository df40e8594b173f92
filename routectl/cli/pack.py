"""``routectl pack DUMP --save DIR``."""

from ..jobs.pack.request import PackRequest, pack_dump
from ..reports.text.wording import plural
from .desk import CommandLine, desk
from .terminal import TERMINAL, emit, note

__all__ = ["pack_command"]


@desk(PackRequest, "as_json")
def pack_command(line: CommandLine) -> int:
    """Write the replay tensors of packed sequences, for every rank.

    One folder: a safetensors file a rank and micro-batch with one [rows, K] tensor for each of its
    MoE layers, the mask and cu_seqlens; manifest.json; samples.parquet. `routectl layout` draws
    where each token sits, `routectl verify` proves that every route is there exactly once,
    `routectl unpack` goes back.
    """
    from ..reports.pack.text import render_packed

    request, voices = line.request(PackRequest), line.voices
    manifest = pack_dump(request, TERMINAL)
    emit(manifest, render_packed, as_json=voices.as_json, plain=voices.plain)
    note(f"wrote {request.save}: {plural(len(manifest['files']), 'file')}")
    return 0
