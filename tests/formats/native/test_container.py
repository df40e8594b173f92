"""routectl's own container: what goes in comes out, and damage is seen."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.dump import Dump, DumpMeta, Sample
from routectl.errors import FormatError, RoutectlError
from routectl.formats import open_dump
from routectl.formats.native.container import open_native, write_native
from routectl.gate_logprobs import GateLogprobs, digest_routes
from routectl.routes import Routes
from support.building import check_line, some_ids
from support.native_files import (
    KEPT,
    check_same,
    metas,
    samples,
)
from support.recordings import FIXTURES


def _plain(count, rows=5, **more):
    ids = some_ids(rows).astype(np.uint8)
    return [
        Sample(Routes(ids, (0, 1, 2), 8, start=i), sample_id=f"s{i}", **more) for i in range(count)
    ]


META = DumpMeta("", "", (0, 1, 2), 8, 2)


@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    """Every field of every sample, and what the file keeps of DumpMeta, comes back equal."""
    meta = data.draw(metas())
    given_samples = data.draw(st.lists(samples(meta), min_size=0, max_size=4))
    path = tmp_path_factory.getbasetemp() / "round.parquet"
    assert write_native(given_samples, meta, path, force=True) == len(given_samples)
    dump = open_native(path)
    assert len(dump) == len(given_samples)
    for name in (*KEPT, "wire_dtype"):
        assert getattr(dump.meta, name) == getattr(meta, name), name
    assert (dump.meta.format, dump.meta.path) == ("native", str(path))
    assert dump.meta.facts_source == "the file itself"
    assert dump.meta.file_bytes == path.stat().st_size
    order = data.draw(st.permutations(range(len(given_samples))))
    for i in order:
        check_same(given_samples[i], dump[i])
        assert dump.keys[i].sample_id == given_samples[i].sample_id
        known = given_samples[i].token_ids is not None
        assert (dump.keys[i].tokens is not None) == known


def test_every_field_of_a_sample_is_tried():
    """The strategies above name every field of Sample and DumpMeta that a file keeps, so none is
    left out; how a reader put the rows together, and what is left out of figures, is not kept.
    """
    names = {f.name for f in dataclasses.fields(Sample)}
    of_the_reader = {"row_form", "segments", "scored"}
    assert names - of_the_reader == {
        "routes",
        "sample_id",
        "group_id",
        "prompt_ids",
        "response_ids",
        "prompt_length",
        "response_length",
        "loss_mask",
        "logprobs",
        "weight_spans",
        "finish_reason",
        "cached_tokens",
        "retractions",
        "start_inferred",
        "gates",
    }
    of_the_opening = {"path", "format", "facts_source", "file_bytes", "skipped", "codec", "trainer"}
    assert {f.name for f in dataclasses.fields(DumpMeta)} == {*KEPT, "wire_dtype"} | of_the_opening


def _margined(count, groups=False):
    """Samples with margins, group margins where asked for, and their meta."""
    rng = np.random.default_rng(3)
    samples = _plain(count, rows=2000)
    for i, sample in enumerate(samples):
        margins = rng.random((2000, 3)).astype(np.float16)
        others = rng.random((2000, 3)).astype(np.float16) if groups else None
        routes = dataclasses.replace(sample.routes, margin_TL=margins, group_margin_TL=others)
        samples[i] = dataclasses.replace(sample, routes=routes)
    return samples, dataclasses.replace(META, margins=True, group_margins=groups)


def test_only_files_with_margins_have_a_new_number(tmp_path):
    """Without margins a file is routectl.native/1 as ever, with them /2, with those of groups /3;
    what a meta does not announce is not written.
    """
    samples, meta = _margined(1)
    grouped, grouped_meta = _margined(1, groups=True)
    path = tmp_path / "x.parquet"
    cases = ((_plain(1), META, 1), (samples, meta, 2), (grouped, grouped_meta, 3))
    for some, about, number in cases:
        write_native(some, about, path, force=True)
        block = json.loads(pq.read_schema(path).metadata[b"routectl"])
        assert block["schema"] == f"routectl.native/{number}"
        assert ("margin_000" in pq.read_schema(path).names) == (number > 1)
        assert ("group_margin_000" in pq.read_schema(path).names) == (number == 3)
        assert not {"order", "provenance"} & set(block)
    for some, about in ((samples, META), (grouped, meta)):
        with pytest.raises(ValueError, match="meta says that none has"):
            write_native(some, about, path, force=True)


def _gated(count, *, margins):
    """Samples with gate log-probabilities, with or without margins, and their meta."""
    rng = np.random.default_rng(5)
    samples, meta = _margined(count) if margins else (_plain(count, rows=2000), META)
    for i, sample in enumerate(samples):
        values = -rng.random(sample.routes.ids_TLK.shape, np.float32)
        gates = GateLogprobs(values, digest_routes(sample.routes))
        samples[i] = dataclasses.replace(sample, gates=gates)
    return samples, dataclasses.replace(meta, gates=True)


@pytest.mark.parametrize("margins", [False, True])
def test_files_with_gates_have_a_number_of_their_own(tmp_path, margins):
    """A file with gate log-probabilities is routectl.native/4, and tells its kinds of columns."""
    path = tmp_path / "x.parquet"
    samples, meta = _gated(1, margins=margins)
    write_native(samples, meta, path, force=False)
    schema = pq.read_schema(path)
    block = json.loads(schema.metadata[b"routectl"])
    assert (block["schema"], block["kinds"]) == ("routectl.native/4", 1 + margins)
    assert schema.names[-4:] == ["gate_000", "gate_001", "gate_002", "gate_of"]
    column = pq.read_table(path)["gate_001"][0].as_py()
    values = np.frombuffer(column, "<f4").reshape(2000, 2)
    np.testing.assert_array_equal(values, samples[0].gates.logprobs_TLK[:, 1])
    other = dataclasses.replace(meta, gates=False)
    with pytest.raises(ValueError, match="gates do not fit"):
        write_native(samples, other, path, force=True)
    short = dataclasses.replace(samples[0], routes=_plain(1)[0].routes)
    with pytest.raises(ValueError, match="gates do not fit"):
        write_native([short], meta, path, force=True)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (b"\0" * 12, "gate_001: got 12 bytes, expected 16000 bytes"),
        (None, "gate_001: got nothing, expected 16000 bytes"),
        (np.full(4000, 0.5, "<f4").tobytes(), "damaged: logprobs_TLK must be finite and at most 0"),
        (
            np.full(4000, -np.inf, "<f4").tobytes(),
            "damaged: logprobs_TLK must be finite and at most 0",
        ),
    ],
    ids=["short", "null", "positive", "infinite"],
)
def test_damaged_gates_are_seen(tmp_path, column, said):
    """Gate columns that are no log-probabilities of the rows are refused with their sample."""
    path = tmp_path / "x.parquet"
    write_native(*_gated(1, margins=True), path, force=False)
    table = pq.read_table(path)
    at = table.schema.get_field_index("gate_001")
    table = table.set_column(at, table.schema.field(at), pa.array([column], pa.binary()))
    pq.write_table(table, path)
    with pytest.raises(FormatError, match=f"sample 0: {said}"):
        open_native(path)[0]


def test_gates_of_other_layers_are_not_read(tmp_path):
    """A narrowed dump has the gates of its layers alone, whether it is a file's or held."""
    path = tmp_path / "x.parquet"
    samples, meta = _gated(2, margins=False)
    write_native(samples, meta, path, force=False)
    dump = open_native(path)
    whole = samples[1].gates
    for part in (dump, dump.held(), dump.renumbered((3, 5, 7)).held().renumbered((0, 1, 2))):
        narrow = part.select(layers=(0, 2))[1]
        np.testing.assert_array_equal(narrow.gates.logprobs_TLK, whole.logprobs_TLK[:, [0, 2]])
        assert (narrow.gates.of, narrow.routes.layers_L) == (whole.of, (0, 2))


