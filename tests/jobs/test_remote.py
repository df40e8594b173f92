"""Every verb on dumps in a bucket: the answers of local ones, by as few bytes as it takes."""

import json

import pytest

from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from support.recordings import DEEPSEEK, FIXTURES
from support.shell import complaint, document, run
from support.tiny_rl import ENGINE, TINY

JSONL = DEEPSEEK / "samples.jsonl"
NATIVE = FIXTURES / "golden" / "deepseek_v3.parquet"


def same(one, other, *ours):
    """Two documents, but for the places of their dumps."""
    texts = [json.dumps(each) for each in (one, other)]
    for local, remote in ours:
        texts = [text.replace(str(remote), "AT").replace(str(local), "AT") for text in texts]
    return texts[0] == texts[1]


@pytest.fixture
def dumps(bucket):
    """The recorded dump in a bucket, as text and native, with its model beside."""
    bucket.put("d/meta.json", DEEPSEEK / "meta.json")
    bucket.put("d/samples.jsonl", JSONL)
    bucket.put("n/deepseek_v3.parquet", NATIVE)
    return bucket


def test_show_check_and_diff_say_what_they_say_of_files(dumps, capsys):
    """show, check and diff of a bucket's dumps print the documents of local ones."""
    pairs = ((JSONL, dumps / "d/samples.jsonl"), (NATIVE, dumps / "n/deepseek_v3.parquet"))
    meta = (DEEPSEEK / "meta.json", dumps / "d/meta.json")
    for verb, (local, remote) in zip(("show", "check"), pairs, strict=True):
        here, there = (document(capsys, verb, at) for at in (local, remote))
        assert same(here, there, (local, remote), meta)
    here = document(capsys, "diff", *[local for local, _ in pairs])
    there = document(capsys, "diff", *[remote for _, remote in pairs])
    assert same(here, there, *pairs, meta)


def test_folders_globs_and_options_behind_a_uri(dumps, capsys):
    """A folder, a glob and PATH::key= are taken apart as local ones are."""
    counts = [
        document(capsys, "show", at)["dump"]["samples"]
        for at in (dumps / "d", dumps / "d/*.jsonl", dumps / "**/*.parquet")
    ]
    assert counts == [46, 46, 46]
    found = document(capsys, "show", dumps / "n/deepseek_v3.parquet::format=native")
    assert found["dump"]["samples"] == 46
    model = dumps / "d/meta.json"
    dumps.put("alone/x.jsonl", JSONL)
    assert document(capsys, "show", dumps / "alone/x.jsonl", "--model", model)["dump"]


@pytest.mark.parametrize(
    "name",
    [
        *("x.parquet", "x.jsonl"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("x.npz", "x.safetensors")),
    ],
)
def test_what_is_converted_there_is_read_from_there(dumps, capsys, tmp_path, name):
    """convert writes the bytes of a local file, refuses them the second time, and reads them."""
    source = dumps / "n/deepseek_v3.parquet"
    assert run(capsys, "convert", source, "--save", tmp_path / name).code == 0
    assert run(capsys, "convert", source, "--save", dumps / name).code == 0
    if name == "x.parquet":  # names its source
        assert document(capsys, "diff", dumps / name, tmp_path / name)["rows_mismatched"] == 0
    else:
        assert dumps.bytes(name) == (tmp_path / name).read_bytes()
    assert "already exists" in complaint(capsys, "convert", source, "--save", dumps / name)
    if name == "x.parquet":
        again = ("--save", dumps / name, "--force", "--verify", "--jobs", "2")
        done = run(capsys, "convert", source, *again)
        assert done.code == 0, done.err
    if name != "x.jsonl":
        assert run(capsys, "diff", dumps / name, source, "--allow-unmatched").code == 0


def test_reports_are_written_there(dumps, capsys):
    """-o and --html take a URI, and report reads what -o wrote."""
    source, saved, page = dumps / "d/samples.jsonl", dumps / "r/a.json", dumps / "r/a.html"
    done = run(capsys, "check", source, "-o", saved, "--html", page)
    assert done.code == 0, done.err
    assert f"wrote {saved}" in done.err
    assert json.loads(dumps.bytes("r/a.json"))["schema"].startswith("routectl.check/")
    assert b"<html" in dumps.bytes("r/a.html")
    assert run(capsys, "report", saved).code == 0
    assert "already exists" in complaint(capsys, "check", source, "-o", saved)


