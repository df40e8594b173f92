"""What writes files: the same bytes as the commands, of paths and of dumps in memory."""

import pytest

import routectl
from routectl.errors import RoutectlError
from support.recordings import DEEPSEEK
from support.tiny_rl import ENGINE

DUMP = DEEPSEEK / "samples.jsonl"
SIX = {"tp": 2, "cp": 2}


def files_of(folder):
    """Every file below a folder with its bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(("name", "more"), [("x.parquet", {}), ("x.npz", {"missing": "zero"})])
def test_write_and_convert(tmp_path, name, more):
    """A dump in memory and its path are written as the request of the command writes the path."""
    routectl.run(routectl.ConvertRequest(src=str(DUMP), save=tmp_path / name, **more))
    assert routectl.write(routectl.open_dump(DUMP), tmp_path / f"a-{name}", **more)["samples"] == 46
    assert routectl.convert(DUMP, str(tmp_path / f"b-{name}"), **more)["samples"] == 46
    whole = (tmp_path / name).read_bytes()
    assert (tmp_path / f"a-{name}").read_bytes() == whole
    assert (tmp_path / f"b-{name}").read_bytes() == whole
    with pytest.raises(RoutectlError, match="exists"):
        routectl.convert(DUMP, tmp_path / name, **more)


def test_a_part_of_a_dump_is_written(tmp_path):
    """What a program selects or makes is written, and read again is the same."""
    part = routectl.open_dump(ENGINE).select(samples=[3, 5], layers=[1, 4])
    assert routectl.write(part, tmp_path / "part.parquet")["samples"] == 2
    back = routectl.diff(part, tmp_path / "part.parquet")
    assert (back.rows_mismatched, back.layers, back.verdict.exit_code) == (0, (1, 4), 0)


def test_pack_verify_and_unpack(tmp_path):
    """A folder of a dump in memory is that of its path; it is verified, and unpacked."""
    manifest = routectl.pack(DUMP, save=tmp_path / "mine", **SIX)
    assert (manifest["layout"]["tp"], manifest["layout"]["cp"]) == (2, 2)
    assert repr(manifest).startswith("<PackAnswer: PACKED  ")
    assert len(repr(manifest)) < 300
    dump = routectl.open_dump(DUMP)
    assert routectl.pack(dump, save=str(tmp_path / "held"), **SIX) == manifest
    assert files_of(tmp_path / "held") == files_of(tmp_path / "mine")
    found = routectl.verify(tmp_path / "mine", dump)
    assert found.ok
    assert found.to_dict()["routes_absent"] == 0
    assert "VERIFIED  22,444 rows" in repr(found)
    routectl.unpack(tmp_path / "mine", save=tmp_path / "back.parquet")
    assert routectl.diff(DUMP, tmp_path / "back.parquet").verdict.exit_code == 0


def test_keys_of_a_layout_are_keywords(tmp_path):
    """Where a command takes --layout each key is a keyword, after what ``layout`` says; of a folder
    without a manifest ``verify`` takes them so, and a name that is none is told the nearest."""
    whole, short = (routectl.layout([9, 17], form="bshd", seq_len=n) for n in (32, 24))
    assert (whole.form, whole.seq_len, short.seq_len) == ("bshd", 32, 24)
    later = routectl.layout([9, 17], layout={"form": "bshd", "seq-len": 32}, seq_len=24, fp8=None)
    assert later == short
    routectl.pack(DUMP, save=tmp_path / "x", framework="slime", **SIX)
    with pytest.raises(RoutectlError, match=r"framework has no effect: .*/manifest\.json"):
        routectl.verify(tmp_path / "x", DUMP, framework="slime")
    (tmp_path / "x" / "manifest.json").unlink()
    assert routectl.verify(tmp_path / "x", DUMP, framework="slime", **SIX).ok
    said = {"layout": "framework=verl,form=thd", "framework": "slime", **SIX}
    assert routectl.verify(tmp_path / "x", DUMP, **said).ok
    with pytest.raises(TypeError, match="'framwork' is not known: did you mean framework"):
        routectl.verify(tmp_path / "x", DUMP, framwork="slime")
    with pytest.raises(TypeError, match="'framework' is not known"):
        routectl.convert(DUMP, tmp_path / "y.parquet", framework="slime")


def test_a_layout_and_its_tensors(tmp_path):
    """``layout`` measures a dump; ``pack`` with it gives tensors, of paths as of dumps."""
    dump = routectl.open_dump(DUMP).select(samples=[0, 1, 2])
    routectl.write(dump, tmp_path / "three.parquet")
    packing = routectl.layout(tmp_path / "three.parquet", framework="slime", **SIX)
    assert packing.lens == routectl.layout(dump, framework="slime", **SIX).lens
    assert packing.lens == tuple(sample.num_tokens for sample in dump)
    assert routectl.layout([9, 17], framework="slime").lens == (9, 17)
    rank = routectl.Rank(cp=1, tp=0)
    mine = routectl.pack(tmp_path / "three.parquet", packing, rank)
    theirs = routectl.pack([sample.routes for sample in dump], packing, rank)
    assert (mine.ids_LRK == theirs.ids_LRK).all()
    assert (mine.mask == theirs.mask).all()
    with pytest.raises(TypeError, match="expected a packing, or save=FOLDER"):
        routectl.pack(dump)


def test_tensors_are_unpacked_as_before():
    """``unpack`` of tensors in memory is the inverse of ``pack``."""
    dump = routectl.open_dump(DUMP).select(samples=[0, 1])
    packing = routectl.layout(dump, framework="slime", tp=2)
    ranks = [routectl.Rank(tp=0), routectl.Rank(tp=1)]
    parts = [(rank, routectl.pack(dump, packing, rank)) for rank in ranks]
    back = routectl.unpack(parts, packing, dump.meta.layers_L, dump.meta.num_experts)
    for sample, routes in zip(dump, back, strict=True):
        assert (sample.routes.ids_TLK == routes.ids_TLK).all()


@pytest.mark.models
def test_recompute(tmp_path, tiny_checkpoints):
    """A checkpoint's routes for a dump in memory are those for its path."""
    part = routectl.open_dump(ENGINE).select(samples=[0, 1, 2])
    routectl.write(part, tmp_path / "part.parquet")
    asked = {"dtype": "float32", "threads": 1}
    v1 = tiny_checkpoints["v1"]
    done = routectl.recompute(v1, part, tmp_path / "held.parquet", **asked)
    assert done.files == {"free": tmp_path / "held.parquet"}
    routectl.recompute(str(v1), tmp_path / "part.parquet", tmp_path / "path.parquet", **asked)
    assert routectl.diff(tmp_path / "held.parquet", tmp_path / "path.parquet").rows_mismatched == 0
