"""routectl pack and unpack: the folder that is written, and the way back."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import routectl
from routectl import Packing, Pipeline, Rank, open_dump
from routectl.formats.native.container import write_native
from support.dumps import make_dump, make_sample
from support.packs import Batch, expected_rows, routes_like
from support.shell import DUMPS, complaint, document, run, written

ROUND_TRIPS = {
    "slime": (
        "jsonl",
        "--framework slime --tp 2 --cp 2 --pp 2 --dp 2 --ep 4 --layout decoder-layers=6 "
        "--max-tokens-per-gpu 512",
    ),
    "verl": ("native", "--framework verl --tp 2 --cp 4 --layout fp8=blockwise"),
    "megatron": ("native", "--framework megatron --pp 5 --cp 2 --ep 8"),
    "bshd": ("native", "--framework nemo-rl --layout form=bshd --tp 2 --cp 2 --dp 3"),
    "b-major": ("jsonl", "--framework verl --layout form=bshd-b-major --cp 2 --layout seq-len=256"),
    "miles": (
        "trainer",
        "--framework miles-allgather --dp 3 --balance karmarkar-karp "
        "--max-tokens-per-gpu 2048 --cp 2 --layout pad-multiplier=4",
    ),
    "prime-rl": ("trainer", "--framework prime-rl --cp 3 --tp 2"),
    "all-tokens": ("whole", "--framework skyrl --pp 2 --vpp 3 --cp 2"),
    "minus-one": ("start", "--framework relax-vl --padding minus-one --cp 2 --tp 2"),
    "allowed": ("sglang", "--framework relax --allow-missing --cp 4 --layout min-local-rows=1100"),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_there_and_back(capsys, tmp_path, name):
    """What pack wrote verifies, and unpacks to a dump in which no row differs."""
    source, options = ROUND_TRIPS[name]
    folder, again = tmp_path / "replay", tmp_path / "again.parquet"
    model = ["--model", DUMPS["config"].with_name("qwen3_moe.json")] if source == "whole" else []
    packed = run(capsys, "pack", DUMPS[source], "--save", folder, *options.split(), *model)
    assert packed.code == 0, packed.err
    assert packed.out.startswith("PACKED")
    count = len(list(folder.rglob("*.safetensors")))
    *found, wrote = packed.err.splitlines()
    assert wrote == f"routectl: wrote {folder}: {count} files"
    assert all(line.startswith(f"routectl: model of {DUMPS[source]} from ") for line in found)
    checked = run(capsys, "verify", folder, "--against", DUMPS[source], *model)
    assert (checked.code, checked.err.splitlines()) == (0, found)
    assert checked.out.startswith("VERIFIED")
    unpacked = run(capsys, "unpack", folder, "--save", again)
    assert (unpacked.code, unpacked.out) == (0, "")
    assert unpacked.err == f"routectl: wrote {again}: {len(open_dump(again))} samples\n"
    same = document(capsys, "diff", DUMPS[source], again, *model)
    assert same["rows_mismatched"] == same["order_mismatches"] == 0
    assert same["coverage_rate"] == 1
    assert written(tmp_path) == [
        "again.parquet",
        "replay",
        *(f"replay/{path}" for path in written(folder)),
    ]


@pytest.fixture
def holed(tmp_path):
    """A native file with starts, samples without routes, and rows missing in some layers."""
    import random

    rng = random.Random(11)
    layers, kind = (1, 2, 4), (3, 300, None)
    routes = [
        routes_like(rng, n, layers, kind, start, share)
        for n, start, share in ((7, 0, 0.4), (5, 3, 0), (6, 2, 0.9), (8, 0, 0))
    ]
    samples = [make_sample(held, f"s{i}", [1] * 4, [2] * 5) for i, held in enumerate(routes)]
    samples.insert(2, make_sample(None, "none", [1], [2]))
    path = tmp_path / "holed.parquet"
    dump = make_dump(samples, layers, 300, 3)
    write_native(dump, dump.meta, path, force=False)
    return path


@pytest.mark.parametrize("options", ["--pp 5", "--pp 5 --rank pp=2", "--cp 2 --tp 2", "--dp 3"])
def test_missing_rows_in_some_layers(capsys, tmp_path, holed, options):
    """Rows that are missing in some layers are masked in those, and missing again afterwards."""
    folder, again = tmp_path / "replay", tmp_path / "again.parquet"
    options = ["--framework", "megatron", *options.split()]
    assert run(capsys, "pack", holed, "--save", folder, "--allow-missing", *options).code == 0
    found = document(capsys, "verify", folder, "--against", holed)
    assert found["ok"]
    if "--rank" in options:
        assert found["rows"] == found["routes"]
        return
    assert run(capsys, "unpack", folder, "--save", again).code == 0
    for old, new in zip(open_dump(holed), open_dump(again), strict=True):
        assert (old.sample_id, old.num_tokens) == (new.sample_id, new.num_tokens)
        if old.routes is None:
            assert new.routes is None
            continue
        assert (old.routes.start, old.routes.stop) == (new.routes.start, new.routes.stop)
        assert np.array_equal(old.routes.ids_TLK, new.routes.ids_TLK)
        assert np.array_equal(old.routes.missing_TL, new.routes.missing_TL) or (
            old.routes.missing_TL is new.routes.missing_TL is None
        )


class TestFolder:
    """The manifest, the tensors and the samples of one folder."""

    SIZES = "--tp 2 --cp 2 --pp 2 --vpp 2 --dp 2 --ep 4 --max-tokens-per-gpu 600"
    KEYS = ("--layout", "decoder-layers=8,pad-multiplier=4")
    OPTIONS = ("--framework", "slime", *SIZES.split(), *KEYS)

    @pytest.fixture
    def packed(self, capsys, tmp_path):
        """The folder and what --json printed of it."""
        return tmp_path / "r", document(
            capsys, "pack", DUMPS["native"], "--save", tmp_path / "r", *self.OPTIONS
        )

    def test_manifest(self, packed):
        """The manifest says what was packed, by which version, and each file's true SHA-256."""
        folder, printed = packed
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        assert manifest.pop("schema") == "routectl.pack/1"
        assert printed == manifest or printed == {"schema": "routectl.pack/1", **manifest}
        assert manifest["routectl"] == routectl.__version__
        assert manifest["source"] == {
            "path": str(DUMPS["native"]),
            "format": "native",
            "engine": "vllm",
            "engine_version": "0.32.0",
            "file_bytes": DUMPS["native"].stat().st_size,
        }
        dump = open_dump(DUMPS["native"])
        layout = manifest["layout"]
        assert layout["lens"] == [sample.num_tokens for sample in dump]
        assert [layout[n] for n in ("framework", "form", "tp", "cp", "dp", "pad_multiplier")] == [
            "slime",
            "thd",
            2,
            2,
            2,
            4,
        ]
        assert (layout["pipeline"]["num_layers"], layout["pipeline"]["vpp"]) == (8, 2)
        assert manifest["tensors"] == {
            "dtype": "int32",
            "padding": "spread",
            "ep": 4,
            "num_experts": 32,
            "top_k": 4,
            "layers": [1, 2, 3, 4],
        }
        named = [
            [[(e["layer"], e["ordinal"]) for e in chunk] for chunk in stage]
            for stage in manifest["stages"]
        ]
        assert named == [[[(1, 0)], [(4, 3)]], [[(2, 1), (3, 2)], []]]
        assert manifest["only"] == {}
        assert manifest["extents"] == [[s.routes.start, s.routes.stop] for s in dump]
        for file in manifest["files"]:
            data = (folder / file["path"]).read_bytes()
            assert file["bytes"] == len(data)
            assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["bytes"] == sum(file["bytes"] for file in manifest["files"])
        named = {file["path"] for file in manifest["files"]}
        assert len(named) == len(manifest["files"])
        assert named | {"manifest.json", "samples.parquet"} == {
            str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
        }

    def test_plan(self, packed):
        """Every sample is in one micro-batch; none has more tokens than the ranks take."""
        _, manifest = packed
        lens = manifest["layout"]["lens"]
        steps = manifest["layout"]["plan"]["micro_batches"]
        assert len(steps) > 2
        assert sorted(i for step in steps for group in step for i in group) == list(range(46))
        assert all(sum(lens[i] for i in group) <= 1200 for step in steps for group in step)
        assert {len(step) for step in steps} == {2}

    def test_tensors(self, packed):
        """A file has a tensor for each MoE layer of its stage, the mask, and cu_seqlens."""
        folder, manifest = packed
        dump = open_dump(DUMPS["native"])
        held = [sample.routes for sample in dump]
        pipeline = Pipeline(8, 2, 2)
        rows = filler = 0
        for file in manifest["files"]:
            samples = manifest["layout"]["plan"]["micro_batches"][file["micro_batch"]][file["dp"]]
            packing = Packing(
                [dump[i].num_tokens for i in samples], "slime", 2, 2, 4, pipeline=pipeline
            )
            batch = Batch(packing, [held[i] for i in samples], (1, 2, 3, 4), 32, 4, None)
            rank = Rank(file["cp"], file["tp"], file["pp"])
            layers, expected = expected_rows(batch, rank)
            assert file["path"] == (
                f"dp{file['dp']}-cp{rank.cp}-tp{rank.tp}-pp{rank.pp}/"
                f"mb{file['micro_batch']:04d}.safetensors"
            )
            arrays = load_file(folder / file["path"])
            names = [f"layer.{n}" for n in layers]
            assert set(arrays) == {*names, "mask", "cu_seqlens", "cu_seqlens_padded"}
            for name, wanted in zip(names, expected, strict=True):
                assert arrays[name].dtype == np.int32
                assert arrays[name].shape == (packing.num_rows(0), 4)
                real = [row is not None for row in wanted]
                assert arrays["mask"].tolist() == real
                assert arrays[name][real].tolist() == [row for row in wanted if row is not None]
            assert arrays["mask"].dtype == np.bool_
            for name in ("cu_seqlens", "cu_seqlens_padded"):
                assert arrays[name].dtype == np.int32
                assert arrays[name].tolist() == getattr(packing, name).tolist()
            assert file["rows"] == packing.num_rows(0)
            rows += file["rows"] * (rank.pp == 0)
            filler += int((~arrays["mask"]).sum()) * (rank.pp == 0)
        assert (manifest["rows"], manifest["padding_rows"]) == (rows, filler)

    def test_samples(self, packed):
        """samples.parquet has all of the dump but its routes."""
        folder, _ = packed
        dump, kept = open_dump(DUMPS["native"]), open_dump(folder / "samples.parquet")
        assert kept.keys == dump.keys
        assert kept.meta.layers_L == dump.meta.layers_L
        for old, new in zip(dump, kept, strict=True):
            assert new.routes is None
            assert np.array_equal(old.token_ids, new.token_ids)
            assert np.array_equal(old.logprobs, new.logprobs)
            names = ("group_id", "finish_reason", "cached_tokens", "weight_spans", "num_tokens")
            assert all(getattr(old, name) == getattr(new, name) for name in names)


