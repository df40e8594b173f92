"""Native files with coded columns: what goes in comes out, each thing once, and damage is seen."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.codecs import CODECS, codec_named
from routectl.dump import Sample
from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.native.container import check_native, open_native, write_native
from routectl.formats.native.encoder import Coding
from routectl.routes import Routes
from support.building import check_line
from support.coded_files import coding_of, dump_of, expect, grouped
from support.native_files import KEPT, check_same, metas, samples
from support.recordings import FIXTURES

CODED = [name for name in CODECS if name != "plain"]
every_codec = pytest.mark.parametrize("name", CODED)
TINY = FIXTURES / "tiny_rl"
DEEPSEEK = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.bf16.grpo" / "samples.jsonl"


@every_codec
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.slow
def test_round_trip(tmp_path_factory, name, data):
    """Every field of every sample survives each codec, slot orders where they are kept: margins,
    gates, missing rows, start, zero rows, no routes, ids twice in a row.
    """
    meta = data.draw(metas())
    given_samples = data.draw(st.lists(samples(meta), min_size=0, max_size=4))
    base = dump_of(data.draw(st.permutations(given_samples)), meta)
    coding = coding_of(name, base, data.draw(st.booleans()))
    path = tmp_path_factory.getbasetemp() / f"{name}.parquet"
    write_native(given_samples, meta, path, force=True, coding=coding, verify=True)
    dump = open_native(path, base=coding.base)
    for field in (*KEPT, "wire_dtype"):
        if field != "order" or not coding.sorts:
            assert getattr(dump.meta, field) == getattr(meta, field), field
    assert not coding.sorts or dump.meta.order == "unknown"
    wanted = expect(given_samples, coding)
    for i in data.draw(st.permutations(range(len(given_samples)))):
        check_same(wanted[i], dump[i])
    layers = meta.layers_L[:: data.draw(st.integers(1, 3))]
    for mine, other in zip(wanted, dump.select(layers=layers), strict=True):
        if mine.routes is not None:
            columns = [meta.layers_L.index(layer) for layer in layers]
            part = mine.routes.columns(columns)
            np.testing.assert_array_equal(part.ids_TLK, other.routes.ids_TLK)


@every_codec
@pytest.mark.parametrize("keep_order", [False, True])
def test_recordings_survive(tmp_path, name, keep_order):
    """Recorded dumps come back through each codec, in sets or slot for slot; delta against
    transformers' routes of the same tokens, and against itself.
    """
    base = open_dump(TINY / "routes_v0.fp32.npz")
    for source, against in ((TINY / "vllm.bf16" / "samples.jsonl", base), (DEEPSEEK, None)):
        dump = open_dump(source)
        coding = coding_of(name, dump if against is None else against, keep_order)
        path = tmp_path / "x.parquet"
        write_native(dump, dump.meta, path, force=True, coding=coding, verify=True)
        coded = open_dump(path, base=coding.base)
        assert coded.keys == dump.keys
        for mine, other in zip(expect(dump, coding), coded, strict=True):
            check_same(mine, other)
            if keep_order:
                np.testing.assert_array_equal(other.routes.ids_TLK, mine.routes.ids_TLK)


def coded_bytes(path, layers=None):
    """Bytes of the coded columns, of some layers."""
    groups = pq.ParquetFile(path).metadata
    names = None if layers is None else {f"coded_{layer:03d}" for layer in layers}
    columns = [
        groups.row_group(g).column(i)
        for g in range(groups.num_row_groups)
        for i in range(groups.num_columns)
    ]
    return sum(
        c.total_compressed_size
        for c in columns
        if c.path_in_schema.startswith("coded_") and (names is None or c.path_in_schema in names)
    )


@every_codec
def test_rows_of_one_prompt_are_stored_once(tmp_path, name):
    """Six siblings of a prompt of 300 tokens take the bytes of one prompt; a row that differs in a
    layer ends the sharing in that layer alone, and comes back as it was.
    """
    some, meta = grouped()
    sizes = []
    for differing in (False, True):
        if differing:
            routes = some[3].routes.ids_TLK.copy()
            routes[100, 1] = (routes[100, 1] + 1) % 64
            some[3] = dataclasses.replace(
                some[3], routes=dataclasses.replace(some[3].routes, ids_TLK=routes)
            )
        coding = coding_of(name, dump_of([], meta))
        path = tmp_path / "x.parquet"
        write_native(some, meta, path, force=True, coding=coding, verify=True)
        for mine, other in zip(
            expect(some, coding), open_native(path, base=coding.base), strict=True
        ):
            check_same(mine, other)
        sizes.append(coded_bytes(path))
    alone = tmp_path / "one.parquet"
    write_native(some[:1], meta, alone, force=True, coding=coding)
    assert sizes[0] < coded_bytes(alone) * (300 + 6 * 100) / 400 * 1.15
    assert sizes[0] < sizes[1] < sizes[0] * 1.25


@every_codec
def test_turns_of_a_conversation_are_stored_once(tmp_path, name):
    """A turn repeats the rows of the turns before it: they are stored once, also where it has no
    rows for its first tokens, or lacks some.
    """
    (whole,), meta = grouped(count=1, rows=400)
    tokens, turns = whole.token_ids, []
    for stop in range(40, 400, 40):
        start = 10 if stop > 200 else 0
        missing = np.zeros((stop - start, 3), np.bool_)
        missing[5, 1] = stop % 80 == 0
        routes = Routes(whole.routes.ids_TLK[start:stop].copy(), (1, 2, 5), 64, start, missing)
        turns.append(
            Sample(
                routes, prompt_ids=tokens[: stop - 20], response_ids=tokens[stop - 20 : stop + 1]
            )
        )
    coding = coding_of(name, dump_of([], meta))
    path, last = tmp_path / "x.parquet", tmp_path / "last.parquet"
    write_native(turns, meta, path, force=True, coding=coding, verify=True)
    dump = open_native(path, base=coding.base)
    for i in reversed(range(len(turns))):
        check_same(expect(turns, coding)[i], dump[i])
    write_native(turns[-1:], meta, last, force=True, coding=coding)
    assert coded_bytes(path) < 1.6 * coded_bytes(last) + 900


@every_codec
def test_a_stage_reads_its_layers_alone(tmp_path, name):
    """Of a file read from disk, one stage's layers cost their own bytes and the small columns'."""
    some, meta = grouped(rows=4000, prompt=10)
    path, coding = tmp_path / "x.parquet", coding_of(name, dump_of([], meta))
    write_native(some, meta, path, force=False, coding=coding)
    groups = pq.ParquetFile(path).metadata
    spoiled = bytearray(path.read_bytes())
    for g in range(groups.num_row_groups):
        for i in range(groups.num_columns):
            column = groups.row_group(g).column(i)
            if column.path_in_schema in ("coded_001", "coded_005"):
                first, size = column.data_page_offset, column.total_compressed_size
                spoiled[first : first + size] = b"\xff" * size
    path.write_bytes(spoiled)
    wanted = expect(some, coding)
    for mine, other in zip(
        wanted, open_native(path, base=coding.base).select(layers=range(2, 4)), strict=True
    ):
        np.testing.assert_array_equal(mine.routes.ids_TLK[:, 1:2], other.routes.ids_TLK)
    with pytest.raises(FormatError, match="damaged"):
        open_native(path, base=coding.base)[0]


def test_one_sample_is_decoded_without_the_rest(tmp_path, monkeypatch):
    """Of a codec that is not solid, the first sample asked for is decoded from its own cells and
    those whose rows it shares; a sample of the row group more brings in all.
    """
    some, meta = grouped()
    path = tmp_path / "x.parquet"
    write_native(some, meta, path, force=False, coding=Coding("packed"))
    import routectl.codecs.packed as room

    decoded = []

    def counting(coded, about):
        decoded.append(len(about.lens_S))
        return room._decode(coded, about)

    monkeypatch.setattr(room, "CODEC", dataclasses.replace(room.CODEC, decode=counting))
    dump = open_native(path)
    check_same(some[4], dump[4])
    assert decoded == [1] * 6  # three layers, of it and of its source
    check_same(some[2], dump[2])
    assert decoded == [1] * 6 + [6] * 3


@every_codec
def test_a_codec_that_does_not_fit_falls_back_by_name(tmp_path, name):
    """Rows with an id twice go through a codec that takes them, and its name is in the bytes."""
    some, meta = grouped(count=2)
    ids = some[1].routes.ids_TLK.copy()
    ids[350, 2] = 7
    some[1] = dataclasses.replace(some[1], routes=dataclasses.replace(some[1].routes, ids_TLK=ids))
    path, coding = tmp_path / "x.parquet", coding_of(name, dump_of([], meta))
    write_native(some, meta, path, force=False, coding=coding, verify=True)
    heads = [pq.read_table(path)[f"coded_00{i}"][0].as_py() for i in (1, 2, 5)]
    used = [head[1 : 1 + head[0]].decode() for head in heads]
    distinct = "distinct" in codec_named(name).needs
    assert (used[2] == "packed/1") == (distinct or name == "packed")
    assert used[0] == used[1]
    assert json.loads(pq.read_schema(path).metadata[b"routectl"])["codec"] == name


def spoil(path, column, change, row=0):
    """Change one cell of a column."""
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    values = table.column(at).to_pylist()
    values[row] = change(values[row])
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)


@pytest.mark.parametrize(
    ("column", "row", "change", "error", "said"),
    [
        (
            "coded_002",
            0,
            lambda c: b"\x08packed/2" + c[9:],
            UnsupportedError,
            "'packed/2' is newer",
        ),
        (
            "coded_002",
            0,
            lambda c: b"\x06mtf/12" + c[9:],
            UnsupportedError,
            "'mtf/12' is not known",
        ),
        ("coded_002", 0, lambda c: c[:9] + b"\4" + c[10:], FormatError, "the head of"),
        ("coded_002", 0, lambda c: c[:10] + b"\xff" * 4 + c[14:], FormatError, "the head of"),
        ("coded_002", 0, lambda c: None, FormatError, "the first cell is not there"),
        ("coded_002", 0, lambda c: b"", FormatError, "the head of"),
        ("coded_002", 0, lambda c: c[:-1], FormatError, "got 1199 bytes, expected 1200"),
        ("coded_002", 1, lambda c: c + b"0", FormatError, "bytes, expected"),
        ("coded_002", 1, lambda c: None, FormatError, "begins with no count"),
        ("coded_002", 1, lambda c: b"\xff" * 6, FormatError, "begins with no count"),
        ("coded_002", 1, lambda c: b"\xff\x7f" + c[2:], FormatError, "shares 16383 rows"),
        ("shared_with", 1, lambda c: 1, FormatError, "row 1 shares rows with 1"),
        ("shared_with", 1, lambda c: -1, FormatError, "row 1 shares rows with -1"),
        ("shared_with", 1, lambda c: None, FormatError, "shares 300 rows"),
        ("num_rows", 0, lambda c: 2**31 - 1, FormatError, "inflate to more than 1000 times"),
        ("num_rows", 0, lambda c: 500_000, FormatError, "expected"),
        ("num_rows", 1, lambda c: 299, FormatError, "shares 300 rows"),
        ("start", 0, lambda c: 1, FormatError, "shares 300 rows"),
    ],
)
def test_damage_is_named(tmp_path, column, row, change, error, said):
    """A cell, head or number that no writer makes is refused in one line, within 1 s and 100 MB,
    and so is a codec to come, by its name.
    """
    some, meta = grouped(count=3)
    path = tmp_path / "x.parquet"
    write_native(some, meta, path, force=False, coding=Coding("packed"))
    spoil(path, column, change, row)
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(error, match=said) as caught:
        list(open_native(path))
    assert time.monotonic() - began < 1
    assert psutil.Process().memory_info().rss - before < 100 << 20
    check_line(caught.value, path)


@every_codec
def test_routes_that_were_exchanged_are_seen(tmp_path, name):
    """Cells that decode, but to other routes than were written, do not pass the check."""
    some, meta = grouped(count=2)
    path, coding = tmp_path / "x.parquet", coding_of(name, dump_of([], meta))
    write_native(some, meta, path, force=False, coding=coding)
    assert check_native(path, base=coding.base) == 2
    table = pq.read_table(path)
    a, b = (table.schema.get_field_index(f"coded_00{i}") for i in (1, 2))
    columns = table.columns
    columns[a], columns[b] = columns[b], columns[a]
    pq.write_table(pa.Table.from_arrays(columns, schema=table.schema), path)
    restore_digest(path)
    with pytest.raises(FormatError, match="sample 0: got routes"):
        check_native(path, base=coding.base)


def restore_digest(path):
    """Rewrite a file with some digest of the whole in its footer, as pyarrow drops it."""
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"routectl.digest": "0" * 32})


def test_a_file_from_before_digests_has_none(tmp_path):
    """A plain file without a digest reads as ever, and there is nothing to check."""
    some, meta = grouped(count=1)
    path = tmp_path / "x.parquet"
    write_native(some, meta, path, force=False, verify=True)
    assert check_native(path) == 1
    pq.write_table(pq.read_table(path), path)
    assert check_native(path) is None
    restore_digest(path)
    with pytest.raises(FormatError, match="expected 0000"):
        check_native(path)


def test_other_programs_read_the_plain_columns(tmp_path):
    """pyarrow alone reads every column but the coded ones of a coded file as what it is."""
    some, meta = grouped(count=2)
    path = tmp_path / "x.parquet"
    write_native(some, meta, path, force=False, coding=Coding("packed"))
    rows = pq.read_table(path, columns=["sample_id", "response_ids", "num_rows"]).to_pylist()
    assert [row["sample_id"] for row in rows] == ["s0", "s1"]
    assert rows[1]["response_ids"] == some[1].response_ids.tolist()
    assert rows[0]["num_rows"] == 400


def rename_base(path, to, named):
    """The same file with another name of its base in it."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"routectl"])
    schema = table.schema.with_metadata({b"routectl": json.dumps({**about, "base": named})})
    pq.write_table(table.cast(schema), to)
    return to


