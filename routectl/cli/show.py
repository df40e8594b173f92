"""``routectl show PATH``: a dump or a checkpoint."""

from dataclasses import replace

from ..jobs.show import ShowRequest, answer_show
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
    """
    from ..reports.show.text import render_checkpoint, render_summary

    request, voices = line.request(ShowRequest), line.voices
    voices.refuse()
    document = answer_show(replace(request, detail=voices.detailed), TERMINAL)
    of_dump = document["schema"] == "routectl.show/1"
    voices.tell(document, render_summary if of_dump else render_checkpoint)
    return 0
