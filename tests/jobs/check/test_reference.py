"""``routectl check --against CHECKPOINT``: the weights are the reference, run once and kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from routectl import open_dump
from routectl.dump import Dump
from routectl.formats.native.container import open_native, write_native
from routectl.jobs.shards import run as shard_runner
from routectl.jobs.shards.work import cut_runs
from support.forwards import real_checkpoint
from support.permissions import modes_in, umask
from support.quantized import edit_config
from support.recordings import DEEPSEEK_CONFIG, FIXTURES
from support.shell import complaint, document, run, written

pytestmark = pytest.mark.models
RECORDING = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.fp32.grpo"
SAMPLES, ROWS = 4, 512


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The checkpoint that the recording was made with, to be run in float32 as the engine did."""
    folder = real_checkpoint("deepseek_v3", tmp_path_factory)
    edit_config(folder, dtype="float32")
    return folder


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """One cache folder for all tests: each dump's tokens are run once."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def in_cache(monkeypatch, caches):
    """The user's cache folder is one of these tests'."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))


def recorded():
    """The first samples of the recording, as they are."""
    dump = open_dump(RECORDING)
    kept = [n for n, sample in enumerate(dump) if sample.routes is not None][:SAMPLES]
    return dump.select(samples=kept)


def dump_of(path, change=lambda sample: sample):
    """A native file of these samples, each changed."""
    dump = recorded()
    write_native(map(change, dump), dump.meta, path, force=False)
    return path


def one_id_of(path, expert):
    """Arrays of these samples, which do not say the model; one id is another expert's."""
    arrays = {}
    for number, sample in enumerate(recorded()):
        ids_TLK = sample.routes.ids_TLK.astype(np.int32)
        if number == 0:
            ids_TLK[3, 1, 2] = expert
        arrays |= {
            f"s{number}.routed_experts": ids_TLK,
            f"s{number}.prompt_token_ids": sample.prompt_ids,
            f"s{number}.token_ids": sample.response_ids,
        }
    np.savez(path, **arrays)
    return path


def shifted(sample):
    """The rows of a sample one token late."""
    routes = sample.routes
    return replace(sample, routes=replace(routes, ids_TLK=np.roll(routes.ids_TLK, 1, axis=0)))


def test_a_clean_dump_is_that_of_its_weights(capsys, tmp_path, weights, monkeypatch):
    """An engine in float32 has every row of the weights; they are run once, and kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    in_cache = tmp_path / "cache" / "routectl" / "recomputed"
    in_cache.mkdir(parents=True)
    in_cache.chmod(0o777)
    path = dump_of(tmp_path / "clean.parquet")
    with umask(0):
        done = run(capsys, "check", path, "--against", weights)
    assert done.code == 0
    assert modes_in(in_cache) == ("700", {"600"})
    assert done.out.startswith("CLEAN  nothing found\n")
    assert f"against   {weights}  (transformers " in done.out
    assert "0 of " in done.out
    assert "wrote " in done.err
    kept = written(in_cache)
    assert sorted(name.rpartition(".")[2] for name in kept) == ["TAG", "json", "parquet"]
    (path_of,) = in_cache.glob("*.parquet")
    made = open_native(path_of)
    assert len(made) == SAMPLES
    assert all(sample.routes.margin_TL is not None for sample in made)
    doc = document(capsys, "check", path, "--against", weights)
    assert doc["reference"]["path"] == str(weights)
    assert doc["explanation"]["rows_mismatched"] == 0
    assert doc["explanation"]["rows"] == ROWS
    assert written(in_cache) == kept


def test_a_cache_of_another_user_is_refused(capsys, tmp_path, weights, monkeypatch):
    """A link in place of the cache folder is not followed: no weights are run, nothing is left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "cache" / "routectl").mkdir(parents=True)
    (tmp_path / "cache" / "routectl" / "recomputed").symlink_to(tmp_path / "theirs")
    path = dump_of(tmp_path / "clean.parquet")
    assert "recomputed: is a link" in complaint(capsys, "check", path, "--against", weights)
    assert written(tmp_path / "theirs") == []


def test_processes_hold_a_dump_against_kept_routes(capsys, tmp_path, weights, monkeypatch):
    """With --jobs 2, and of a cluster, which has no kept routes: the bytes of one process."""
    path = one_id_of(tmp_path / "one.npz", 77)  # whose model the weights say, to all processes
    line = ("check", path, "--against", weights, "--json")
    one = run(capsys, *line, "--jobs", "1")
    started = []
    count = shard_runner.Workers
    monkeypatch.setattr(shard_runner, "Workers", lambda *a: started.append(a) or count(*a))
    monkeypatch.setattr(shard_runner, "_SURE_BYTES", 0)
    monkeypatch.setattr(cut_runs, "__defaults__", (1,))  # a shard a sample
    two = run(capsys, *line, "--jobs", "2")
    assert (two.code, two.out, bool(started)) == (one.code, one.out, True)
    here = run(capsys, *line, "--ray", "local", "--jobs", "1")
    assert (here.code, here.out) == (one.code, one.out)
    assert "checking here: what is recomputed is kept on this machine" in here.err


