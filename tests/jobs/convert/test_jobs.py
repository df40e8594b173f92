"""``routectl convert --jobs``: native files written by several processes."""

import pyarrow.parquet as pq
import pytest

from routectl.formats import open_dump
from routectl.formats.native.schema import layer_name
from routectl.jobs.convert import native
from support.crewed import hired
from support.recordings import FIXTURES
from support.shell import run

TINY = FIXTURES / "tiny_rl"


@pytest.fixture
def many(tmp_path, monkeypatch, capsys):
    """A native file of some row groups, each a shard; workers are worth it whatever its size."""
    from routectl.formats.native import row_groups

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
