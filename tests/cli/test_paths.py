"""Paths that lead nowhere: one line and exit 2, by every command that takes one."""

import contextlib
import os
import shutil

import pytest

from routectl.errors import FormatError
from routectl.formats import open_dump
from support.recordings import FIXTURES
from support.shell import complaint, run

DUMP = FIXTURES / "golden/deepseek_v3.parquet"
WEIGHTS = FIXTURES / "checkpoints/deepseek_v3"
NAMES = ["", "x" * 300, "x/" * 3000, "a\0b", "\udcff.jsonl", "loop", "loop/x", "[", "/dev/null/x"]
NOBODY = 65534


def readers(path, out):
    """Command lines that read a path."""
    return [
        ("show", path),
        ("show", FIXTURES / "tiny_rl/vllm.bf16/samples.jsonl", "--model", path),
        ("diff", DUMP, path),
        ("check", path),
        ("check", DUMP, "--against", path),
        ("convert", path, "--save", out / "o.parquet"),
        ("convert", DUMP, "--save", out / "o.parquet", "--codec", "delta", "--base", path),
        ("pack", path, "-o", out / "replay"),
        ("pack", DUMP, "-o", out / "replay", "--plan", path),
        ("pack", "--verify", path, "--against", DUMP),
        ("unpack", path, "-o", out / "o.parquet"),
        ("recompute", path, DUMP, "--save", out / "o.parquet"),
        ("recompute", WEIGHTS, path, "--save", out / "o.parquet"),
        ("staleness", path, "--checkpoint", WEIGHTS),
        ("report", path),
        ("ci", path),
    ]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names(tmp_path, monkeypatch, capsys, name):
    """Empty, too long, with a NUL or no UTF-8, through links in a circle, no glob."""
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for line in readers(name, tmp_path):
        assert complaint(capsys, *line).startswith("routectl: ")
    assert os.listdir(tmp_path) == ["loop"]


def test_a_nul_in_the_library():
    """open_dump refuses a name with a NUL, which no file has."""
    with pytest.raises(FormatError, match="a NUL in it"):
        open_dump("a\0b")


@contextlib.contextmanager
def as_nobody():
    """The rights of a user who owns nothing."""
    if os.geteuid():
        yield  # a folder without any right is closed to its owner too
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.slow
def test_a_folder_without_access(tmp_path, capsys):
    """What may not be read is said in one line: a folder, a file in it, and a glob of them."""
    locked, out = tmp_path / "locked", tmp_path / "out"
    locked.mkdir()
    out.mkdir(0o777)
    shutil.copy(DUMP, locked / "a.parquet")
    paths = (locked, locked / "a.parquet", locked / "*.parquet", locked / "no" / "such")
    lines = [line for path in paths for line in readers(path, out)]
    for line in lines:  # every module is loaded once, which nobody may not
        complaint_or_not(capsys, line)
    shutil.rmtree(out)
    out.mkdir()
    locked.chmod(0)
    try:
        for line in lines:
            with as_nobody():
                assert complaint(capsys, *line).startswith("routectl: ")
    finally:
        locked.chmod(0o700)
    assert not list(out.iterdir())


def complaint_or_not(capsys, line):
    """Run a line, whatever comes of it."""
    from routectl.cli.main import main

    main([str(word) for word in line])
    capsys.readouterr()


def test_no_utf8_through_pack_and_back(tmp_path, capsys):
    """A dump whose name is no UTF-8 is packed, and unpacked as it was."""
    dump, packed, back = tmp_path / "a\udcff.parquet", tmp_path / "replay", tmp_path / "b.parquet"
    shutil.copy(DUMP, dump)
    for words in (
        ("pack", dump, "-o", packed),
        ("pack", "--verify", packed, "--against", dump),
        ("unpack", packed, "-o", back),
        ("diff", dump, back),
    ):
        assert run(capsys, *words).code == 0, words
