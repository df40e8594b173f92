"""The command line run in this process, and the dumps that it is run on."""

import io
import json
import re
import sys
from types import SimpleNamespace

from routectl.cli.main import main
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES

__all__ = ["DUMPS", "NOTED", "complaint", "detailed", "document", "on_terminal", "run", "written"]

DUMPS = {
    "jsonl": DEEPSEEK / "samples.jsonl",
    "native": FIXTURES / "golden" / "deepseek_v3.parquet",
    "trainer": FIXTURES / "tiny_rl" / "routes_v0.fp32.npz",
    "whole": FIXTURES / "hf" / "vllm.qwen3_moe.bf16.npz",
    "start": FIXTURES / "recordings" / "vllm-0.32.0" / "qwen3_moe.bf16.start" / "samples.jsonl",
    "sglang": FIXTURES
    / "recordings"
    / "sglang-0.5.23"
    / "qwen3_moe.bf16.start"
    / "samples.jsonl.gz",
    "config": DEEPSEEK_CONFIG,
}


NOTED = re.compile(r"^routectl: model of .* from .*\n", re.MULTILINE)  # nothing is wrong then


def run(capsys, *args):
    """One command line: its exit code, stdout and stderr."""
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    streams = capsys.readouterr()
    return SimpleNamespace(code=code, out=streams.out, err=streams.err)


class _Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    def isatty(self):
        return True


def on_terminal(monkeypatch, columns, *args):
    """Exit code and stdout of a command line on a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    page = _Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", page)
        code = main([str(arg) for arg in args])
    return code, page.getvalue()


def document(capsys, *args, code=0):
    """What a command line prints with --json; it must exit with ``code``."""
    done = run(capsys, *args, "--json")
    assert done.code == code, done.err
    return json.loads(done.out)


def detailed(capsys, folder, *args, code=0):
    """What a command line writes with -o NAME.json, ``detail`` too; it must exit with ``code``."""
    saved = folder / "detailed.json"
    done = run(capsys, *args, "-o", saved, "--force")
    assert (done.code, done.out) == (code, ""), done.err
    return json.loads(saved.read_text("utf-8"))


def complaint(capsys, *args):
    """The error of a command line that must exit 2, print nothing else, and leave no trace.

    A note of where a model was found may come first.
    """
    done = run(capsys, *args)
    done.err = NOTED.sub("", done.err)
    lines = done.err.splitlines()
    assert (done.code, done.out) == (2, ""), done.err
    assert lines[0].startswith("routectl: "), done.err
    assert "Traceback" not in done.err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), done.err
    return done.err


def written(folder):
    """Every path below a folder, hidden ones too, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
