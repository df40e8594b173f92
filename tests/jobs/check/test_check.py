"""``routectl check``: exit codes, selection, refused samples, documents, fixed dumps."""

import json

import numpy as np
import pytest

from routectl.formats.native.container import write_native
from routectl.ops.check.book.findings import known_codes
from support.checks import loaded
from support.faults import BASES, FAULTS, spoilt
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, deepseek_record
from support.shell import DUMPS, complaint, document, run

REFERENCE = FIXTURES / "hf" / "vllm.deepseek_v3.bf16.npz"


def native_of(tmp_path, name, share):
    """A native file of the first base with a fault in it."""
    fault = next(f for f in FAULTS if f.name == name)
    bad = spoilt(fault, BASES[0], loaded(BASES[0].dump), share)
    path = tmp_path / "bad.parquet"
    write_native(bad, bad.meta, path, force=True)
    return path


def wire_of(tmp_path, change):
    """A .npz of one recorded sample [T, 5, 4], its ids changed."""
    line, ids = deepseek_record()
    path = tmp_path / "wire.npz"
    arrays = {"prompt_token_ids": line["prompt_token_ids"], "token_ids": line["token_ids"]}
    np.savez(
        path,
        **{
            "a.routed_experts": change(ids.astype(np.int32)),
            **{f"a.{k}": np.array(v, np.int32) for k, v in arrays.items()},
        },
    )
    return path


def test_clean_dump(capsys):
    """A clean dump exits 0 and says so."""
    done = run(capsys, "check", DUMPS["native"])
    assert done.code == 0
    assert done.out.startswith("CLEAN  nothing found\n")


def test_faulty_dump(capsys, tmp_path):
    """An error exits 1; --exit-zero, --ignore and --select change that as they say."""
    path = native_of(tmp_path, "layer never written", 0.2)
    done = run(capsys, "check", path)
    assert done.code == 1
    assert done.out.startswith("FAULTY  1 error\n")
    assert "R301  error  MoE layer never written" in done.out
    assert run(capsys, "check", path, "--exit-zero").code == 0
    assert run(capsys, "check", path, "--ignore", "R3").code == 0
    assert run(capsys, "check", path, "--select", "R1,R2").code == 0
    assert run(capsys, "check", path, "--select", "R30").code == 1


def test_fail_on(capsys, tmp_path):
    """Warnings and notes exit 1 only when asked to."""
    path = native_of(tmp_path, "retracted, two versions", 0.1)
    done = run(capsys, "check", path)
    assert done.code == 0
    assert done.out.startswith("DOUBTFUL  1 warning, 1 note\n")
    assert run(capsys, "check", path, "--fail-on", "warning").code == 1
    assert run(capsys, "check", path, "--fail-on", "note", "--select", "R501").code == 1


def test_document(capsys, tmp_path):
    """--json is the report: counts, findings with their places, the verdict."""
    path = native_of(tmp_path, "one expert twice", 0)
    found = document(capsys, "check", path, code=1)
    assert found["schema"] == "routectl.check/1"
    assert found["counts"] == {"errors": 1, "warnings": 0, "undecided": 0, "notes": 0}
    (finding,) = found["findings"]
    assert (finding["code"], finding["rows"], finding["samples"]) == ("R102", 1, 1)
    assert finding["layers"] == [finding["places"][0]["layer"]] == [1]
    assert found["explanation"] is found["reference"] is None
    assert found["verdict"] == {"fail_on": "error", "exit_code": 1}


def test_against(capsys):
    """Against a reference the comparison is in the document, layer by layer."""
    found = document(capsys, "check", DUMPS["jsonl"], "--against", REFERENCE)
    assert found["reference"]["path"] == str(REFERENCE)
    told = found["explanation"]
    assert (told["rows"], told["rows_mismatched"], told["rows_explained"]) == (22444, 4008, 0)
    assert [layer["layer"] for layer in told["layers"]] == [1, 2, 3, 4]
    assert sum(layer["rows_mismatched"] for layer in told["layers"]) == 4008
    assert [f["code"] for f in found["findings"]] == ["R715"]


def test_save_writes_the_fixed_dump(capsys, tmp_path):
    """--save writes the dump with its experts renumbered; check then finds it clean."""
    path = native_of(tmp_path, "experts renumbered, all layers", 1.0)
    target = tmp_path / "fixed.parquet"
    done = run(capsys, "check", path, "--against", REFERENCE, "--save", target)
    assert done.code == 1
    assert "R706" in done.out
    assert f"wrote {target}: 46 samples, experts of layers 1, 2, 3, 4 renumbered" in done.err
    assert run(capsys, "check", target, "--against", REFERENCE).code == 0
    told = complaint(capsys, "check", path, "--save", tmp_path / "alone.parquet")
    assert "--save writes what a reference mends: expected --against REFERENCE" in told
    other = tmp_path / "fixed.npz"
    done = run(capsys, "check", path, "--against", REFERENCE, "--save", other)
    assert (done.code, other.exists()) == (2, False)
    assert "expected NAME.parquet" in done.err


