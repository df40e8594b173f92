"""routectl pack, --verify, --explain and unpack on recorded dumps."""

import json
import shutil

import numpy as np
import pytest
from building import DEEPSEEK, FIXTURES
from safetensors.numpy import load_file, save_file

from routectl.cli.main import main

DUMP = str(DEEPSEEK / "samples.jsonl")
STARTED = next(FIXTURES.glob("recordings/vllm*/*.start/samples.jsonl"), None)
SIZES = ["--tp", "2", "--cp", "2"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    code = main([str(a) for a in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("framework", ["verl", "slime", "miles", "prime-rl", "megatron"])
def test_pack_verify_unpack_diff(capsys, tmp_path, framework):
    """What pack writes verifies, and unpack gives back the same dump."""
    options = ["--framework", framework, "--dp", "2", "--max-tokens-per-gpu", "512", *SIZES]
    stages = ["--pp", "2", "--decoder-layers", "6"]
    assert run(capsys, "pack", DUMP, "-o", tmp_path / "r", *options, *stages)[0] == 0
    code, out, _ = run(capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["rows"], found["routes"]) == (0, True, 22444, 22444)
    assert run(capsys, "unpack", tmp_path / "r", "-o", tmp_path / "b.parquet")[0] == 0
    assert run(capsys, "diff", DUMP, tmp_path / "b.parquet")[0] == 0


def test_a_wrong_id_is_found(capsys, tmp_path):
    """One wrong expert in one row is exit 1, with its place."""
    run(capsys, "pack", DUMP, "-o", tmp_path / "r", *SIZES)
    path = tmp_path / "r" / "dp0-cp1-tp0-pp0" / "mb0000.safetensors"
    tensors = load_file(path)
    row = int(np.flatnonzero(tensors["mask"])[3])
    tensors["layer.2"][row, 0] = next(e for e in range(32) if e not in tensors["layer.2"][row])
    save_file(tensors, path)
    code, out, _ = run(capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP, "--json")
    found = json.loads(out)
    assert (code, found["rows_wrong"]) == (1, 1)
    assert (found["examples"][0]["layer"], found["examples"][0]["row"]) == (2, row)


def test_the_true_layout_is_named(capsys, tmp_path):
    """Contiguous tensors declared as zigzag: the suspect is verl-contiguous."""
    options = ["--framework", "verl-contiguous", "--sample-multiple", "8", *SIZES]
    run(capsys, "pack", DUMP, "-o", tmp_path / "r", *options)
    (tmp_path / "r" / "manifest.json").unlink()
    code, out, _ = run(
        capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP, *SIZES, "--json"
    )
    assert code == 1
    assert json.loads(out)["rows_wrong"] > 10_000


def test_rows_off_by_one_are_named(capsys, tmp_path):
    """Tensors late by one token: the suspect says so."""
    run(capsys, "pack", DUMP, "-o", tmp_path / "r", "--framework", "verl")
    path = tmp_path / "r" / "dp0-cp0-tp0-pp0" / "mb0000.safetensors"
    tensors = load_file(path)
    save_file({n: np.roll(t, 1, 0) if "layer" in n else t for n, t in tensors.items()}, path)
    code, out, _ = run(capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP, "--json")
    assert (code, json.loads(out)["suspects"][0]["shift"]) == (1, -1)


def test_a_rank_that_is_gone(capsys, tmp_path):
    """A deleted rank's file is named, its routes are absent, and unpack refuses."""
    run(capsys, "pack", DUMP, "-o", tmp_path / "r", *SIZES)
    shutil.rmtree(tmp_path / "r" / "dp0-cp0-tp1-pp0")
    code, out, _ = run(capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP, "--json")
    found = json.loads(out)
    assert code == 1
    assert len(found["absent_files"]) == 1
    assert found["routes_absent"] > 0
    assert run(capsys, "unpack", tmp_path / "r", "-o", tmp_path / "b.parquet")[0] == 2


def test_one_rank(capsys, tmp_path):
    """--rank writes that rank's files only, and they verify."""
    run(capsys, "pack", DUMP, "-o", tmp_path / "r", *SIZES, "--rank", "cp=1,tp=0")
    assert [p.parent.name for p in (tmp_path / "r").rglob("mb*")] == ["dp0-cp1-tp0-pp0"]
    assert run(capsys, "pack", "--verify", tmp_path / "r", "--against", DUMP)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DUMP, "--framework", "deepspeed"], "framework 'deepspeed' is not known"),
        ([DUMP, "--cp", "2", "--sample-multiple", "6"], "6 is not a multiple of 4"),
        ([DUMP, "--pp", "2", "--decoder-layers", "5"], "5 layers do not divide among 2"),
        ([DUMP, "--context", "64"], "--context is 64"),
        ([DUMP, "--framework", "prime-rl", "--padding", "minus-one"], "dtype uint8 has no -1"),
        ([DUMP, "--rank", "xp=1"], "expected some of dp, cp, tp, pp"),
        ([DUMP, "--padding", "ones"], "padding 'ones' is not known"),
        ([DUMP, "--ep", "5"], "does not divide by ep 5"),
        ([DUMP, "--explain"], "expected one of -o DIR, --explain and --verify DIR"),
    ],
)
def test_bad_input_writes_nothing(capsys, tmp_path, arguments, said):
    """One line with both numbers, exit 2, and nothing is left behind."""
    code, out, err = run(capsys, "pack", *arguments, "-o", tmp_path / "r")
    assert (code, out, said in err, "Traceback" in err) == (2, "", True, False), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(STARTED is None, reason="no recording with a start")
def test_missing_rows_are_refused(capsys, tmp_path):
    """Routes that begin late need -1, or --allow-missing."""
    code, _, err = run(capsys, "pack", STARTED, "-o", tmp_path / "r")
    assert (code, "would make routes up" in err) == (2, True)
    assert run(capsys, "pack", STARTED, "-o", tmp_path / "r", "--padding", "minus-one")[0] == 0
    assert run(capsys, "pack", "--verify", tmp_path / "r", "--against", STARTED)[0] == 0
