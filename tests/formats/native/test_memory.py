"""Native files are written and read in memory that does not grow with them."""

import tracemalloc
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.dump import DumpMeta, Sample
from routectl.errors import FormatError
from routectl.formats.native import groups
from routectl.formats.native.container import open_native, write_native
from routectl.formats.native.encoder import Coding
from routectl.gate_logprobs import gates_of
from routectl.margins import margins_to_float16
from routectl.routes import Routes

LAYERS, EXPERTS, TOP_K = tuple(range(16)), 64, 8
META = DumpMeta("memory", "test", LAYERS, EXPERTS, TOP_K, margins=True, gates=True)
ROW_BYTES = len(LAYERS) * TOP_K


@contextmanager
def tracing():
    """The Python memory that is taken in the block; pyarrow's own pool is not in it."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def some_samples(lengths, *, extras=False):
    """Samples of random routes, made as they are asked for; with margins and gates or without."""
    rng = np.random.default_rng(0)
    for i, length in enumerate(lengths):
        ids = rng.permuted(np.arange(EXPERTS, dtype=np.uint8) % EXPERTS)[:TOP_K]
        rows = np.ascontiguousarray((ids + rng.integers(0, 56, (length, len(LAYERS), 1))) % EXPERTS)
        routes, gates = Routes(rows.astype(np.uint8), LAYERS, EXPERTS), None
        if extras and i % 3:
            margin_TL = margins_to_float16(rng.random((length, len(LAYERS))))
            routes = replace(routes, margin_TL=margin_TL)
            gates = gates_of(-rng.random(routes.ids_TLK.shape), routes) if i % 3 == 1 else None
        tokens = np.arange(length + 1, dtype=np.int32)
        yield Sample(
            None if extras and i % 5 == 4 else routes,
            f"s{i}",
            prompt_ids=tokens[:1],
            response_ids=tokens[1:],
            prompt_length=1,
            response_length=length,
            gates=None if extras and i % 5 == 4 else gates,
        )


@pytest.mark.parametrize("codec", ["plain", "packed"])
def test_writing_lets_go(tmp_path, codec):
    """Of 32 MB of routes that are written, not 8 MB more are held at the end than at the start."""
    held = []

    def watched():
        for sample in some_samples([4096] * 64):
            held.append(tracemalloc.get_traced_memory()[0])
            yield sample

    coding = None if codec == "plain" else Coding(codec)
    meta = replace(META, margins=False, gates=False)
    with tracing():
        write_native(watched(), meta, tmp_path / "x.parquet", force=False, coding=coding)
    assert max(held[-16:]) - min(held[16:32]) < 8 << 20


def test_a_large_sample_is_held_once(tmp_path, monkeypatch):
    """A sample of 32 MB is read in its own size and a few layers', and not kept when it is given.

    Its layers are read a few at a time, and give the same as all at once.
    """
    path, meta = tmp_path / "x.parquet", replace(META, margins=False, gates=False)
    (sample,) = some_samples([256 << 10])
    write_native([sample], meta, path, force=False)
    monkeypatch.setattr(groups, "_STEP_BYTES", 4 << 20)
    with tracing():
        found = open_native(path)[0]
        taken, peak = tracemalloc.get_traced_memory()
    assert found.routes.ids_TLK.nbytes == 32 << 20
    assert taken < 36 << 20
    assert peak < 40 << 20
    np.testing.assert_array_equal(found.routes.ids_TLK, sample.routes.ids_TLK)


def test_samples_of_a_row_group_are_told_apart(tmp_path, monkeypatch):
    """Samples of one row group, some without routes, margins or gates, are read in any order.

    So they are where their columns are read one at a time.
    """
    path, lengths = tmp_path / "x.parquet", [3, 1, 0, 7, 2, 1, 5, 4, 1, 1, 6, 2]
    given = list(some_samples(lengths, extras=True))
    write_native(given, META, path, force=False)
    assert pq.ParquetFile(path).num_row_groups == 1
    for step in (32 << 20, 1):
        monkeypatch.setattr(groups, "_STEP_BYTES", step)
        dump = open_native(path)
        for i in np.random.default_rng(1).permutation(len(given)).tolist():
            check_equal(dump[i], given[i])
            narrow = dump.select(layers=[3, 9])[i]
            if given[i].routes is not None:
                check_equal(narrow, replace(given[i], routes=given[i].routes.columns([3, 9])))


def check_equal(found, expected):
    """Two samples have the same id, routes, margins, and gates where those are of all layers."""
    assert found.sample_id == expected.sample_id
    if expected.routes is None:
        assert found.routes is None
        return
    np.testing.assert_array_equal(found.routes.ids_TLK, expected.routes.ids_TLK)
    assert (found.routes.margin_TL is None) == (expected.routes.margin_TL is None)
    if expected.routes.margin_TL is not None:
        np.testing.assert_array_equal(found.routes.margin_TL, expected.routes.margin_TL)
    assert (found.gates is None) == (expected.gates is None)
    if expected.gates is not None and len(found.routes.layers_L) == len(LAYERS):
        np.testing.assert_array_equal(found.gates.logprobs_TLK, expected.gates.logprobs_TLK)


def test_what_is_handed_over_is_not_shared(tmp_path):
    """Writing into a sample's ids changes nothing that is read later."""
    path, meta = tmp_path / "x.parquet", replace(META, margins=False, gates=False)
    given = list(some_samples([4, 4]))
    write_native(given, meta, path, force=False)
    dump = open_native(path)
    dump[0].routes.ids_TLK[:] = 0
    check_equal(dump[0], given[0])


def test_one_damaged_sample_leaves_the_others(tmp_path):
    """A cell that is too short refuses its own sample, by name, and no other of the row group."""
    path, meta = tmp_path / "x.parquet", replace(META, margins=False, gates=False)
    given = list(some_samples([4, 4, 4]))
    write_native(given, meta, path, force=False)
    table = pq.read_table(path)
    at = table.schema.get_field_index("layer_005")
    cells = table.column(at).to_pylist()
    cells[1] = cells[1][:-1]
    pq.write_table(table.set_column(at, table.schema.field(at), [cells]), path)
    dump = open_native(path)
    with pytest.raises(FormatError, match="sample 1: layer 5: got 31 bytes, expected 32 bytes"):
        dump[1]
    for i in (0, 2):
        check_equal(dump[i], given[i])