def test_show_says_whose_folder_it_is(capsys, tmp_path):
    """show of what pack wrote says so, and which command makes a dump of it."""
    assert run(capsys, "pack", DUMPS["native"], "--save", tmp_path / "r").code == 0
    done = run(capsys, "show", tmp_path / "r")
    assert done.code == 0
    assert f"{tmp_path / 'r'}: pack wrote it: samples.parquet is shown" in done.err
    assert "unpack makes a dump of both" in done.err


def test_a_packed_folder_is_no_dump(capsys, tmp_path):
    """Whatever takes a dump says of what pack wrote what it is, and which command reads it."""
    folder, dump = tmp_path / "r", DUMPS["native"]
    assert run(capsys, "pack", dump, "--save", folder).code == 0
    lines = (
        ("check", folder),
        ("diff", folder, dump),
        ("diff", dump, folder),
        ("convert", folder, "--save", tmp_path / "x.parquet"),
        ("staleness", dump, "--version-map", "=v0", "--at", f"v0={folder}"),
        ("pack", folder, "--save", tmp_path / "again"),
        ("verify", folder, "--against", folder),
    )
    for line in lines:
        said = complaint(capsys, *line).splitlines()
        assert said[0] == f"routectl: {folder}: a folder that routectl pack wrote, not a dump"
        assert "routectl unpack FOLDER --save NAME.parquet makes a dump of it" in said[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_some_ranks_only(capsys, tmp_path):
    """--rank writes those ranks' files, which verify as some ranks and cannot be unpacked."""
    layout = ("--framework", "verl", "--tp", "2", "--cp", "2")
    whole, some = tmp_path / "whole", tmp_path / "some"
    all_of = document(capsys, "pack", DUMPS["native"], "--save", whole, *layout)
    part = document(capsys, "pack", DUMPS["native"], "--save", some, *layout, "--rank", "cp=1,tp=0")
    assert [file["path"] for file in part["files"]] == ["dp0-cp1-tp0-pp0/mb0000.safetensors"]
    assert part["files"][0] in all_of["files"]
    assert part["only"] == {"cp": 1, "tp": 0}
    assert written(some) == [
        "dp0-cp1-tp0-pp0",
        "dp0-cp1-tp0-pp0/mb0000.safetensors",
        "manifest.json",
        "samples.parquet",
    ]
    found = document(capsys, "verify", some, "--against", DUMPS["native"])
    assert (found["ok"], found["routes"]) == (True, None)
    said = complaint(capsys, "unpack", some, "--save", tmp_path / "again.parquet")
    assert "3 of the ranks' files are not there, the first is dp0-cp0-tp0-pp0/mb0000" in said
    narrowed = document(capsys, "verify", whole, "--against", DUMPS["native"], "--rank", "tp=1")
    assert (narrowed["ok"], narrowed["routes"]) == (True, None)
    assert 0 < narrowed["rows"] < 22444


@pytest.mark.parametrize(("rank", "read"), [("pp=3", {1, 3}), ("pp=1", {1}), ("pp=0", {1})])
def test_only_a_stages_columns_are_read(capsys, monkeypatch, tmp_path, rank, read):
    """Of a native file only the stage's layers are read, and the first, for the lengths."""
    columns = []
    native = pq.ParquetFile.read_row_group

    def spy(file, group, columns_=None, **more):
        columns.extend(columns_)
        return native(file, group, columns_, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    options = ("--framework", "megatron", "--pp", "5", "--rank", rank)
    assert run(capsys, "pack", DUMPS["native"], "--save", tmp_path / "r", *options).code == 0
    layers = {int(name[6:]) for name in columns if name.startswith("layer_")}
    assert columns
    assert layers == read