class TestBase:
    """A file of codec delta and the dump that it was coded against."""

    def written(self, tmp_path, base_samples=None):
        """A base, a delta file against it, and the samples."""
        some, meta = grouped(count=4)
        base, path = tmp_path / "base.parquet", tmp_path / "x.parquet"
        write_native(base_samples or some, meta, base, force=False)
        coding = Coding("delta", base=open_native(base))
        write_native(some, meta, path, force=False, coding=coding, verify=True)
        return base, path, expect(some, coding), meta

    def test_it_is_found_beside_the_file(self, tmp_path):
        """The base's path is kept relative to the file: both can move together."""
        base, path, wanted, _ = self.written(tmp_path)
        (tmp_path / "moved").mkdir()
        for file in (base, path):
            file.rename(tmp_path / "moved" / file.name)
        for mine, other in zip(wanted, open_dump(tmp_path / "moved" / path.name), strict=True):
            check_same(mine, other)

    def test_it_is_missed_by_name(self, tmp_path):
        """Without its base the file opens, its metadata is there, and routes ask for the base."""
        base, path, wanted, _ = self.written(tmp_path)
        base.rename(tmp_path / "elsewhere.parquet")
        dump = open_dump(path)
        assert len(dump) == 4
        with pytest.raises(
            UnsupportedError, match=r"another dump, 'base\.parquet': there is no such"
        ) as caught:
            dump[0]
        assert caught.value.hint == f"{path}::base=DUMP names it"
        check_same(wanted[0], open_dump(path, base=tmp_path / "elsewhere.parquet")[0])

    @pytest.mark.parametrize(
        ("named", "why"),
        [
            ("../base.parquet", "not in its folder: not opened"),
            ("{folder}/base.parquet", "not in its folder: not opened"),
            ("out/../../base.parquet", "not in its folder: not opened"),
            ("link.parquet", "not in its folder: not opened"),
            ("out/base.parquet", "not in its folder: not opened"),
            ("/dev/zero", "not in its folder: not opened"),
            ("loop/x", "there is no such file"),
            ("fifo", "there is no such file"),
            ("", "there is no such file"),
            (".", "there is no such file"),
            ("x" * 5000, "there is no such file"),
            ("a\0b", "there is no such file"),
        ],
    )
    def test_nothing_else_is_opened(self, tmp_path, named, why):
        """A base that is named outside of the file's folder, by a link too, is opened for no one.

        Neither are pipes, folders, names that are too long or hold a NUL.
        """
        base, path, wanted, _ = self.written(tmp_path)
        inner = tmp_path / "inner"
        inner.mkdir()
        (inner / "link.parquet").symlink_to(base)
        (inner / "out").symlink_to(tmp_path)
        (inner / "loop").symlink_to("loop")
        os.mkfifo(inner / "fifo")
        moved = rename_base(path, inner / "x.parquet", named.format(folder=tmp_path))
        with pytest.raises(UnsupportedError, match=why) as caught:
            open_dump(moved)[0]
        assert caught.value.hint == f"{moved}::base=DUMP names it"
        check_line(caught.value, moved)
        check_same(wanted[0], open_dump(moved, base=base)[0])

    def test_a_folder_below_is_the_files_own(self, tmp_path):
        """A base below the file is found there; one elsewhere is kept by its name alone."""
        base, path, wanted, meta = self.written(tmp_path)
        (tmp_path / "old" / "er").mkdir(parents=True)
        below = base.rename(tmp_path / "old/er/base.parquet")
        coding = Coding("delta", base=open_native(below))
        write_native(wanted, meta, path, force=True, coding=coding)
        check_same(wanted[0], open_dump(path)[0])
        write_native(wanted, meta, tmp_path / "old/y.parquet", force=True, coding=coding)
        check_same(wanted[0], open_dump(tmp_path / "old/y.parquet")[0])
        above = below.rename(tmp_path / "base.parquet")
        coding = Coding("delta", base=open_native(above))
        write_native(wanted, meta, tmp_path / "old/y.parquet", force=True, coding=coding)
        with pytest.raises(UnsupportedError, match=r"another dump, 'base\.parquet'"):
            open_dump(tmp_path / "old/y.parquet")[0]
        above.rename(tmp_path / "old/base.parquet")
        check_same(wanted[0], open_dump(tmp_path / "old/y.parquet")[0])

    def test_another_base_is_refused(self, tmp_path):
        """A base of other routes, of fewer samples or of another model is refused, never used."""
        base, path, _, meta = self.written(tmp_path)
        others, _ = grouped(count=4, seed=1)
        write_native(others, meta, base, force=True)
        with pytest.raises(MismatchError, match="other routes") as caught:
            open_dump(path)[0]
        check_line(caught.value, path)
        write_native(others[:1], meta, base, force=True)
        with pytest.raises(MismatchError, match="got 1 samples, expected at least"):
            open_dump(path)[0]
        small, other_meta = grouped(count=4, num_experts=32)
        write_native(small, other_meta, base, force=True)
        with pytest.raises(MismatchError, match="num_experts is 32"):
            open_dump(path)[0]
        path.rename(base)
        with pytest.raises(MismatchError, match="its base is itself"):
            open_dump(base)[0]

    def test_chains_of_versions_open(self, tmp_path):
        """A base may itself be coded against a base."""
        _, path, wanted, meta = self.written(tmp_path)
        later = tmp_path / "later.parquet"
        coding = Coding("delta", base=open_native(path))
        write_native(wanted, meta, later, force=False, coding=coding, verify=True)
        for mine, other in zip(wanted, open_dump(later), strict=True):
            check_same(mine, other)
        assert max(coded_bytes(later), coded_bytes(path)) < 500

    def test_a_base_may_be_of_any_format(self, tmp_path):
        """A base that is no native file is opened by who knows how, and refused where none does."""
        base, path = TINY / "vllm.bf16/samples.jsonl", tmp_path / "x.parquet"
        dump = open_dump(base)
        coding = Coding("delta", keep_order=True, base=dump)
        write_native(dump, dump.meta, path, force=False, coding=coding, verify=True)
        with pytest.raises(UnsupportedError, match=r"'samples\.jsonl': there is no such file"):
            check_native(path, opener=open_dump)
        assert check_native(path, base=dump, opener=open_dump) == len(dump)
        for mine, other in zip(dump, open_dump(path, base=base), strict=True):
            check_same(mine, other)
        with pytest.raises(
            UnsupportedError, match=r"samples\.jsonl: a base that is no native file"
        ):
            open_native(path, base=base)[0]

    def test_samples_without_a_base_are_whole(self, tmp_path):
        """A sample whose tokens the base does not have is coded by itself."""
        some, _ = grouped(count=4)
        _, path, wanted, _ = self.written(tmp_path, some[1:2])
        for mine, other in zip(wanted, open_dump(path), strict=True):
            check_same(mine, other)

    def test_what_is_needed_is_asked_for(self):
        """delta without a base, and a base for another codec, are refused with the flag."""
        with pytest.raises(MismatchError, match="against a base") as caught:
            Coding("delta")
        assert "--base" in caught.value.hint
        with pytest.raises(MismatchError, match="takes no base"):
            Coding("packed", base=dump_of([], grouped(count=1)[1]))
        with pytest.raises(MismatchError, match="token codes with a dictionary") as caught:
            Coding("token")
        assert "--dictionary" in caught.value.hint
        with pytest.raises(UnsupportedError, match="'zip' is not known: plain, packed"):
            Coding("zip")


