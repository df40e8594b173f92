"""Commands with --ray print and write what they do with --jobs, byte for byte."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

import routectl
from routectl.jobs.convert import native
from routectl.jobs.diff.request import DiffRequest
from routectl.jobs.held import HeldDump
from routectl.jobs.pack import writing
from routectl.jobs.progress import Progress
from routectl.jobs.shards.crew import Crew
from routectl.jobs.shards.work import cut_runs
from support.clusters import workers
from support.recordings import FIXTURES
from support.shell import run

pytestmark = pytest.mark.ray
TINY = FIXTURES / "tiny_rl" / "routes_v0.fp32.npz"
LATER = TINY.with_name("routes_v1.fp32.npz")
RECORDED = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
LAYOUT = ("--cp", 2, "--tp", 2, "--dp", 2, "--max-tokens-per-gpu", 512)


@pytest.fixture
def small(monkeypatch):
    """Row groups are small, and each is a shard, so that there are many."""
    from routectl.formats.native import row_groups

    monkeypatch.setattr(native, "_SHARD_BYTES", 1)
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 8)


def content(path):
    """The bytes of a file, or of every file in a folder, by name."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


@pytest.mark.parametrize("busy", [0, 3])
def test_convert(capsys, tmp_path, small, nodes, busy):
    """A native file is the same, by 4 and 1 workers, and nothing is left beside it."""
    native_file = TINY.with_name("routes_v0.margins.parquet")  # whose rows are known: this cuts it
    one, two = tmp_path / "one.parquet", tmp_path / "two" / "one.parquet"
    two.parent.mkdir()
    words = ("convert", native_file, "--codec", "set", "--save")
    assert run(capsys, *words, one, "--jobs", 1).code == 0
    with nodes.kept_busy(busy):
        done = run(capsys, *words, two, "--ray", nodes.address)
    assert done.code == 0, done.err
    assert two.read_bytes() == one.read_bytes()
    assert [path.name for path in two.parent.iterdir()] == ["one.parquet"]


@pytest.fixture
def sides(monkeypatch):
    """Two dumps of 96 samples, whose comparison is cut into as many shards."""
    monkeypatch.setattr(cut_runs, "__defaults__", (1,))
    return TINY, LATER


LINES = {
    "show": ("show", TINY),
    "check": ("check", RECORDED, "--against", TINY),
    "staleness": ("staleness", RECORDED, f"--at=v0={TINY}", f"--at=v1={LATER}"),
    "verify": ("verify", "PACKED", "--against", TINY),
}


@pytest.mark.parametrize("verb", LINES)
def test_answers(capsys, tmp_path, sides, nodes, verb):
    """What a command prints as JSON, and its exit code, are the same, counted by tasks."""
    packed = tmp_path / "packed"
    if verb == "verify":
        assert run(capsys, "pack", TINY, "--save", packed, *LAYOUT).code == 0
    words = [packed if word == "PACKED" else word for word in LINES[verb]]
    one = run(capsys, *words, "--json", "--jobs", 1)
    two = run(capsys, *words, "--json", "--ray", nodes.address)
    assert (two.code, two.out) == (one.code, one.out)
    assert one.out
    assert "here: no other process" not in two.err


def test_a_process_names_the_cluster(capsys, sides, nodes):
    """A command line of its own goes to the cluster at the ADDRESS that --ray names."""
    one = run(capsys, "check", TINY, "--json", "--jobs", 1)
    two = subprocess.run(
        [sys.executable, "-m", "routectl", "check", TINY, "--json", "--ray", nodes.address],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (two.returncode, two.stdout) == (one.code, one.out), two.stderr


@pytest.mark.parametrize(("busy", "form"), [(0, ()), (2, ("--json",)), (3, ("--json",))])
def test_diff(capsys, sides, nodes, busy, form):
    """The report, the document and the exit code are the same, by 4, 2 and 1 workers."""
    one = run(capsys, "diff", *sides, *form, "--jobs", 1)
    with nodes.kept_busy(busy):
        two = run(capsys, "diff", *sides, *form, "--ray", nodes.address)
    assert (one.code, one.out) == (two.code, two.out), two.err
    assert one.code == 1


@pytest.mark.parametrize("what", ["worker", "node"])
def test_diff_while_something_dies(sides, nodes, what):
    """A worker that is killed, and a node that is lost, in the middle change nothing."""
    dead, seen = [], []

    @contextmanager
    def line(doing, unit):
        def show(done, total, words):
            seen.append(done)
            if dead or not 0 < done < total:
                return
            if what == "node":
                dead.append(nodes.lose())
            else:
                dead.extend(one.kill() for one in workers("comparing")[:1])

        yield show

    old, new = map(str, sides)
    expected = routectl.run(DiffRequest(old=old, new=new, crew=Crew(jobs=1)))
    request = DiffRequest(old=old, new=new, crew=Crew(ray=nodes.address))
    assert routectl.run(request, Progress(line=line)) == expected
    assert len(dead) == 1
    assert seen[-1] == 96


def test_a_dump_in_memory(sides, nodes):
    """What only this process has is compared here, and a line says so."""
    said = []
    old, new = (HeldDump(routectl.open_dump(path)) for path in sides)
    request = DiffRequest(old=old, new=new, crew=Crew(ray=nodes.address))
    found = routectl.run(request, Progress(note=said.append))
    assert found["verdict"]["exit_code"] == 1
    assert "comparing here: no other process has what this one holds" in said


def test_pack(capsys, tmp_path, monkeypatch, nodes):
    """A folder has the same files with the same bytes, written by the workers."""
    monkeypatch.setattr(writing, "_SHARD_BYTES", 1)
    found = []
    for how in (("--jobs", 1), ("--ray", nodes.address)):
        folder = tmp_path / how[0].strip("-")
        done = run(capsys, "pack", TINY, "--save", folder, *LAYOUT, *how)
        assert done.code == 0, done.err
        found.append(content(folder) | {"stdout": done.out.replace(str(folder), "FOLDER").encode()})
    assert len(found[0]) == 83
    assert found[0] == found[1]


@pytest.fixture
def damaged(capsys, tmp_path, small):
    """A native file of twelve row groups, one of which is overwritten in part."""
    many = tmp_path / "many.parquet"
    assert run(capsys, "convert", TINY, "--save", many).code == 0
    data = bytearray(many.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    many.write_bytes(data)
    return many


def test_a_damaged_dump(capsys, tmp_path, damaged, nodes):
    """The first sample that cannot be read is named in one line, exit 2, and no file is there."""
    said = []
    for how in (("--jobs", 1), ("--ray", nodes.address)):
        target = tmp_path / "out.parquet"
        done = run(capsys, "convert", damaged, "--save", target, *how)
        assert (done.code, done.out, target.exists()) == (2, "", False)
        said.append(done.err)
    assert said[0] == said[1]
    assert "many.parquet: " in said[0]
