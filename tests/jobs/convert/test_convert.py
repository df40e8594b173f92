"""``routectl convert`` to native files: codecs, bases, checks, stdout."""

import gzip
import json
import re
import subprocess
import sys

import pytest

from routectl.cli.main import main
from routectl.codecs import CODECS
from routectl.formats import open_dump
from routectl.formats.targets.table import TARGETS
from routectl.jobs.convert import request as convert
from support.recordings import FIXTURES
from support.shell import complaint, document, run

TINY = FIXTURES / "tiny_rl"
DUMP, BASE = str(TINY / "vllm.bf16" / "samples.jsonl"), str(TINY / "routes_v0.fp32.npz")


def converted(capsys, *arguments):
    """The exit code and stderr of a convert."""
    src, *more = arguments
    code = main(["convert", *map(str, (src, "--save", *more))])
    return code, capsys.readouterr().err


def test_sizes_ratio_and_time_are_told(tmp_path, capsys):
    """stderr has the samples, both sizes, their ratio and the time; stdout has nothing."""
    path = tmp_path / "x.parquet"
    code = main(["convert", DUMP, "--save", str(path), "--codec", "packed", "--verify"])
    told = capsys.readouterr()
    size = path.stat().st_size
    pattern = r"routectl: wrote .*x\.parquet: 96 samples, verified; 889 kB to (\d+) kB "
    found = re.fullmatch(pattern + r"\(([\d.]+) x\) in [\d.]+ s\n", told.err)
    assert (code, told.out) == (0, "")
    assert found
    assert abs(int(found[1]) - size / 1000) <= 0.5
    assert abs(float(found[2]) - 888_900 / size) < 0.05


@pytest.mark.slow
def test_delta_is_a_tenth_and_diff_agrees(tmp_path, capsys):
    """Against transformers' routes, vLLM's take a twelfth of the recording, and diff finds no row
    that differs; that order is dropped is told, with the flag that keeps it.
    """
    path = tmp_path / "x.parquet"
    code, said = converted(capsys, DUMP, path, "--codec", "delta", "--base", BASE, "--verify")
    assert code == 0
    assert "codec delta does not keep the order of slots; --keep-order does" in said
    assert path.stat().st_size * 12 < (TINY / "vllm.bf16" / "samples.jsonl").stat().st_size
    assert main(["diff", DUMP, str(path)]) == 2  # the base is elsewhere: nothing opens it unasked
    assert main(["diff", DUMP, f"{path}::base={BASE}"]) == 0
    kept = tmp_path / "kept.parquet"
    arguments = (kept, "--codec", "delta", "--base", BASE, "--keep-order", "--verify")
    code, said = converted(capsys, f"{path}::base={BASE}", *arguments)
    assert code == 0
    assert "keep-order" not in said
    plain = tmp_path / "plain.parquet"
    assert converted(capsys, f"{path}::base={BASE}", plain, "--verify")[0] == 0
    assert open_dump(plain).keys == open_dump(DUMP).keys


@pytest.mark.slow
def test_pipes_go_both_ways(tmp_path):
    """``-`` as SRC is standard input: JSON lines go in, native comes out, and is read as a dump."""
    routectl = [sys.executable, "-m", "routectl"]
    facts = ["--model", "6,4,32"]
    lines = (TINY / "vllm.bf16" / "samples.jsonl").read_bytes()
    for data in (lines, gzip.compress(lines)):
        command = [*routectl, "convert", "-", "--save", "-", "--codec", "set", *facts]
        native = subprocess.run(command, input=data, capture_output=True, check=True).stdout
        command = [*routectl, "diff", "-", DUMP, "--json"]
        done = subprocess.run(command, input=native, capture_output=True, check=True)
        report = json.loads(done.stdout)
        assert (report["old"]["path"], report["old"]["codec"]) == ("-", "set")
        assert (report["rows"], report["rows_mismatched"]) == (101_616, 0)


def test_an_empty_pipe_is_refused(tmp_path):
    """Standard input without a byte is an error of one line, and nothing is written."""
    path = tmp_path / "x.parquet"
    command = [sys.executable, "-m", "routectl", "convert", "-", "--save", str(path)]
    done = subprocess.run(command, input=b"", capture_output=True)
    assert (done.returncode, done.stderr) == (2, b"routectl: -: standard input is empty\n")
    assert not path.exists()