def test_a_layer_of_a_remote_file_moves_its_columns_alone(bucket, tmp_path):
    """Reading one layer of a native file moves that layer's column, and not the others'."""
    dump = open_dump(TINY / "routes_v0.fp32.npz")
    path = tmp_path / "x.parquet"
    write_native(dump, dump.meta, path, force=False)
    remote = open_dump(bucket.put("x.parquet", path))
    bucket.proxy.requests.clear()
    layer = remote.meta.layers_L[0]
    one = remote.select(layers=(layer,))
    assert sum(len(sample.routes.ids_TLK) for sample in one) > 0
    import pyarrow.parquet as pq

    footer = pq.ParquetFile(path).metadata
    sizes = {
        footer.row_group(g).column(c).path_in_schema: 0
        for g in range(footer.num_row_groups)
        for c in range(footer.num_columns)
    }
    for g in range(footer.num_row_groups):
        for c in range(footer.num_columns):
            column = footer.row_group(g).column(c)
            sizes[column.path_in_schema] += column.total_compressed_size
    layers = {name for name in sizes if name.startswith("layer_")}
    others = sum(size for name, size in sizes.items() if name not in layers)
    wanted = sizes[f"layer_{layer:03d}"] + others
    moved = sum(r.moved for r in bucket.proxy.requests if r.range)
    assert moved <= wanted + (16 << 10) * footer.num_row_groups
    assert moved < path.stat().st_size


def test_pack_verify_and_unpack_there(bucket, capsys, tmp_path):
    """A folder is packed into a bucket, verified and unpacked from it, as a local one is."""
    source = bucket.put("x.jsonl", ENGINE)
    model = ["--model", bucket.put("config.json", TINY / "config.json")]
    layout = ["--cp", "2"]
    done = run(capsys, "pack", source, *model, *layout, "--save", bucket / "packed")
    assert done.code == 0, done.err
    assert bucket.keys()[-3:-1] == ["packed/manifest.json", "packed/samples.parquet"]
    assert run(capsys, "verify", bucket / "packed", "--against", source, *model).code == 0
    again = bucket / "again.parquet"
    assert run(capsys, "unpack", bucket / "packed", "--save", again).code == 0
    assert run(capsys, "diff", again, source, *model).code == 0


def test_faults_are_one_line_and_write_nothing(dumps, capsys):
    """No bucket, an unknown scheme and a damaged object: exit 2, one line, no key and no secret."""
    before = dumps.keys()
    dumps.put("bad.parquet", b"PAR1" + bytes(1000) + b"PAR1")
    for source, words in (
        ("s3://no-such-bucket/x.jsonl", "there is no bucket no-such-bucket"),
        ("nothing://x/y.jsonl", "nothing://: not known"),
        (dumps / "no.jsonl", "no such object"),
        (dumps / "bad.parquet", "damaged"),
    ):
        told = complaint(capsys, "convert", source, "--save", dumps / "new/x.parquet")
        assert words in told
        assert "topsecret" not in told
    assert dumps.keys() == sorted([*before, "bad.parquet"])


def test_a_folder_in_a_bucket_is_watched(dumps, capsys):
    """watch --once looks at the dumps of a bucket's folder."""
    done = run(capsys, "watch", dumps / "n", "--once", "--settle", "0", "--json")
    assert done.code == 0, done.err
    assert "deepseek_v3.parquet" in done.out


@pytest.mark.slow
@pytest.mark.models
def test_a_checkpoint_in_a_bucket_is_run(bucket, capsys, tiny_checkpoints, tmp_path):
    """recompute reads weights and samples from a bucket, and writes there what it writes here."""
    local, source = tiny_checkpoints["v0"], ENGINE
    remote = bucket.put_folder("v0", local)
    at = tmp_path / "v0.parquet"
    assert run(capsys, "recompute", local, source, "--save", at).code == 0
    there = bucket / "v0.parquet"
    done = run(capsys, "recompute", remote, bucket.put("x.jsonl", ENGINE), "--save", there)
    assert done.code == 0, done.err
    found = document(capsys, "diff", there, at)
    assert found["rows_mismatched"] == 0 < found["rows"]


def test_a_checkpoint_in_a_bucket_is_read_by_ranges(bucket, capsys, tiny_checkpoints, tmp_path):
    """show, and a recompute, take a checkpoint's folder in a bucket; tensors are read by ranges."""
    local = tiny_checkpoints["v0"]
    remote = bucket.put_folder("v0", local)
    shown = [document(capsys, "show", at) for at in (local, remote)]
    assert same(*shown, (local, remote))
    moved = sum(r.moved for r in bucket.proxy.requests if "safetensors" in r.path)
    assert moved < (local / "model.safetensors").stat().st_size // 2