def out_of_range(number, share=1.0):
    """Puts one id into a slot of some rows of the MoE layers."""

    def change(ids_TWK):
        ids_TWK[: max(1, int(share * len(ids_TWK))), 2, 3] = number
        return ids_TWK

    return change


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        (out_of_range(255, 0.1), "R101", "a sentinel wrapped to 255 or 65535 in part of a row"),
        (
            out_of_range(35, 0.1),
            "R101",
            "ids 35: physical ones (EPLB), which PATH::expert_map=FILE reads as logical ones, or "
            "another model's",
        ),
        (out_of_range(32), "R101", "ids of shared experts, in a slot of their own"),
        (
            out_of_range(40_000, 0.2),
            "R101",
            "no ids at all: another type or another layout of bytes",
        ),
        (lambda ids: np.roll(ids, 1, axis=1), "R303", "like routes"),
    ],
)
def test_refused_sample_is_explained(capsys, tmp_path, change, code, detail):
    """A sample that its reader refuses is read again unchecked, and the reason is named."""
    found = document(capsys, "check", wire_of(tmp_path, change), "--model", DEEPSEEK_CONFIG, code=1)
    assert (code, detail) in [(f["code"], f["detail"]) for f in found["findings"]]
    assert "R001" not in [f["code"] for f in found["findings"]]


def test_refused_sample_that_stays_refused(capsys, tmp_path):
    """What no reading helps keeps the reader's line, as one finding for all such samples."""
    path = wire_of(tmp_path, lambda ids: ids[:, :4])
    config = tmp_path / "config.json"
    doc = json.loads(DEEPSEEK_CONFIG.read_text("utf-8"))
    config.write_text(json.dumps({**doc, "num_hidden_layers": 9}), "utf-8")
    found = document(capsys, "check", path, "--model", config, code=1)
    (finding,) = found["findings"]
    assert finding["code"] == "R001"
    assert "got 4 layers, expected 9 (all layers) or 8 (MoE layers)" in finding["detail"]


def test_dense_layer_that_ran_as_moe(capsys, tmp_path):
    """A layer that the config calls dense and the engine ran as MoE is named from the dump."""
    config = tmp_path / "config.json"
    doc = json.loads(DEEPSEEK_CONFIG.read_text("utf-8"))
    config.write_text(json.dumps({**doc, "first_k_dense_replace": 2}), "utf-8")
    path = DEEPSEEK / "samples.jsonl"
    found = document(capsys, "check", path, "--model", config, code=1)
    (finding,) = found["findings"]
    assert (finding["code"], finding["layers"], finding["samples"]) == ("R303", [1], 46)


def test_one_payload_of_a_recorded_server(capsys):
    """SGLang's OpenAI forms carry the routes of the first choice only: recorded, and named."""
    folder = FIXTURES / "servers" / "sglang-0.5.23" / "qwen3_moe.bf16"
    model = FIXTURES / "configs" / "qwen3_moe.json"
    found = document(capsys, "check", folder, "--model", model, code=1)
    assert [(f["code"], f["samples"]) for f in found["findings"]] == [("R007", 4)]


def test_rules(capsys):
    """--rules prints a finding whole, or a line of each whose code begins so, and reads no dump."""
    done = run(capsys, "check", "--rules", "R402")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("R402  block of rows repeated (error)\n\ncause ")
    some = run(capsys, "check", "--rules", "R40").out.splitlines()
    assert "R402  error      block of rows repeated" in some
    assert {line[:3] for line in some} == {"R40"}
    every = run(capsys, "check", "--rules").out.splitlines()
    assert [line.split()[0] for line in every] == list(known_codes())
    assert all(len(line.split()) > 2 for line in every)


def test_rules_take_no_dump(capsys):
    """A dump beside --rules is what is too much, not a second one."""
    said = complaint(capsys, "check", DUMPS["native"], "--rules", "R402")
    assert "--rules takes a finding's code and no dump" in said


def test_a_second_dump_is_a_reference(capsys):
    """Two dumps are answered with --against."""
    said = complaint(capsys, "check", DUMPS["native"], REFERENCE)
    assert "check DUMP --against REFERENCE" in said


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "no dump is named"),
        (("--rules", "R999"), "--rules R999: no finding's code begins so"),
        ((DUMPS["native"], "--fail-on", "much"), "--fail-on 'much' is not known"),
        ((DUMPS["native"], "--select", "X"), "--select X: no finding's code begins so"),
        ((DUMPS["native"], "--select", "R9"), "begins so\nhint: routectl check --rules lists all"),
        ((DUMPS["native"], "--jobs", "0"), "'--jobs': Input should be greater than or equal to 1"),
        ((DUMPS["native"], "--ep", "5"), "--ep 5: 32 experts do not divide by it"),
        (("no-such-file.npz",), "cannot be read"),
        ((DUMPS["native"], "--against", DUMPS["trainer"]), "nothing to compare"),
    ],
)
def test_trouble(capsys, args, told):
    """Wrong usage and what cannot be opened or compared exit 2 with one line."""
    assert told in complaint(capsys, "check", *args)