def test_a_native_file_knows_the_dense_layers(tmp_path, capsys):
    """What a target with a column for each layer asks for is in the file, codec or not."""
    deepseek = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
    for codec in ("plain", "set"):
        native, trainer = tmp_path / f"{codec}.parquet", tmp_path / f"{codec}.pt"
        assert converted(capsys, deepseek, native, "--codec", codec)[0] == 0
        assert open_dump(native).meta.num_layers == 5
        assert converted(capsys, native, trainer, "--to", "slime")[0] == 0
        config = str(FIXTURES / "configs" / "deepseek_v3.json")
        assert main(["diff", str(deepseek), str(trainer), "--model", config]) == 0
        capsys.readouterr()


def test_stdout_is_a_native_file(tmp_path, capsysbinary):
    """``-`` writes to stdout the bytes that a file would have."""
    whole = tmp_path / "x.parquet"
    for target in (str(whole), "-"):
        assert main(["convert", DUMP, "--save", target, "--codec", "packed"]) == 0
    assert capsysbinary.readouterr().out == whole.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.parquet", "--codec", "zip"], "--codec 'zip' is not known: plain, packed"),
        (["x.parquet", "--codec", "delta"], "hint: --base DUMP"),
        (["-", "--codec", "packed", "--verify"], "stdout cannot be read"),
        (["x.parquet", "--base", DUMP], "--base is of --codec delta"),
        (["x.json"], "expected NAME.parquet"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, monkeypatch, arguments, said):
    """An unknown codec, delta without a base, a check of stdout: exit 2, and no file."""
    monkeypatch.chdir(tmp_path)
    code, told = converted(capsys, DUMP, *arguments)
    assert code == 2
    assert said in told
    assert list(tmp_path.iterdir()) == []


def test_a_base_is_not_replaced_by_what_needs_it(tmp_path, capsys):
    """The base of what is written cannot be what is written over."""
    path = tmp_path / "x.parquet"
    assert converted(capsys, DUMP, path)[0] == 0
    before = path.read_bytes()
    code, said = converted(capsys, DUMP, path, "--codec", "delta", "--base", path, "--force")
    assert code == 2
    assert "is the base of what would be written there" in said
    assert path.read_bytes() == before


def test_a_damaged_source_is_not_converted(tmp_path, capsys):
    """--verify checks a native source too: one whose routes are not those that were written ends
    in exit 2, and nothing is written.
    """
    import pyarrow.parquet as pq

    source, path = tmp_path / "source.parquet", tmp_path / "x.parquet"
    assert converted(capsys, DUMP, source)[0] == 0
    table = pq.read_table(source)
    a, b = (table.schema.get_field_index(f"layer_00{i}") for i in (1, 2))
    columns = table.columns
    columns[a], columns[b] = columns[b], columns[a]
    digest = pq.read_metadata(source).metadata[b"routectl.digest"].decode()
    with pq.ParquetWriter(source, table.schema) as writer:
        writer.write_table(type(table).from_arrays(columns, schema=table.schema))
        writer.add_key_value_metadata({"routectl.digest": digest})
    code, said = converted(capsys, source, path, "--verify")
    assert code == 2
    assert "source.parquet: got routes" in said
    assert not path.exists()


def test_what_was_written_is_a_document(tmp_path, capsys):
    """--json prints what is in the file: the same input gives the same document, without times."""
    path = tmp_path / "x.npz"
    lines = [document(capsys, "convert", DUMP, "--save", path, "--force", "--lossy") for _ in "12"]
    assert lines[0] == lines[1]
    assert lines[0] == {
        "schema": "routectl.written/1",
        "source": DUMP,
        "saved": str(path),
        "samples": 96,
        "format": "npz",
        "dropped": 0,
        "left_out": ["weight versions"],
        "bytes": path.stat().st_size,
    }
    assert "stdout has the data" in complaint(capsys, "convert", DUMP, "--save", "-", "--json")


def test_help_has_every_target_and_codec(capsys):
    """The choices of --to and --codec are the tables of targets and codecs, and help lists them."""
    assert ("native", *(target.name for target in TARGETS), "eplb") == convert.TARGETS
    assert set(convert.CODECS) == {"plain", "auto", *CODECS}
    told = run(capsys, "convert", "--help").out
    for name in (*convert.TARGETS, *convert.CODECS):
        assert re.search(rf"\b{re.escape(name)}\b", told), name


def test_a_suffix_of_several_targets_lists_them(tmp_path, capsys):
    """NAME.pt without --to says which targets are written there."""
    said = complaint(capsys, "convert", DUMP, "--save", tmp_path / "x.pt")
    hint = said.split("hint: --to ")[1].strip().split(", ")
    assert hint == [target.name for target in TARGETS if target.suffix == ".pt"]
    assert "slime" in hint
