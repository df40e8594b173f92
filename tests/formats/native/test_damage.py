"""Native files that are damaged, cut, foreign or newer: each is refused in one line."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routectl.dump import DumpMeta, Sample
from routectl.errors import FormatError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.routes import Routes
from support.building import check_line, some_ids

META = DumpMeta("", "", (0, 1, 2), 8, 2)


def _plain(count):
    ids = some_ids(5).astype(np.uint8)
    return [Sample(Routes(ids, (0, 1, 2), 8, start=i), sample_id=f"s{i}") for i in range(count)]


def _refused(path, match, kind=FormatError):
    """A file is refused when it is opened, in one line."""
    with pytest.raises(kind, match=match) as caught:
        open_dump(path)
    check_line(caught.value, path)


def test_a_flipped_byte_is_seen(tmp_path):
    """One flipped bit anywhere in the pages is refused by a page checksum, never read as routes."""
    path = tmp_path / "x.parquet"
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 64, (4000, 3, 8)).astype(np.uint8)
    meta = DumpMeta("", "", (0, 1, 2), 64, 8)
    write_native([Sample(Routes(ids, (0, 1, 2), 64), sample_id="a")], meta, path, force=False)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    refused = 0
    for place in rng.integers(4, len(whole) - footer, 60).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            sample = open_dump(path)[0]
        except FormatError as error:
            check_line(error, path)
            refused += "damaged" in str(error)
        else:  # a bit of a page header that changes nothing
            np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
    assert refused >= 55


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path, share):
    """A native file cut short is refused in one line."""
    path = tmp_path / "x.parquet"
    write_native(_plain(4), META, path, force=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    _refused(path, r"damaged Parquet: cut short\? It ends without a footer")


def _with_block(path, block):
    """The table of a native file under another ``routectl`` block."""
    table = pq.read_table(path).replace_schema_metadata(block)
    pq.write_table(table, path)
    return path


def test_a_foreign_parquet_is_unsupported(tmp_path):
    """Another program's Parquet is told apart from a damaged native file."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    _refused(path, "of another program", UnsupportedError)


def test_a_newer_container_is_unsupported(tmp_path):
    """A newer schema number is refused with both numbers."""
    path = tmp_path / "x.parquet"
    write_native(_plain(1), META, path, force=False)
    about = json.loads(pq.read_schema(path).metadata[b"routectl"])
    about["schema"] = "routectl.native/6"
    _with_block(path, {"routectl": json.dumps(about)})
    _refused(path, r"native/6, .* routectl\.native/1, .*/2, .*/3, .*/4, .*/5", UnsupportedError)


BLOCKS = [
    {"layers": [0, 1]},
    {"layers": [0, 2, 1]},
    {"layers": [-1, 0, 1]},
    {"layers": []},
    {"layers": 3},
    {"layers": ["0", "1", "2"]},
    {"num_experts": 0},
    {"num_experts": 65537},
    {"num_experts": "8"},
    {"top_k": 0},
    {"top_k": 9},
    {"top_k": None},
    {"top_k": True},
    {"engine": 3},
    {"id_space": None},
    {"model": []},
    {"schema": "routectl.native/2"},
    {"schema": "routectl.native/3"},
    {"schema": "routectl.native/4"},
    {"schema": "routectl.native/4", "kinds": 1},
    {"schema": "routectl.native/4", "kinds": True},
    {"schema": "routectl.native/4", "kinds": "1"},
    {"order": "size"},
    {"order": None},
    {"provenance": []},
    {"provenance": {"device": 1}},
]


@pytest.mark.parametrize("change", BLOCKS, ids=str)
def test_a_block_that_does_not_fit_is_refused(tmp_path, change):
    """Metadata of a wrong type, or that does not fit the columns, is refused in one line."""
    path = tmp_path / "x.parquet"
    write_native(_plain(1), META, path, force=False)
    about = json.loads(pq.read_schema(path).metadata[b"routectl"])
    _with_block(path, {"routectl": json.dumps(about | change)})
    _refused(path, "damaged: the schema metadata")


VALUES = [
    ("num_rows", -1),
    ("num_rows", 4),
    ("num_rows", 2**31 - 1),
    ("start", None),
    ("start", -1),
    ("missing", b""),
    ("missing", b"\0" * 100),
    ("layer_001", None),
    ("layer_001", b"\x09" * 10),
    ("prompt_ids", [1, None]),
    ("response_ids", [-5]),
    ("loss_mask", [True, None]),
    ("logprobs", [None]),
    ("weight_spans", [None]),
    ("prompt_length", -1),
    ("cached_tokens", -2),
    ("weight_spans", [{"version": None, "start": 0, "end": 1}]),
]


@pytest.mark.parametrize(("name", "value"), VALUES, ids=str)
def test_values_that_no_writer_makes_are_refused(tmp_path, name, value):
    """A well-formed file with an impossible value is refused, in one line, when it is read."""
    path = tmp_path / "x.parquet"
    write_native(_plain(2), META, path, force=False)
    table = pq.read_table(path)
    kind = table.schema.field(name).type
    column = pa.array([table[name][0].as_py(), value], kind)
    pq.write_table(
        table.set_column(table.column_names.index(name), table.schema.field(name), column), path
    )
    with pytest.raises(FormatError, match=r"sample 1: |damaged Parquet: ") as caught:
        list(open_dump(path))
    check_line(caught.value, path)


MARGINS = [
    (b"", "got 0 bytes, expected 10 bytes"),
    (b"\0" * 12, "got 12 bytes, expected 10 bytes"),
    (None, "got nothing, expected 10 bytes"),
    (b"\0\x80" * 5, "a sign bit set"),
    (b"\0" * 10, "must be NaN where a row is missing"),
]


@pytest.mark.parametrize(("value", "words"), MARGINS, ids=str)
def test_margins_that_no_writer_makes_are_refused(tmp_path, value, words):
    """A margin column of another size, with a sign or for missing rows is refused when read."""
    path = tmp_path / "x.parquet"
    ids, missing = some_ids(5).astype(np.uint8), np.zeros((5, 3), np.bool_)
    missing[2, 1] = True
    routes = Routes(ids, (0, 1, 2), 8, 0, missing, np.full((5, 3), np.nan, np.float16))
    meta = dataclasses.replace(META, margins=True)
    write_native([Sample(routes)] * 2, meta, path, force=False)
    table = pq.read_table(path)
    column = pa.array([table["margin_001"][0].as_py(), value], pa.binary())
    place = table.column_names.index("margin_001")
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    with pytest.raises(FormatError, match="sample 1: ") as caught:
        list(open_dump(path))
    assert words in check_line(caught.value, path)


@pytest.mark.parametrize("kind", [pa.int32(), pa.string(), pa.large_binary()])
def test_a_column_of_another_type_is_refused(tmp_path, kind):
    """A native file whose layer column is of another type is refused when it is opened."""
    path = tmp_path / "x.parquet"
    write_native(_plain(1), META, path, force=False)
    table = pq.read_table(path)
    place = table.column_names.index("layer_001")
    table = table.set_column(place, pa.field("layer_001", kind), pa.nulls(1, kind))
    pq.write_table(table, path)
    _refused(path, "does not fit the columns")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    """A column name in the footer that is no UTF-8 is refused as damage."""
    path = tmp_path / "x.parquet"
    write_native(_plain(1), META, path, force=False)
    path.write_bytes(path.read_bytes().replace(b"layer_001", b"layer_\xff\xfe1"))
    _refused(path, "damaged")
