"""Partials: what is merged is the whole to the byte, and what does not belong together is told."""

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import routectl
from routectl.errors import FormatError
from routectl.formats.native.container import write_native
from routectl.jobs.diff.request import DiffRequest
from routectl.jobs.progress import SILENT
from routectl.jobs.shards.crew import Crew
from routectl.jobs.shards.partials import counted_in, read_partial, sealed
from routectl.jobs.shards.parting import write_partial
from routectl.jobs.shards.share import ShardOptions
from support.adding import Adding, Sum
from support.shell import complaint, run
from support.tiny_rl import ENGINE, TINY

V0 = TINY / "routes_v0.margins.parquet"


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Two small native files of the same 12 samples; the first has one that the second lacks."""
    folder = tmp_path_factory.mktemp("sides")
    engine, v0 = routectl.open_dump(ENGINE), routectl.open_dump(V0)
    old, new = folder / "old.parquet", folder / "new.parquet"
    write_native(list(engine.select(samples=range(13))), engine.meta, old, force=False)
    names = {key.sample_id for key in engine.keys[:12]}
    chosen = [i for i, key in enumerate(v0.keys) if key.sample_id in names]
    write_native(list(v0.select(samples=chosen[::-1])), v0.meta, new, force=False)
    return old, new


def parts_of(capsys, folder, count, *asked):
    """The partials of a command line that is asked in so many parts."""
    paths = [folder / f"part{n}" for n in range(1, count + 1)]
    for n, path in enumerate(paths, 1):
        told = run(capsys, *asked, "--shard", f"{n}/{count}", "--partial", path, "--force")
        assert (told.code, told.out) == (0, "")
        assert told.err == f"routectl: wrote {path}: part {n} of {count}\n"
    return paths


@pytest.mark.parametrize("count", [1, 2, 5, 15])
def test_merge_answers_as_the_whole(capsys, tmp_path, sides, count):
    """Text, JSON and files of merged parts are those of one run, with its exit code: parts that
    have nothing too, in any order.
    """
    asked = ("diff", *sides, "--rerun", sides[0], "--fail-over", "mismatch@*:1%")
    parts = parts_of(capsys, tmp_path, count, *asked)
    order = np.random.default_rng(count).permutation(count)
    merged = [parts[n] for n in order]
    for voice in (("--json",), ("--summary",), ()):
        whole, found = run(capsys, *asked, *voice), run(capsys, "merge", *merged, *voice)
        assert (found.out, found.code) == (whole.out, whole.code)
        assert whole.code == 1
    for suffix in (".json", ".html"):
        names = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}"
        run(capsys, *asked, "-o", names[0])
        run(capsys, "merge", *merged, "-o", names[1])
        assert names[0].read_bytes() == names[1].read_bytes()


def test_files_of_a_folder_are_cut_too(capsys, tmp_path, sides):
    """Parts of a folder of files, cut where no file ends, add up to the whole."""
    dump = routectl.open_dump(sides[0])
    folder = tmp_path / "old"
    folder.mkdir()
    for n, cut in enumerate((range(5), range(5, 6), range(6, 13))):
        write_native(list(dump.select(samples=cut)), dump.meta, folder / f"{n}.parquet", force=True)
    asked = ("diff", folder, sides[1])
    parts = parts_of(capsys, tmp_path, 4, *asked)
    assert run(capsys, "merge", *parts, "--json").out == run(capsys, *asked, "--json").out


def test_a_part_alone_has_its_samples(capsys, tmp_path, sides):
    """--shard without --partial answers for that part, and results of parts add up in Python."""
    counted = [routectl.diff(*sides, shard=f"{n}/3") for n in (1, 2, 3)]
    whole = routectl.diff(*sides)
    assert [r.samples.compared for r in counted] == [4, 4, 4]
    added = counted[2] + counted[0] + counted[1]
    assert added.to_dict() == {k: v for k, v in whole.to_dict().items() if k != "asked"}
    told = run(capsys, "diff", *sides, "--shard", "2/3")
    assert "4 samples" in told.out
    assert told.out.splitlines()[0].endswith("; part 2 of 3")
    assert "part 2 of 3 alone; --partial PATH keeps it for merge" in told.err


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/2/3", "1/0", "-1/2"])
def test_a_shard_is_one_of_some(capsys, sides, shard):
    """What is no part is refused in one line."""
    assert "--shard" in complaint(capsys, "diff", *sides, f"--shard={shard}")


def test_what_does_not_belong_together_is_refused(capsys, tmp_path, sides):
    """Parts of another request, of other samples, one part twice, and parts that are missing."""
    asked = ("diff", *sides)
    first, second, third = parts_of(capsys, tmp_path, 3, *asked)
    told = complaint(capsys, "merge", first, third)
    assert "1 of 3 parts is missing: 2" in told
    told = complaint(capsys, "merge", first, second, first, third)
    assert f"part 1 of 3 is in {first} too" in told
    other = tmp_path / "other"
    run(capsys, *asked, "--eps", "0.5", "--shard", "2/3", "--partial", other)
    told = complaint(capsys, "merge", first, other, third)
    assert f"{other}: of another request than {first}: other eps" in told
    run(capsys, *asked, "--shard", "2/4", "--partial", other, "--force")
    assert "one of so many parts: 4" in complaint(capsys, "merge", first, other, third)
    less = tmp_path / "less.parquet"
    dump = routectl.open_dump(sides[0])
    old = sides[0].read_bytes()
    write_native(list(dump.select(samples=range(9))), dump.meta, less, force=True)
    try:
        sides[0].write_bytes(less.read_bytes())
        run(capsys, *asked, "--shard", "2/3", "--partial", other, "--force")
    finally:
        sides[0].write_bytes(old)
    told = complaint(capsys, "merge", first, other, third)
    assert f"{other}: counted of other samples than {first}" in told


def test_a_damaged_file_is_told(capsys, tmp_path, sides):
    """A part of which nothing can be read exits 2 with a line that names the file."""
    data = bytearray(sides[0].read_bytes())
    about = pq.ParquetFile(sides[0]).metadata.row_group(0)
    columns = [about.column(n) for n in range(about.num_columns)]
    begin = max(columns, key=lambda c: c.total_compressed_size).data_page_offset
    data[begin + 60 : begin + 90] = bytes(30)
    bad, path = tmp_path / "bad.parquet", tmp_path / "part"
    bad.write_bytes(bytes(data))
    told = complaint(capsys, "diff", bad, sides[1], "--partial", path)
    assert told.startswith(f"routectl: {bad}")
    assert not path.exists()


def test_what_could_be_counted_is_kept(capsys, tmp_path, sides):
    """Where a shard is damaged the partial has the others and names it, and merge says so."""
    path = tmp_path / "part"
    request = DiffRequest(
        old=str(sides[0]), new=str(sides[1]), share=ShardOptions(partial=path), crew=Crew(jobs=1)
    )
    work = Adding(tmp_path / "log", 5, bad=(1, 3))
    with pytest.raises(FormatError, match="number 1: damaged"):
        write_partial("diff", request, lambda: work, SILENT, told="numbers")
    partial = read_partial(path)
    assert partial.failed == ["number 1: damaged", "number 3: damaged"]
    assert counted_in(partial, Sum, path).total == 0 + 2 + 4
    told = complaint(capsys, "merge", path)
    assert f"{path}: part 1 was not counted whole: number 1: damaged" in told
    assert "--shard 1/1" in told


def test_every_bit_counts(capsys, tmp_path, sides):
    """A partial in which one bit is turned is refused, wherever that is."""
    (part,) = parts_of(capsys, tmp_path, 1, "diff", *sides)
    data, bad = part.read_bytes(), tmp_path / "bad"
    for at in range(0, 8 * len(data), 8 * len(data) // 40 + 1):
        turned = bytearray(data)
        turned[at // 8] ^= 1 << at % 8
        bad.write_bytes(turned)
        assert complaint(capsys, "merge", bad)


def test_a_glob(capsys, tmp_path, sides):
    """A glob that no shell expanded stands for the partials that it matches."""
    parts = parts_of(capsys, tmp_path, 3, "diff", *sides)
    whole = run(capsys, "merge", *parts, "--json").out
    assert run(capsys, "merge", f"{parts[0].parent}/*{parts[0].suffix}", "--json").out == whole
    assert "no partial matches" in complaint(capsys, "merge", tmp_path / "none" / "*.partial")


def damaged(path, **changes):
    """A partial with other fields."""
    return sealed(msgspec.structs.replace(read_partial(path), **changes))


def test_hostile_partials_are_refused(capsys, tmp_path, sides):
    """What is no partial, one of a later schema, sizes that lie, arrays that are none, requests
    with options that there are not: each is one line, exit 2.
    """
    (part,) = parts_of(capsys, tmp_path, 1, "diff", *sides)
    good = read_partial(part)
    raw = pa.decompress(good.body, decompressed_size=good.size, codec="zstd", asbytes=True)
    counted = msgspec.msgpack.decode(raw)
    array = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(("<i8", (1 << 40,), b"12345678")))
    objects = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(("|O", (1,), b"12345678")))
    small = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(("<i8", (1,), b"12345678")))

    def with_swaps(value):
        found = {**counted, "result": {**counted["result"]}}
        found["result"]["counts"] = {**found["result"]["counts"], "swaps_LS": value}
        data = msgspec.msgpack.encode(found)
        return damaged(part, size=len(data), body=pa.compress(data, codec="zstd", asbytes=True))

    bad = tmp_path / "bad"
    for data, said in (
        (b"", "an empty file"),
        (b"\x80", "no partial"),
        (part.read_bytes()[:-9], "no partial"),
        (damaged(part, schema="routectl.partial/2"), "expected routectl.partial/1"),
        (damaged(part, verb="os.system"), "expected check, diff, show"),
        (damaged(part, size=1 << 50), "damaged"),
        (damaged(part, size=3), "damaged"),
        (damaged(part, part=9), "damaged"),
        (damaged(part, body=b"nothing"), "damaged"),
        (damaged(part, request={"old": 3}), "damaged"),
        (damaged(part, request={**good.request, "no_such": 3}), "damaged"),
        (with_swaps(array), "damaged"),
        (with_swaps(objects), "damaged"),
        (with_swaps(small), "damaged"),
        (with_swaps("text"), "damaged"),
    ):
        bad.write_bytes(data)
        told = complaint(capsys, "merge", bad)
        assert said in told
        assert "bad" in told


def test_a_table_has_a_row_a_sample(capsys, tmp_path, sides):
    """-o NAME.parquet writes each compared sample in the order of OLD, as to_arrow has it, beside
    the report; other commands refuse it.
    """
    path = tmp_path / "samples.parquet"
    told = run(capsys, "diff", *sides, "-o", path)
    assert told.code == 1
    assert told.out == run(capsys, "diff", *sides).out
    assert f"wrote {path}" in told.err
    table, expected = pq.read_table(path), routectl.diff(*sides).to_arrow("samples")
    assert table.equals(expected, check_metadata=False)
    assert [f.metadata[b"unit"] for f in table.schema] == [
        f.metadata[b"unit"] for f in expected.schema
    ]
    assert table.num_rows == 12
    assert "already exists" in complaint(capsys, "diff", *sides, "-o", path)
    assert "a report is one of" in complaint(capsys, "show", sides[0], "-o", tmp_path / "x.parquet")
    told = complaint(capsys, "diff", *sides, "-o", tmp_path / "y.parquet", "--partial", "p")
    assert "--partial is written in place of a report" in told
