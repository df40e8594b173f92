"""Row groups of native files that are read at once: what they add up to is what samples do."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.dump import Dump, DumpMeta, Sample
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.native import row_groups
from routectl.formats.native.container import open_native, write_native
from routectl.formats.native.groups import Group
from routectl.gate_logprobs import gates_of
from routectl.ops.summary import summarize
from routectl.routes import Routes
from support.building import some_ids
from support.coded_files import coding_of, dump_of
from support.native_files import metas, samples

LAYERS = (0, 1, 2)
META = DumpMeta("", "", LAYERS, 8, 2)


def _plain(count, rows=5):
    ids = some_ids(rows).astype(np.uint8)
    return [
        Sample(Routes(ids, LAYERS, 8, start=i), f"s{i}", prompt_length=1, response_length=rows + i)
        for i in range(count)
    ]


def one_by_one(dump):
    """The same dump without batches: the slow way, sample after sample."""
    return Dump(dump.meta, dump.keys, dump.__getitem__)


def outcome(dump):
    """What summarize finds, as plain values, or the error that it raises."""
    try:
        found = summarize(dump)
    except FormatError as error:
        return str(error)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("codec", ["plain", "packed"])
def test_batches_add_up_to_samples(tmp_path_factory, codec, data):
    """A summary of row groups read at once is that of their samples, whatever these have."""
    meta = data.draw(metas())
    given_samples = data.draw(st.lists(samples(meta), min_size=0, max_size=5))
    coding = None if codec == "plain" else coding_of(codec, dump_of([], meta), False)
    path = tmp_path_factory.getbasetemp() / f"{codec}.parquet"
    write_native(given_samples, meta, path, force=True, coding=coding)
    layers = meta.layers_L[:: data.draw(st.integers(1, 3))]
    for dump in (open_native(path), open_native(path).select(layers=layers)):
        assert outcome(dump) == outcome(one_by_one(dump))


def test_no_sample_is_made(tmp_path, monkeypatch):
    """Samples of several row groups, of one file or of a folder, are summarized without one."""
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 4)
    given_samples = [*_plain(10), Sample(None, "none")]
    for name in ("a", "b"):
        write_native(given_samples, META, tmp_path / f"{name}.parquet", force=False)
    expected = outcome(one_by_one(open_dump(tmp_path)))
    monkeypatch.delattr(Group, "sample")
    found = outcome(open_dump(tmp_path))
    assert found == expected
    assert (found["samples"], found["without_routes"], found["positions"]) == (22, 2, 100)
    assert open_dump(tmp_path / "a.parquet").batch(1) is None


VALUES = [
    ("start", -1),
    ("start", None),
    ("num_rows", 3),
    ("num_rows", 0),
    ("num_rows", None),
    ("missing", b"\0"),
    ("missing", b""),
    ("layer_001", None),
    ("layer_001", b"\0" * 9),
    ("layer_001", b"\x09" * 10),
    ("loss_mask", [True, None]),
    ("logprobs", [None]),
    ("weight_spans", [None]),
    ("weight_spans", [{"version": None, "start": 0, "end": 1}]),
    ("retractions", -2),
    ("margin_001", None),
    ("margin_001", b"\0\x80" * 5),
    ("gate_001", None),
    ("gate_001", b"\0\0\x80\x3f" * 10),
    ("gate_of", None),
]


@pytest.mark.parametrize(("name", "value"), VALUES, ids=str)
def test_damage_is_counted_alike(tmp_path, name, value):
    """A value that no writer makes refuses its own sample, in batches as one by one."""
    path = tmp_path / "x.parquet"
    meta = dataclasses.replace(META, margins=True, gates=True)
    write_native([_whole(i) for i in range(3)], meta, path, force=False)
    table = pq.read_table(path)
    at = table.column_names.index(name)
    column = table[name].to_pylist()
    column[1] = value
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(column, field.type)), path)
    dump = open_native(path)
    found = outcome(dump)
    assert found == outcome(one_by_one(dump))
    whole = name == "gate_of"  # gates that are left out are no damage
    assert found["damaged"] == (0 if whole else 1), found["first_damaged"]


def _whole(start):
    """A sample with margins and gates."""
    margin_TL = np.zeros((5, 3), np.float16)
    routes = Routes(some_ids(5).astype(np.uint8), LAYERS, 8, start, margin_TL=margin_TL)
    return Sample(routes, f"s{start}", gates=gates_of(-np.ones((5, 3, 2)), routes))


def test_no_rows_and_no_cell(tmp_path):
    """Routes of no rows whose cells are not there either are damage, not a traceback."""
    path = tmp_path / "x.parquet"
    write_native(_plain(2, rows=0), META, path, force=False)
    table = pq.read_table(path)
    for name in ("layer_000", "layer_001", "layer_002"):
        at = table.column_names.index(name)
        column = pa.array([b"", None], pa.binary())
        table = table.set_column(at, table.schema.field(at), column)
    pq.write_table(table, path)
    with pytest.raises(FormatError, match="sample 1: layer 0: got nothing, expected 0 bytes"):
        open_native(path)[1]
    assert outcome(open_native(path))["damaged"] == 1


def test_rows_are_known_before_they_are_read(tmp_path):
    """Each sample's rows come from a column alone, 0 of one without routes; batches from starts."""
    given_samples = [Sample(None, "none"), *_plain(2), Sample(None, "again")]
    write_native(given_samples, META, tmp_path / "x.parquet", force=False)
    dump = open_native(tmp_path / "x.parquet")
    assert dump.rows().tolist() == [0, 5, 5, 0]
    assert dump.starts.tolist() == [0]
