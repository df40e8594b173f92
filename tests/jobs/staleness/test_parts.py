"""Staleness by several processes and in parts: byte for byte what one process says."""

import json
from functools import partial
from pathlib import Path

import pytest

from routectl import open_dump
from routectl.formats.native.container import write_native
from routectl.jobs.shards.work import cut_runs
from routectl.jobs.staleness import work
from support.crewed import hired
from support.shell import run

TINY = Path(__file__).parent.parent.parent.parent / "fixtures" / "tiny_rl"
DUMP = str(TINY / "vllm.bf16" / "samples.jsonl")
VERSIONS = [f"--at=v{n}={TINY / f'routes_v{n}.fp32.npz'}" for n in range(2)]
LINE = ["staleness", DUMP, *VERSIONS, "--method", "examples=3,clusters=prompt", "--exit-zero"]


def said(capsys, *line):
    """What a command prints."""
    done = run(capsys, *line)
    assert done.code == 0, done.err
    return done.out


def test_parts_merge_to_the_bytes_of_one(capsys, tmp_path):
    """Partials of three parts, in any order, give the JSON and the text of one command."""
    paths = [str(tmp_path / f"{n}.partial") for n in (1, 2, 3)]
    for n, path in enumerate(paths, 1):
        said(capsys, *LINE, "--shard", f"{n}/3", "--partial", path)
    turned = [paths[1], paths[2], paths[0]]
    assert said(capsys, "merge", *turned, "--json") == said(capsys, *LINE, "--json")
    assert said(capsys, "merge", *paths) == said(capsys, *LINE)


@pytest.mark.slow
def test_processes_give_the_bytes_of_one(capsys, monkeypatch):
    """Two processes, each of which opens the dumps, print what one does."""
    one = said(capsys, *LINE, "--json", "--jobs", "1")
    started = hired(monkeypatch)
    monkeypatch.setattr(work, "cut_runs", partial(cut_runs, least=1))
    assert said(capsys, *LINE, "--json", "--jobs", "2") == one
    assert started == [1]


def test_a_part_alone_answers_nothing(capsys):
    """--shard without --partial, and parts of a series or of the noise floor, are refused."""
    for more, text in (
        (["--shard", "1/2"], "a part answers nothing by itself"),
        (["--shard", "1/2", "--noise-floor"], "--noise-floor is not done in parts"),
    ):
        done = run(capsys, *LINE, *more)
        assert done.code == 2
        assert text in done.err
    done = run(capsys, "staleness", "--series", str(TINY), "--shard", "1/2")
    assert done.code == 2
    assert "--series is not done in parts" in done.err


def test_samples_that_a_version_lacks_are_told(capsys, tmp_path):
    """A version of some of the samples says how many it lacks, in JSON and in text."""
    few = tmp_path / "v1.parquet"
    whole = open_dump(TINY / "routes_v1.fp32.npz")
    write_native(whole.select(samples=range(90)), whole.meta, few, force=False)
    line = ["staleness", DUMP, VERSIONS[0], f"--at=v1={few}", "--exit-zero"]
    versions = json.loads(said(capsys, *line, "--json"))["versions"]
    lacking = [version["samples_lacking"] for version in versions]
    assert lacking == [{"free": 0, "forced": None}, {"free": 6, "forced": None}]
    told = [text for text in said(capsys, *line).splitlines() if "of the dump" in text]
    assert len(told) == 1
    assert "lacks 6 samples of the dump" in told[0]
