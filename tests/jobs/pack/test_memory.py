"""Memory of pack, verify and unpack: a sample's routes and an output tensor, whatever the batch."""

import tracemalloc

import numpy as np
import pytest

from routectl.dump import DumpMeta
from routectl.formats.native.container import open_native, write_native
from routectl.jobs.pack import samples
from routectl.ops.pack import pack
from routectl.routes import Routes
from support.dumps import make_sample
from support.shell import DUMPS, run, written

LAYERS, EXPERTS, TOP_K = tuple(range(8)), 64, 8


def some_dump(path, count, length):
    """Write a native file of so many samples of random routes, a row less than tokens each."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 56, (length - 1, len(LAYERS), 1))
    ids = (first + np.arange(TOP_K)).astype(np.uint8)
    made = (
        make_sample(
            Routes(np.roll(ids, i, axis=0), LAYERS, EXPERTS), f"s{i}", [1], [2] * (length - 1)
        )
        for i in range(count)
    )
    meta = DumpMeta(str(path), "native", LAYERS, EXPERTS, TOP_K, num_layers=len(LAYERS))
    write_native(made, meta, path, force=False)


@pytest.mark.parametrize("options", ["--tp 2 --cp 2", "--framework slime --padding zero"])
def test_read_again_for_each_rank(capsys, tmp_path, monkeypatch, options):
    """Samples read again for each rank give the bytes that samples kept in memory give."""
    folders = {}
    for held in (1 << 30, 0):
        monkeypatch.setattr(samples, "_HELD_BYTES", held)
        folder = folders[held] = tmp_path / str(held)
        done = run(capsys, "pack", DUMPS["native"], "-o", folder, *options.split())
        assert done.code == 0, done.err
        done = run(capsys, "pack", "--verify", folder, "--against", DUMPS["native"])
        assert (done.code, done.err) == (0, "")
    one, other = folders.values()
    assert written(one) == written(other)
    for name in written(one):
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_missing_rows_are_refused_when_they_are_read(capsys, tmp_path, monkeypatch):
    """A sample with rows missing is refused, whether samples are kept in memory or not."""
    path = tmp_path / "x.parquet"
    ids = np.zeros((3, 1, 1), np.uint8)
    missing = np.array([[False], [True], [False]])
    whole, holed = Routes(ids, (0,), 4), Routes(ids, (0,), 4, 0, missing)
    made = [make_sample(routes, f"s{i}", [1], [2, 3, 4]) for i, routes in enumerate([whole, holed])]
    meta = DumpMeta(str(path), "native", (0,), 4, 1, num_layers=1)
    write_native(made, meta, path, force=False)
    said = set()
    for held in (1 << 30, 0):
        monkeypatch.setattr(samples, "_HELD_BYTES", held)
        done = run(capsys, "pack", path, "-o", tmp_path / "replay", "--padding", "zero")
        assert done.code == 2
        assert "sample 1: 2 of the 3 rows of its 3 tokens are there" in done.err
        said.add(done.err)
    assert len(said) == 1
    assert written(tmp_path) == ["x.parquet"]


def peaks_of_all(capsys, path, folder):
    """Pack, verify and unpack a dump; return each command's peak of traced memory in bytes."""
    peaks = {}
    for name, words in (
        ("pack", ["pack", path, "-o", folder]),
        ("pack --verify", ["pack", "--verify", folder, "--against", path]),
        ("unpack", ["unpack", folder, "-o", folder.with_name("again.parquet")]),
    ):
        tracemalloc.start()
        try:
            done = run(capsys, *words)
            peaks[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert done.code == 0, done.err
    return peaks


def test_one_micro_batch(capsys, tmp_path, monkeypatch):
    """Of a micro-batch of many samples not all are in memory: the output is, and little else."""
    for module, name in ((samples, "_HELD_BYTES"), (pack, "_FLUSH_BYTES")):
        monkeypatch.setattr(module, name, 1 << 20)
    path, folder = tmp_path / "x.parquet", tmp_path / "replay"
    some_dump(path, 160, 1024)
    some_dump(tmp_path / "small.parquet", 2, 16)
    routes_bytes = 160 * 1023 * len(LAYERS) * TOP_K
    # Once before, for what is imported and compiled.
    peaks_of_all(capsys, tmp_path / "small.parquet", tmp_path / "once" / "small")
    peaks = peaks_of_all(capsys, path, folder)
    output = sum(file.stat().st_size for file in folder.rglob("mb*"))
    assert output > 1.9 * routes_bytes  # int16
    assert peaks["unpack"] < output + 5 * routes_bytes // 4  # and all routes of a micro-batch
    assert peaks["pack --verify"] < output + routes_bytes
    assert peaks["pack"] < output + 3 * routes_bytes // 4
    again = open_native(folder.with_name("again.parquet"))
    for one, other in zip(open_native(path), again, strict=True):
        np.testing.assert_array_equal(one.routes.ids_TLK, other.routes.ids_TLK)
