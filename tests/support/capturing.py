"""A capture on the command line, from a server of ``support.engine_server``."""

import json

from support.recordings import QWEN, SGLANG, request_of
from support.shell import run

__all__ = ["FAST", "QUIET", "captured", "one_prompt", "prompts_file"]

FAST = ("--retries", 3, "--patience", 0.4, "--timeout", 20)
QUIET = ("--max-tokens", 24, "--model", QWEN)


def prompts_file(folder, *prompts):
    """A file of prompts: JSON lines of these objects."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), "utf-8")
    return path


def one_prompt(folder):
    """The prompt of the recorded generate_ids."""
    return prompts_file(folder, {"input_ids": request_of(SGLANG, "generate_ids")["input_ids"]})


def captured(capsys, server, prompts, output, *more):
    """What the command says and its exit code; the answers of these prompts are in ``output``."""
    return run(capsys, "capture", server.url, "--prompts", prompts, "--save", output, *more)