def test_group_margins_stand_beside_margins(tmp_path):
    """A file with group margins but no margins in a sample is damaged."""
    path = tmp_path / "x.parquet"
    write_native(*_margined(1, groups=True), path, force=False)
    table = pq.read_table(path)
    for i in range(3):
        at = table.schema.get_field_index(f"margin_00{i}")
        table = table.set_column(at, table.schema.field(at), pa.nulls(1, pa.binary()))
    pq.write_table(table, path)
    with pytest.raises(FormatError, match="sample 0: damaged: group_margin_TL comes beside"):
        open_native(path)[0]


@pytest.mark.parametrize("kind", ["margin", "group_margin"])
def test_margins_of_other_layers_are_not_read(tmp_path, kind):
    """A narrowed native dump reads no column of another layer: one can be damaged unseen."""
    path = tmp_path / "x.parquet"
    samples, meta = _margined(2, groups=True)
    write_native(samples, meta, path, force=False)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (column,) = (c for c in columns if c.path_in_schema == f"{kind}_000")
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    dump = open_native(path)
    with pytest.raises(FormatError, match="damaged"):
        dump[0]
    for layers in ((1, 2), (2,)):
        for part in (
            dump.select(layers=layers),
            dump.renumbered((5, 6, 9))
            .select(layers=tuple({1: 6, 2: 9}[n] for n in layers))
            .select(samples=[1, 0])
            .select(samples=[1, 0])
            .held(),
        ):
            routes = part[0].routes
            expected = samples[0].routes.columns(layers)
            np.testing.assert_array_equal(routes.margin_TL, expected.margin_TL)
            np.testing.assert_array_equal(routes.group_margin_TL, expected.group_margin_TL)
            np.testing.assert_array_equal(routes.ids_TLK, expected.ids_TLK)