def test_a_faulty_dump_is_explained_by_the_weights(capsys, tmp_path, weights):
    """Rows that are late are named as such, as they are against a dump of the same routes, which
    has no margins to judge the rows at the edges by."""
    path = dump_of(tmp_path / "late.parquet", shifted)
    found = document(capsys, "check", path, "--against", weights, code=1)
    assert {finding["code"] for finding in found["findings"]} == {"R701"}
    other = document(capsys, "check", path, "--against", dump_of(tmp_path / "r.parquet"), code=1)
    assert {finding["code"] for finding in other["findings"]} == {"R701", "R715"}


def test_samples_that_cannot_be_run_are_left_out(capsys, tmp_path, weights):
    """A sample without token ids is not compared, and a line says how many; the others are."""
    first, *others = recorded()
    bare = replace(first, prompt_ids=None, response_ids=None)
    meta, path = recorded().meta, tmp_path / "bare.parquet"
    write_native([bare, *others], meta, path, force=False)
    done = run(capsys, "check", path, "--against", weights, "--json")
    assert "1 sample without token ids: not run, and not compared" in done.err
    explanation = json.loads(done.out)["explanation"]
    assert explanation["rows_mismatched"] == 0
    assert explanation["rows"] == sum(s.routes.ids_TLK[..., 0].size for s in others)
    none = [replace(s, prompt_ids=None, response_ids=None) for s in recorded()]
    write_native(none, meta, tmp_path / "none.parquet", force=False)
    said = complaint(capsys, "check", tmp_path / "none.parquet", "--against", weights)
    assert "has no token ids to run" in said


def test_a_sample_that_a_reader_refuses_is_run_by_its_tokens(capsys, tmp_path, weights):
    """Ids beyond E make a finding, and the sample's tokens are run with the others'."""
    path = one_id_of(tmp_path / "wide.npz", 77)
    line = ("check", path, "--against", weights)
    found = document(capsys, *line, "--model", DEEPSEEK_CONFIG, code=1)
    assert "R101" in {finding["code"] for finding in found["findings"]}
    assert found["explanation"]["rows"] == ROWS  # ids as they were written are compared too
    assert found["explanation"]["rows_mismatched"] == 1
    alone = document(capsys, *line, code=1)  # the checkpoint says the layers, E and K
    assert alone["findings"] == found["findings"]


def test_ci_reads_the_same_field(capsys, tmp_path, weights):
    """A check of ``routectl ci`` takes the folder of weights too, beside the config."""
    dump_of(tmp_path / "clean.parquet")
    (tmp_path / "w").symlink_to(weights)
    text = '[checks.a]\nverb = "check"\ndump = "clean.parquet"\nagainst = "w"\n'
    (tmp_path / "ci.toml").write_text(text, "utf-8")
    doc = document(capsys, "ci", tmp_path / "ci.toml")
    (entry,) = doc["runs"]
    assert entry["exit_code"] == 0
    assert entry["inputs"]["against"] == str(tmp_path / "w")
    text = text.replace("clean", "late")
    dump_of(tmp_path / "late.parquet", shifted)
    (tmp_path / "ci.toml").write_text(text, "utf-8")
    assert document(capsys, "ci", tmp_path / "ci.toml", code=1)["verdict"]["exit_code"] == 1


def test_what_is_no_reference(capsys, tmp_path, weights):
    """A folder without weights or config, one of another model, a damaged one: a line each."""
    path = dump_of(tmp_path / "clean.parquet")
    (tmp_path / "empty").mkdir()
    line = ("check", path, "--against")
    assert "no dump here: got no files" in complaint(capsys, *line, tmp_path / "empty")
    assert "No such file" in complaint(capsys, *line, tmp_path / "absent")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "model.safetensors").symlink_to(weights / "model.safetensors")
    assert f"{bare}: no config.json: expected a Hug" in complaint(capsys, *line, bare)
    config = json.loads((weights / "config.json").read_text("utf-8"))
    (bare / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 2}), "utf-8")
    said = complaint(capsys, *line, bare)
    assert f"--against {bare} is of another shape than {path}: top_k: got 2, expected 4" in said


def test_a_dump_of_one_keeps_its_own_facts(weights):
    """What a dump says of its layers stands; the weights speak where it says nothing."""
    from routectl.jobs.reading import Reading
    from routectl.jobs.recompute.partner import open_partner

    assert isinstance(open_partner(str(RECORDING), Reading(), weights), Dump)
    assert open_partner(str(RECORDING), Reading(), weights).meta.facts_source != str(weights)