WRITER = """
import sys
import numpy as np
from pathlib import Path
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.encoder import Coding
from routectl.formats.native.container import write_native
from routectl.routes import Routes
import resource
count, codec, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
def samples():
    for i in range(count):
        rng = np.random.default_rng(i)
        ids = rng.integers(0, 16, (4096, 8, 8)) + np.arange(0, 128, 16)
        yield Sample(Routes(ids.astype(np.uint8), tuple(range(8)), 128), str(i))
meta = DumpMeta("", "", tuple(range(8)), 128, 8)
write_native(samples(), meta, path, force=True, coding=Coding(codec))
from routectl.formats.native.container import open_native
for sample in open_native(path):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dump(tmp_path):
    """Writing and reading 64 MiB of ids takes at most 64 MB more than one row group's does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    peaks = []
    for count in (16, 256):  # 4 MiB are a row group
        done = subprocess.run(
            [sys.executable, "-c", WRITER, str(count), "packed", str(tmp_path / "x.parquet")],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        peaks.append(int(done.stdout) << 10)
    assert peaks[1] - peaks[0] < 64 << 20


@pytest.mark.slow
def test_killed_at_any_instant_the_file_is_absent_or_whole(tmp_path):
    """A convert that SIGKILL ends leaves no file under the name, or the whole one."""
    path = tmp_path / "x.parquet"
    command = [
        sys.executable,
        "-m",
        "routectl",
        "convert",
        str(TINY / "vllm.bf16/samples.jsonl"),
        "--save",
        str(path),
        "--codec",
        "packed",
    ]
    subprocess.run(command, check=True, capture_output=True)  # compiles what is not compiled yet
    whole, began = path.read_bytes(), time.monotonic()
    subprocess.run([*command, "--force"], check=True, capture_output=True)
    took, found = time.monotonic() - began, []
    for share in np.linspace(0.2, 1.1, 10):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(took * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found.append(path.exists())
        assert not found[-1] or path.read_bytes() == whole
    assert not found[0]
