"""``routectl convert --jobs``: native files written by several processes."""

import gzip
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.formats import open_dump
from routectl.formats.native import row_groups
from routectl.formats.native.schema import layer_name
from routectl.gate_logprobs import digest_routes
from routectl.jobs.convert import native
from support.building import as_npy, write_lines
from support.crewed import hired
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, read_lines
from support.shell import run

TINY = FIXTURES / "tiny_rl"
LINES = DEEPSEEK / "samples.jsonl"


@pytest.fixture
def many(tmp_path, monkeypatch, capsys):
    """A native file of some row groups, each a shard; workers are worth it whatever its size."""
    monkeypatch.setattr(native, "_SHARD_BYTES", 1)
    started = hired(monkeypatch)
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 8)
    path = tmp_path / "many.parquet"
    assert run(capsys, "convert", TINY / "routes_v0.fp32.npz", "--save", path).code == 0
    yield path
    assert started in ([2], [2, 3])


@pytest.mark.parametrize("codec", ["plain", "set"])
def test_files_are_equal_whatever_the_processes(many, tmp_path, capsys, codec) -> None:
    """One, two and three processes write the same bytes, and say the same."""
    told = []
    for jobs in (1, 2, 3):
        path = tmp_path / f"{jobs}.parquet"
        done = run(capsys, "convert", many, "--save", path, "--codec", codec, "--jobs", jobs)
        assert done.code == 0, done.err
        told.append((path.read_bytes(), done.out, done.err.count("\n")))
    assert told[0] == told[1] == told[2]
    assert len(open_dump(tmp_path / "3.parquet")) == len(open_dump(many))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Recorded answers as JSON lines, gzipped, and as files of a folder; arrays beside them."""
    monkeypatch.setattr(native, "_SHARD_BYTES", 1)
    monkeypatch.setattr(native, "_GROUPS", 0)
    started = hired(monkeypatch)
    found = {"jsonl": LINES, "npz": TINY / "routes_v0.fp32.npz"}
    found["gzip"], found["folder"] = tmp_path / "x.jsonl.gz", tmp_path / "folder"
    found["gzip"].write_bytes(gzip.compress(LINES.read_bytes()))
    lines = LINES.read_bytes().splitlines(keepends=True)
    found["folder"].mkdir()
    for name, some in (("a", lines[:20]), ("b", lines[20:])):
        (found["folder"] / f"{name}.jsonl").write_bytes(b"".join(some))
    yield found
    assert started == [2, 3]


@pytest.mark.parametrize("form", ["jsonl", "gzip", "folder", "npz"])
def test_text_and_arrays_are_written_by_all(texts, tmp_path, capsys, form) -> None:
    """Of what knows no rows before it is read, one, two and three processes write the same."""
    told, model = [], () if form == "npz" else ("--model", DEEPSEEK_CONFIG)
    for jobs in (1, 2, 3):
        path = tmp_path / f"{jobs}.parquet"
        line = ("convert", texts[form], "--save", path, "--jobs", jobs, *model)
        done = run(capsys, *line)
        assert done.code == 0, done.err
        told.append((path.read_bytes(), done.out))
    assert told[0] == told[1] == told[2]
    assert pq.read_metadata(path).num_row_groups > 40
    for mine, expected in zip(
        open_dump(path), open_dump(texts[form], model=model[-1] if model else None), strict=True
    ):
        assert digest_routes(mine.routes) == digest_routes(expected.routes)


@pytest.mark.parametrize("form", ["jsonl", "gzip", "folder", "npz"])
def test_a_worker_needs_no_more_than_it_is_sent(texts, tmp_path, capsys, monkeypatch, form) -> None:
    """The tests around this one end before a worker has started: here each shard is sent."""
    found, model, partial = [], () if form == "npz" else ("--model", DEEPSEEK_CONFIG), []
    told = native._Writing.partial

    def sent(work, shard):
        partial.append(shard)
        work, shard = pickle.loads(pickle.dumps((work, shard)))
        return told(work, shard)

    for jobs in (2, 3):
        path = tmp_path / f"{jobs}.parquet"
        assert run(capsys, "convert", texts[form], "--save", path, "--jobs", jobs, *model).code == 0
        found.append(path.read_bytes())
        monkeypatch.setattr(native._Writing, "partial", sent)
    assert found[0] == found[1]
    assert partial


def test_a_damaged_line_is_named_by_its_number(texts, tmp_path, capsys) -> None:
    """The first line whose rows cannot be used is named, whoever reads it, and no file is there."""
    lines, said = read_lines(LINES), []
    for number in (29, 37):
        one = lines[number]
        rows = len(one["prompt_token_ids"]) + len(one["token_ids"]) - 1
        lines[number] = {**one, "routed_experts": as_npy(np.full((rows, 5, 4), 255))}
    bad = write_lines(tmp_path / "bad.jsonl", lines)
    for jobs in (1, 2, 3):
        path = tmp_path / f"{jobs}.parquet"
        done = run(
            capsys, "convert", bad, "--save", path, "--jobs", jobs, "--model", DEEPSEEK_CONFIG
        )
        assert (done.code, path.exists()) == (2, False)
        said.append(done.err)
    assert said[0] == said[1] == said[2]
    assert "bad.jsonl: line 30: " in said[0]
    assert said[0].count("\n") == 2  # the error and its hint


def test_row_groups_are_even(tmp_path, capsys, monkeypatch) -> None:
    """Samples whose rows are not known go into row groups of about equal bytes, none left over."""
    sizes = [sample.routes.ids_TLK.nbytes for sample in open_dump(LINES, model=DEEPSEEK_CONFIG)]
    monkeypatch.setattr(row_groups, "_GROUP_BYTES", sum(sizes) * 10 // 33)
    path = tmp_path / "x.parquet"
    done = run(capsys, "convert", LINES, "--save", path, "--model", DEEPSEEK_CONFIG)
    assert done.code == 0, done.err
    meta, begin, groups = pq.read_metadata(path), 0, []
    for i in range(meta.num_row_groups):
        end = begin + meta.row_group(i).num_rows
        groups.append(sum(sizes[begin:end]))
        begin = end
    assert (begin, len(groups)) == (len(sizes), 3)
    assert max(groups) - min(groups) <= 2 * max(sizes)


def test_what_gzip_had_is_not_held_at_once(tmp_path, capsys, monkeypatch) -> None:
    """A shard has so many bytes of the file; what they inflate to is read a part at a time."""
    alike = [read_lines(LINES)[0]] * 400
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(write_lines(tmp_path / "x.jsonl", alike).read_bytes()))
    monkeypatch.setattr(row_groups, "_GROUP_BYTES", 1 << 10)
    monkeypatch.setattr(native, "_SHARD_BYTES", 1 << 14)
    held, even = [], native._even_groups

    def watched(samples, group_bytes):
        held.append(sum(one.routes.ids_TLK.nbytes for one in samples))
        return even(samples, group_bytes)

    monkeypatch.setattr(native, "_even_groups", watched)
    path = tmp_path / "x.parquet"
    done = run(capsys, "convert", packed, "--save", path, "--model", DEEPSEEK_CONFIG)
    assert done.code == 0, done.err
    assert sum(held) > 20 * packed.stat().st_size
    assert max(held) < 3 << 14
    assert len(open_dump(path)) == len(alike)


def test_a_damaged_row_group_leaves_nothing(many, tmp_path, capsys) -> None:
    """The first sample that cannot be read is named, whoever reads it, and no file is there."""
    data = bytearray(many.read_bytes())
    group = pq.read_metadata(many).row_group(9)
    chunks = [group.column(i) for i in range(group.num_columns)]
    chunk = next(one for one in chunks if one.path_in_schema == layer_name(0))
    data[chunk.data_page_offset + 40 : chunk.data_page_offset + 60] = bytes(20)
    many.write_bytes(data)
    said = []
    for jobs in (1, 2):
        path = tmp_path / f"{jobs}.parquet"
        done = run(capsys, "convert", many, "--save", path, "--jobs", jobs)
        assert done.code == 2
        assert not path.exists()
        said.append(done.err)
    assert said[0] == said[1]
    assert "many.parquet: row group 9: damaged" in said[0]
