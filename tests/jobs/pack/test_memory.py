"""Memory of pack, verify and unpack: a sample's routes and an output tensor, whatever the batch."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routectl.dump import DumpMeta
from routectl.formats.arrays.files import open_array_file
from routectl.formats.native.container import open_native, write_native
from routectl.formats.replay import folder as folders
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
    made = {}
    for held in (1 << 30, 0):
        monkeypatch.setattr(samples, "_HELD_BYTES", held)
        folder = made[held] = tmp_path / str(held)
        done = run(capsys, "pack", DUMPS["native"], "--save", folder, *options.split())
        assert done.code == 0, done.err
        done = run(capsys, "verify", folder, "--against", DUMPS["native"])
        assert (done.code, done.err) == (0, "")
    one, other = made.values()
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
        done = run(capsys, "pack", path, "--save", tmp_path / "replay", "--padding", "zero")
        assert done.code == 2
        assert "sample 1: 2 of the 3 rows of its 3 tokens are there" in done.err
        said.add(done.err)
    assert len(said) == 1
    assert written(tmp_path) == ["x.parquet"]


def peaks_of_all(capsys, path, folder):
    """Pack, verify and unpack a dump; return each command's peak of traced memory in bytes."""
    peaks = {}
    for name, words in (
        ("pack", ["pack", path, "--save", folder]),
        ("verify", ["verify", folder, "--against", path]),
        ("unpack", ["unpack", folder, "--save", folder.with_name("again.parquet")]),
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
    assert peaks["unpack"] < output  # the routes of a micro-batch, and a layer of its tensor
    assert peaks["verify"] < output + routes_bytes
    assert peaks["pack"] < output + 3 * routes_bytes // 4
    again = open_native(folder.with_name("again.parquet"))
    for one, other in zip(open_native(path), again, strict=True):
        np.testing.assert_array_equal(one.routes.ids_TLK, other.routes.ids_TLK)


def mapped(path):
    """The bytes of a file that are in this process's memory as mapped pages."""
    held, inside = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            held += int(line.split()[1]) << 10
    return held


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="of Linux")
def test_a_file_is_not_mapped_beside_its_tensors(tmp_path, monkeypatch):
    """While a rank's file is read, no more of it than one layer is mapped beside the tensors."""
    place, rows = folders.RankFile(), 1 << 17
    layers = {n: np.full((rows, TOP_K), n, np.int16) for n in LAYERS}
    folders.write_tensors(tmp_path, place, folders.RankTensors(layers, np.ones(rows, np.bool_)))
    path, held = tmp_path / place.path, []

    def opened(*args):
        file = open_array_file(*args)

        def read(name):
            array = file.read(name)
            held.append(mapped(path))
            return array

        return replace(file, read=read)

    monkeypatch.setattr(folders, "open_array_file", opened)
    found = folders.read_tensors(path)
    assert all(np.array_equal(found.layers[n], layers[n]) for n in LAYERS)
    assert len(held) == len(LAYERS) + 1
    assert 0 < max(held) < 1.5 * layers[0].nbytes
