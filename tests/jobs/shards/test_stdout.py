"""What a command prints does not depend on how many processes did its work."""

import shutil

import pytest

from routectl.cli.words.commands import command_lines
from routectl.jobs.shards import work
from support.crewed import hired
from support.recordings import FIXTURES
from support.shell import run

TINY = FIXTURES / "tiny_rl"
OLD, NEW, LATER = (str(TINY / f"routes_v{i}.fp32.npz") for i in range(3))
RECORDED = str(TINY / "vllm.bf16" / "samples.jsonl")
LAYOUT = "--cp 2 --max-tokens-per-gpu 512"
LINES = {
    "show": f"show {OLD} --json",
    "diff": f"diff {OLD} {NEW} --json",
    "check": f"check {RECORDED} --against {OLD} --json",
    "staleness": f"staleness {RECORDED} --at v0={OLD} --at v1={NEW} --at v2={LATER} --json",
    "convert": f"convert {OLD} --save SAVE.parquet --force --json",
    "pack": f"pack {OLD} {LAYOUT} --save SAVE --force",
    "unpack": "unpack PACKED --save SAVE.parquet --force --json",
    "verify": f"verify PACKED --against {OLD} --json",
}
SHARED = {
    name
    for name, function in command_lines()
    if "jobs" in {about.flag for _, about in function.options}
}


def test_every_command_with_shards_is_here() -> None:
    """A command that takes --jobs has a line; what recompute counts in shards is a diff."""
    assert {*LINES, "recompute"} >= SHARED >= {"diff", "convert", "pack", "unpack"}


@pytest.mark.slow  # quick siblings: test_jobs.py of convert and pack
@pytest.mark.parametrize("command", sorted(SHARED & set(LINES)))
def test_stdout_is_equal_whatever_the_processes(command, tmp_path, monkeypatch, capsys) -> None:
    """One, two and three processes print the same bytes and end with the same exit code."""
    packed = tmp_path / "packed"
    if "PACKED" in LINES[command]:
        assert run(capsys, "pack", OLD, *LAYOUT.split(), "--save", packed).code == 0
    monkeypatch.setattr(work, "LEAST_BYTES", 1)
    hired(monkeypatch)
    told = []
    for jobs in (1, 2, 3):
        shutil.rmtree(tmp_path / "save", ignore_errors=True)
        line = LINES[command].replace("SAVE", str(tmp_path / "save")).replace("PACKED", str(packed))
        done = run(capsys, *line.split(), "--jobs", jobs)
        assert done.code in (0, 1), done.err
        told.append((done.code, done.out))
    assert told[0] == told[1] == told[2]
