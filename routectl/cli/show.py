"""``routectl show PATH``: a dump or a checkpoint."""

from dataclasses import replace
from typing import Any

from ..jobs.show.request import ShowRequest, answer_show
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["show_command"]


@desk(ShowRequest, "html as_json summary no_tokens output force")
def show_command(line: CommandLine) -> int:
    """Say what a dump or a checkpoint holds: format, layers, sizes.

    Of a dump: engine and version, samples, prompt, response and cached tokens, MoE layers, K, E,
    dtype, missing rows, bytes per token, weight versions, and the expert load of each layer.

    Of a checkpoint (an HF folder of safetensors, or one of Megatron's), from its headers alone:
    format, MoE layers, K, E, the routers' dtypes, sizes by dtype and by layer.

    Of counts of experts alone (SGLang's recorder, modes stat and per_pass): their load, load-only.

    Of a dump that does not say its model, where --model does not either: what can be told without.
    """
    from ..reports.show.loads import render_loads
    from ..reports.show.outline import render_outline
    from ..reports.show.text import render_checkpoint, render_summary

    request, voices = line.request(ShowRequest), line.voices
    voices.refuse()
    if request.share.partial is not None:
        voices.refuse_report()
    request = replace(request, detail=voices.detailed, force=voices.force)
    document = answer_show(request, TERMINAL)
    if request.share.partial is not None:
        voices.tell_saved(document)
        return 0
    views: dict[str, Any] = {
        "show": render_summary,
        "outline": render_outline,
        "loads": render_loads,
        "checkpoint": render_checkpoint,
    }
    kind = document["schema"].removeprefix("routectl.").removesuffix("/1")
    voices.tell(document, views[kind])
    return 0
