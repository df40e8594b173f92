"""``routectl capture URL --prompts FILE --save DST``."""

from ..jobs.capture import CaptureRequest, capture_rollouts
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["capture_command"]


@desk(CaptureRequest, "as_json")
def capture_command(line: CommandLine) -> int:
    """Ask a running SGLang or vLLM server for rollouts with routed experts.

    Answers are kept beside DST as they come, in DST.partial.jsonl: the same command after an
    interruption asks for what is missing. DST appears whole, in the order of the prompts. The
    server must run with --enable-return-routed-experts. It says which model it runs: one that is
    here, as a folder or in the HF cache, needs no --model. docs/live.md says more.
    """
    line.voices.tell_saved(capture_rollouts(line.request(CaptureRequest), TERMINAL))
    return 0