@pytest.mark.parametrize(
    "name", ["vllm-0.32.0/deepseek_v3.bf16.grpo", "sglang-0.5.23/qwen3_moe.bf16.stops"]
)
def test_a_recording_survives_the_container(tmp_path, name):
    """A recorded dump written and opened again has the same samples, keys and facts."""
    source = open_dump(FIXTURES / "recordings" / name)
    path = tmp_path / "packed.parquet"
    assert write_native(source, source.meta, path, force=False) == len(source)
    packed = open_dump(path)
    assert packed.keys == source.keys
    assert packed.meta.layers_L == source.meta.layers_L
    for mine, other in zip(source, packed, strict=True):
        check_same(mine, other)


def test_several_row_groups_in_any_order(tmp_path):
    """Samples spread over several row groups are found by index in any order, more than once."""
    path = tmp_path / "many.parquet"
    rng = np.random.default_rng(7)
    ids = rng.integers(0, 256, (20_000, 3, 8)).astype(np.uint8)
    given_samples = [
        Sample(Routes(ids[i : 20_000 - i], (1, 2, 5), 256, start=i), sample_id=str(i))
        for i in range(30)
    ]
    write_native(iter(given_samples), DumpMeta("", "", (1, 2, 5), 256, 8), path, force=False)
    assert pq.ParquetFile(path).num_row_groups >= 3
    dump = open_dump(path)
    for i in [*rng.permutation(30).tolist(), 0, 29, 0]:
        assert dump[i].sample_id == str(i)
        np.testing.assert_array_equal(dump[i].routes.ids_TLK, ids[i : 20_000 - i])
    with pytest.raises(IndexError):
        dump[30]


def _failing(count):
    yield from _plain(count)
    raise FormatError("source: broken half way")


@pytest.mark.parametrize("old", [None, b"old bytes"])
def test_nothing_is_left_when_writing_fails(tmp_path, old):
    """When the samples fail half way, the folder is as before: no new file, the old one whole."""
    path = tmp_path / "x.parquet"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(FormatError, match="broken half way"):
        write_native(_failing(5000), META, path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["x.parquet"])
    assert old is None or path.read_bytes() == old


def test_an_existing_file_needs_force(tmp_path):
    """An existing file is refused, untouched, until force replaces it."""
    path = tmp_path / "x.parquet"
    path.write_bytes(b"mine")
    with pytest.raises(RoutectlError, match="already exists") as caught:
        write_native(_plain(1), META, path, force=False)
    assert "--force" in caught.value.hint
    assert path.read_bytes() == b"mine"
    assert write_native(_plain(3), META, path, force=True) == 3
    assert len(open_dump(path)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/such/folder/x.parquet", "cannot be written: there is no folder"),
        ("y" * 300, "cannot be written: File name too long"),
        ("folder", "is a folder, expected a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, name, said):
    """A path in no folder, too long, or of a folder is refused in one line."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with pytest.raises(RoutectlError, match=said) as caught:
        write_native(_plain(1), META, path, force=True)
    check_line(caught.value, path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_dump_can_be_written_while_it_is_read(tmp_path):
    """Replacing a native file by its own samples gives the same samples."""
    path = tmp_path / "x.parquet"
    write_native(_plain(6), META, path, force=False)
    dump = open_dump(path)
    assert isinstance(dump, Dump)
    write_native(dump, dump.meta, path, force=True)
    assert [s.routes.start for s in open_dump(path)] == [0, 1, 2, 3, 4, 5]
