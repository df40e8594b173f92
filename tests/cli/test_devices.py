"""What is no regular file, wherever a command line or a file may name one."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.recordings import DEEPSEEK_CONFIG
from support.shell import DUMPS, run
from support.timing import ended_after

DUMP, CONFIG = str(DUMPS["jsonl"]), str(DEEPSEEK_CONFIG)
NATIVE = str(DUMPS["native"])
MODEL = ("--model", CONFIG)
INTO = ("--save", "{out}.parquet")
COMMANDS = [  # {} stands for what is no file
    ("show", "{}"),
    ("show", DUMP, "--model", "{}"),
    *(("show", f"{{}}::format={form}", *MODEL) for form in ("jsonl", "npz", "native", "torch")),
    ("diff", "{}", DUMP, *MODEL),
    ("diff", DUMP, "{}", *MODEL),
    ("diff", DUMP, DUMP, "--rerun", "{}", *MODEL),
    ("diff", DUMP, DUMP, "--model", "{}"),
    ("diff", DUMP, DUMP, *MODEL, "--html", "{out}.html", "--tokenizer", "{}"),
    ("check", "{}", *MODEL),
    ("check", DUMP, "--against", "{}", *MODEL),
    ("convert", "{}", "--save", "{out}.parquet", *MODEL),
    ("convert", DUMP, "--save", "{out}.parquet", "--codec", "delta", "--base", "{}", *MODEL),
    ("recompute", "{}", DUMP, "--save", "{out}.parquet"),
    ("staleness", "{}", "--at", f"v0={NATIVE}"),
    ("staleness", NATIVE, "--at", "v0={}"),
    ("staleness", "--series", "{}"),
    ("predict", "fit", "{}", "--at", "v0={}", "--at", "v1={}", "--save", "{out}.safetensors"),
    ("pack", "{}", "--save", "{out}", *MODEL),
    ("pack", NATIVE, "--save", "{out}", "--plan", "{}"),
    ("pack", NATIVE, "--save", "{out}", "--layout", "{}"),
    ("layout", "{}", *MODEL),
    ("verify", "{}", "--against", NATIVE),
    ("unpack", "{}", "--save", "{out}.parquet"),
    ("report", "{}"),
    ("ci", "{}"),
    ("capture", "http://127.0.0.1:1", "--prompts", "{}", "--save", "{out}.jsonl"),
    (
        "capture",
        "http://127.0.0.1:1",
        "--prompts",
        "{prompts}",
        "--api-key-file",
        "{}",
        "--save",
        "{out}.parquet",
    ),
    ("watch", "{}", "--once"),
]


def _fifo(folder):
    os.mkfifo(folder / "x.jsonl")
    return folder / "x.jsonl"


def _socket(folder):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.path.relpath(folder / "x.jsonl"))
    return folder / "x.jsonl"


def _dangling(folder):
    (folder / "x.jsonl").symlink_to(folder / "nowhere")
    return folder / "x.jsonl"


def _link_to_fifo(folder):
    os.mkfifo(folder / "fifo")
    (folder / "x.jsonl").symlink_to(folder / "fifo")
    return folder / "x.jsonl"


KINDS = {
    "fifo": _fifo,
    "socket": _socket,
    "zero": lambda _: Path("/dev/zero"),
    "tty": lambda _: Path("/dev/tty"),
    "dangling": _dangling,
    "link": _link_to_fifo,
}


def no_longer_than(seconds):
    """Ends a block that waits with an error."""
    return ended_after(seconds, AssertionError(f"still running after {seconds} s"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(Path(w).name for w in c)[:60])
def test_no_command_waits_for_what_is_no_file(tmp_path, capsys, command, kind):
    """A FIFO, a socket, a device or a link to nowhere is trouble at once; nothing is written."""
    there = tmp_path / "there"
    there.mkdir()
    odd, out = KINDS[kind](there), tmp_path / "out"
    prompts = there / "prompts"
    prompts.write_text('{"prompt": "a"}\n', "utf-8")
    known = {"{out}": out, "{prompts}": prompts, "{}": odd}
    words = [re.sub(r"\{\w*\}", lambda found: str(known[found[0]]), w) for w in command]
    with no_longer_than(60):
        done = run(capsys, *words)
    assert (done.code, done.out) == (2, "")
    assert "this is a bug" not in done.err
    assert str(odd) in done.err or "expected" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def _index(folder, odd):
    (folder / "config.json").write_bytes(Path(CONFIG).read_bytes())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": odd.name}}), "utf-8"
    )
    return ("show", str(folder))


def _config(folder, odd):
    odd.rename(folder / "config.json")
    (folder / "x.jsonl").write_bytes(Path(DUMP).read_bytes())
    return ("check", str(folder / "x.jsonl"))


def _meta(folder, odd):
    odd.rename(folder / "meta.json")
    (folder / "x.jsonl").write_bytes(Path(DUMP).read_bytes())
    return ("check", str(folder / "x.jsonl"))


def _shard(folder, odd):
    odd.rename(folder / "model.safetensors")
    (folder / "config.json").write_bytes(Path(CONFIG).read_bytes())
    return ("show", str(folder))


@pytest.mark.parametrize("kind", ["fifo", "socket"])
@pytest.mark.parametrize("place", [_index, _config, _meta, _shard])
def test_what_a_folder_or_an_index_names_is_no_door_for_it(tmp_path, capsys, place, kind):
    """A FIFO or socket is refused that an index names, or that lies where a config would."""
    odd = KINDS[kind](tmp_path)
    with no_longer_than(60):
        done = run(capsys, *place(tmp_path, odd))
    assert done.code == 2
    assert "this is a bug" not in done.err


SHOW = [sys.executable, "-m", "routectl", "show"]


def _bash(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_process_substitutions_are_read_as_standard_input_is():
    """A pipe that the process was started with is read once and compared, each path on its own."""
    other = str(DUMPS["whole"])
    diff = f"{sys.executable} -m routectl diff"
    same = _bash(f"{diff} <(cat {DUMP}) <(gzip -c {DUMP}) --model <(cat {CONFIG})")
    assert (same.returncode, same.stderr) == (0, "")
    plain = _bash(f"{diff} {DUMP} {DUMP} {' '.join(MODEL)}")
    assert same.stdout.splitlines()[0] == plain.stdout.splitlines()[0]
    two = _bash(f"cat {DUMP} | {diff} /dev/stdin <(cat {other}) {' '.join(MODEL)}")
    assert two.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("show - < /dev/zero", "standard input is a folder or a device"),
        ("show - < /dev/null", "standard input is a folder or a device"),
        ("show - <&-", "standard input is closed"),
        ("show - < <(cat /dev/zero)", "not a dump: it begins with"),
        ("show <(cat /dev/zero)", "not a dump: it begins with"),
        ("show <(yes)", "not a dump: it begins with"),
        (f"show {DUMP} --model <(yes)", "more than"),
        ("ci <(yes)", "more than"),
        ("--limit stdin=1MB show <(yes '{}')", "more than 1000000 bytes on a pipe"),
    ],
)
def test_streams_without_an_end_are_refused(line, said):
    """A device or an endless pipe is refused by its kind, its first bytes or a cap."""
    done = _bash(f"{sys.executable} -m routectl {line}")
    assert done.returncode == 2
    assert said in done.stderr
