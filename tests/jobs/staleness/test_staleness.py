"""routectl staleness: the recorded truth through the command, checkpoints once, refusals."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from routectl import open_dump
from routectl.cli import terminal
from routectl.dump import WeightSpan
from routectl.formats.native.container import write_native
from support import families
from support.dumps import all_alike, make_dump, make_routes, make_sample
from support.recordings import FIXTURES
from support.shell import complaint, document, run, written
from support.tiny_rl import ENGINE, TINY, TRUTH

ROUTES = [f"--at=v{n}={TINY / f'routes_v{n}.fp32.npz'}" for n in (0, 1, 2)]
LOGPROBS = [f"--at=v{n}={TINY / f'transformers_v{n}.fp32.npz'}" for n in (0, 1)]
OTHER_TOKENS = f"--at=v1={FIXTURES / 'hf' / 'vllm.qwen3_moe.bf16.npz'}"
FP32 = ("--forward", "dtype=fp32,threads=1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, one of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "routectl" / "recomputed"


def kept(cache):
    """Names of what is kept whole."""
    return sorted(path.name for path in cache.glob("*.parquet"))


def agrees(found, truth):
    """A comparison of the document has the recorded figures, row for row."""
    assert found["rows"] == truth["rows"]
    assert found["rows_mismatched"] == truth["rows_mismatched"]
    layers = [layer["rows_mismatched"] for layer in found["layers"]]
    assert layers == truth["per_layer_mismatched"]
    assert (found["tokens"], found["tokens_mismatched"]) == (
        truth["tokens"],
        truth["tokens_mismatched"],
    )
    assert {str(n): count for n, count in enumerate(found["swaps"]) if count} == truth["swaps"]
    return True


def of(doc, kind, mode="free", **names):
    """The one comparison of a kind and mode, and of a pair."""
    (found,) = [
        c
        for c in doc["comparisons"]
        if (c["kind"], c["mode"]) == (kind, mode)
        and all(c[key] == value for key, value in names.items())
    ]
    return found


def same_logprobs(found, truth):
    """The log-prob figures of a comparison are those that were recorded."""
    sums = found["logprobs"]
    assert sums["tokens"] == truth["tokens"]
    for key, name in (("k3", "k3"), ("k1", "k1"), ("mean_abs_d", "mean_abs"), ("f_tau", "F2")):
        assert sums[key] == pytest.approx(truth[name], rel=1e-4, abs=1e-6)


def test_the_recorded_truth_through_the_command(capsys):
    """The four comparisons of a real run are the numbers computed independently, to the last row,
    in the document; so are the log-prob figures.
    """
    doc = document(capsys, "staleness", ENGINE, *ROUTES, "--mini-steps", "4")
    mismatch = of(doc, "mismatch")
    assert agrees(mismatch, TRUTH["mismatch: engine bf16 at v0 / transformers fp32 at v0"])
    for new in ("v1", "v2"):
        assert agrees(of(doc, "staleness", old="v0", new=new), TRUTH[f"staleness fp32: v0 / {new}"])
    assert agrees(of(doc, "total"), TRUTH["total fp32: engine at v0 / v2"])
    assert doc["advice"]["mode"] == "R3"
    assert doc["verdict"] == {
        "thresholds": [],
        "failed": [],
        "unmatched": {"samples": 0, "layers": 0, "rows": 0},
        "allow_unmatched": False,
        "fail_on": None,
        "alarms": 0,
        "exit_code": 0,
    }
    assert doc["warnings"] == []
    interval = mismatch["intervals"]["mismatch_rate"]
    assert interval["low"] < mismatch["mismatch_rate"] < interval["high"]
    assert mismatch["logprobs"] is None
    scored = document(capsys, "staleness", ENGINE, *LOGPROBS)
    assert agrees(of(scored, "total"), TRUTH["total fp32: engine at v0 / v1"])
    same_logprobs(of(scored, "mismatch"), TRUTH["logprob fp32 v0"])
    same_logprobs(of(scored, "total"), TRUTH["logprob fp32 v1"])


@pytest.mark.slow
def test_forced_and_free_stand_side_by_side(capsys, tmp_path):
    """A dump that says it is forced is another mode of its version; both are reported."""
    dump = open_dump(TINY / "routes_v1.fp32.npz")
    meta = replace(dump.meta, provenance={"mode": "forced"})
    write_native(dump, meta, tmp_path / "f.parquet", force=False)
    doc = document(capsys, "staleness", ENGINE, *ROUTES[:2], f"--at=v1={tmp_path / 'f.parquet'}")
    assert of(doc, "total", "forced")["rows_mismatched"] == of(doc, "total")["rows_mismatched"]
    version = doc["versions"][1]
    assert version["free"]["path"] != version["forced"]["path"]
    out = run(capsys, "staleness", ENGINE, *ROUTES[:2], f"--at=v1={tmp_path / 'f.parquet'}").out
    assert "mismatch free" in out
    assert "total forced" in out


@pytest.mark.slow
def test_thresholds_decide_the_exit_code(capsys):
    """0 without thresholds or within them, 1 over one, and 0 again with --exit-zero."""
    line = ("staleness", ENGINE, *ROUTES)
    assert run(capsys, *line, "--fail-over", "mismatch:3%", "--fail-over", "total:15%").code == 0
    done = run(capsys, *line, "--fail-over", "staleness@lag2:12%", "--fail-over", "mismatch:3%")
    assert done.code == 1
    assert done.out.startswith("OVER  1 of 2 thresholds crossed; mismatch 2.02 %")
    assert "  staleness@lag2:12%: 12.4 % over 12 %\n" in done.out
    assert run(capsys, *line, "--fail-over", "total@5:18%", "--exit-zero").code == 0
    doc = document(capsys, *line, "--fail-under", "overlap:99.9%", code=1)
    assert [f["metric"] for f in doc["verdict"]["failed"]] == ["overlap"]


@pytest.mark.models
def test_router_shift_is_gated(capsys, tmp_path, tiny_dumps):
    """gamma and confidence are held at a lag or at each, confidence by layer too; of saved steps
    the last one's. What is not there is told.
    """
    line = ["staleness", ENGINE, *(f"--at={v}={tiny_dumps[v].meta.path}" for v in ("v0", "v1"))]
    saved = tmp_path / "run" / "step-1.json"
    saved.parent.mkdir()
    assert run(capsys, *line, "-o", saved).code == 0
    shift = of(json.loads(saved.read_text("utf-8")), "staleness")["router_shift"]
    layers = {one["layer"]: one["confidence_new"] for one in shift["layers"]}
    least = min(layers.values())
    asked = {
        f"gamma:{shift['mean_gamma'] + 1e-6}": [("gamma@lag1", None)],
        f"gamma@lag1:{shift['mean_gamma'] - 1e-6}": [],
        f"confidence:{shift['confidence_new'] + 1e-6}": [("confidence@lag1", None)],
        f"confidence@lag1@*:{least + 1e-6}": [
            ("confidence@lag1", n) for n, value in layers.items() if value == least
        ],
    }
    words = [word for text in asked for word in ("--fail-under", text)]
    for steps in (line, ["staleness", "--series", saved.parent]):
        failed = document(capsys, *steps, *words, code=1)["verdict"]["failed"]
        found = [(one["metric"], one["layer"]) for one in failed]
        assert found == [place for places in asked.values() for place in places]
    for wrong, told in (
        ("gamma@lag7:1", "the lags are 1"),
        ("gamma@3:1", "gamma is of all layers"),
        ("confidence@lag1@77:1", "no layer 77: they are 0, 1, 2, 3, 4, 5"),
        ("confidence:200", "confidence is a rate: got 200"),
    ):
        assert told in complaint(capsys, *line, "--fail-under", wrong)


@pytest.mark.models
def test_checkpoints_are_recomputed_once(capsys, tmp_path, cache, tiny_checkpoints):
    """From checkpoints the comparisons are the recorded ones, with neither -o nor a folder named; a
    second run reads no weights: with other bytes in their place, of the same size and time, it
    gives the same figures.
    """
    places = {v: shutil.copytree(tiny_checkpoints[v], tmp_path / v) for v in ("v0", "v1")}
    line = ["staleness", ENGINE, *(f"--at={v}={place}" for v, place in places.items()), *FP32]
    report = tmp_path / "report.json"
    done = run(capsys, *line, "-o", report)
    assert done.code == 0, done.err
    first = json.loads(report.read_text("utf-8"))
    assert agrees(of(first, "total"), TRUTH["total fp32: engine at v0 / v1"])
    assert agrees(of(first, "staleness"), TRUTH["staleness fp32: v0 / v1"])
    same_logprobs(of(first, "mismatch"), TRUTH["logprob fp32 v0"])
    shift = of(first, "staleness")["router_shift"]
    assert shift["mean_gamma"] == pytest.approx(0.980, abs=1e-3)
    assert shift["interval"]["low"] < shift["mean_gamma"] < shift["interval"]["high"]
    assert "router_shift" not in of(first, "total")
    assert [version["free"]["path"] for version in first["versions"]] == [
        *map(str, places.values())
    ]
    names = kept(cache)
    assert len(names) == 2
    for place in places.values():
        weights = place / "model.safetensors"
        about, held = weights.stat(), bytearray(weights.read_bytes())
        header = 8 + int.from_bytes(held[:8], "little")
        held[header:] = bytes(len(held) - header)
        weights.write_bytes(held)
        os.utime(weights, ns=(about.st_atime_ns, about.st_mtime_ns))
    again = run(capsys, *line, "-o", report, "--force")
    assert "pushing" not in again.err
    assert json.loads(report.read_text("utf-8")) == first
    assert kept(cache) == names
    (places["v1"] / "model.safetensors").touch()  # another file, as far as can be seen
    other = document(capsys, *line)
    assert of(other, "mismatch") == without_detail(of(first, "mismatch"))
    assert of(other, "staleness")["rows_mismatched"] > of(first, "staleness")["rows_mismatched"]
    assert len(kept(cache)) == 3


def without_detail(comparison):
    """A comparison as --json has it."""
    return {name: value for name, value in comparison.items() if name != "detail"}


def few(folder, samples=6):
    """The first samples of the engine's dump, so that runs are short."""
    lines = ENGINE.read_text("utf-8").splitlines(keepends=True)[:samples]
    folder.mkdir(exist_ok=True)
    (folder / "rollout.jsonl").write_text("".join(lines), "utf-8")
    shutil.copy(TINY / "config.json", folder / "config.json")
    return folder / "rollout.jsonl"


@pytest.mark.models
def test_a_log_says_which_version_of_how_many(
    capsys, monkeypatch, tmp_path, cache, tiny_checkpoints
):
    """Where stderr is no terminal, each line of a recompute names its version and counts them."""
    monkeypatch.setattr(terminal, "_QUIET_S", 0.0)
    places = (f"--at={v}={tiny_checkpoints[v]}" for v in ("v0", "v1"))
    done = run(capsys, "staleness", few(tmp_path / "d"), *places, *FP32)
    assert done.code == 0, done.err
    for number, version in enumerate(("v0", "v1"), 1):
        told = f"routectl: {version}, version {number} of 2, recomputing "
        lines = [line for line in done.err.splitlines() if line.startswith(told)]
        assert lines
        assert all(" of 6 samples (" in line and "tokens/s" in line for line in lines)


@pytest.mark.models
def test_both_modes_and_the_noise_floor(capsys, tmp_path, cache, tiny_checkpoints):
    """mode=both reads weights once for two files, and makes R2's of v1; forced mismatch of layer 0
    is free's; the noise floor is of the last version.
    """
    places = (f"--at={v}={tiny_checkpoints[v]}" for v in ("v0", "v1"))
    line = ("staleness", few(tmp_path / "d"), *places, *FP32)
    doc = document(capsys, *line, "--forward", "mode=both", "--noise-floor")
    assert [c["mode"] for c in doc["comparisons"]] == ["free", "forced"] * 3
    free, forced = of(doc, "mismatch"), of(doc, "mismatch", "forced")
    assert free["layers"][0]["rows_mismatched"] == forced["layers"][0]["rows_mismatched"]
    assert [n["name"] for n in doc["noise"]][:2] == ["the same again", "padded batches"]
    assert doc["noise"][0]["rows_mismatched"] == 0
    assert len(kept(cache)) == 5
    assert all("router_shift" in of(doc, "staleness", mode) for mode in ("free", "forced"))
    alone = document(capsys, *line, "--forward", "mode=forced")
    assert of(alone, "mismatch", "forced") == forced
    assert len(kept(cache)) == 5
    without = document(capsys, *line, "--forward", "gate-logprobs=no")
    assert of(without, "mismatch") == free
    assert "router_shift" not in of(without, "staleness")
    assert len(kept(cache)) == 7


@pytest.mark.models
def test_an_ended_recompute_goes_on(capsys, monkeypatch, tmp_path, cache, tiny_checkpoints):
    """What was done when a run was ended is used by the same command, and no report is left by it;
    parts of another run are let go.
    """
    from routectl.jobs.recompute import share

    line = ("staleness", few(tmp_path / "d"), f"--at=v0={tiny_checkpoints['v0']}", ROUTES[1], *FP32)
    whole = document(capsys, *line)
    (name,) = kept(cache)
    (cache / name).unlink()
    made, seen = share.recomputed_sample, []

    def dies(sample, result, meta):
        seen.append(result.index)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return made(sample, result, meta)

    monkeypatch.setattr(share, "recomputed_sample", dies)
    report = tmp_path / "c.json"
    ended = run(capsys, *line, "-o", report)
    assert ended.code == 130
    told = f"version v0 ({tiny_checkpoints['v0']}): 3 of 6 samples are kept: the same command goes"
    assert told in ended.err
    assert not report.exists()
    assert kept(cache) == []
    done = run(capsys, *line, "--json")
    assert "3 samples done before; going on" in done.err
    assert json.loads(done.out) == whole
    assert kept(cache) == [name]
    (cache / name).unlink()
    parts = cache / f"{name}.partial"
    parts.mkdir()
    (parts / "job.json").write_text("{}", "utf-8")
    assert "starting anew" in run(capsys, *line).err
    assert kept(cache) == [name]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((), "no version is given"),
        (("--at", "v0"), "--at v0: expected NAME=WHERE"),
        (("--at", "v0=nope.npz"), "nope.npz: cannot be read"),
        ((ROUTES[0],), "one version is given, v0: staleness is between two"),
        ((ROUTES[0], ROUTES[0]), "--at v0 is given twice with free routes"),
        ((*ROUTES, "--version-map", "=v9"), "version 'v9' is not given: v0, v1, v2 are"),
        ((ROUTES[1], ROUTES[2]), "no row is of a version that is given: the dump says v0"),
        ((*ROUTES, "--version-map", "v0"), "--version-map v0: expected FROM=TO"),
        ((*ROUTES, "--version-map", "v0=v1", "--version-map", "v0=v2"), "v0 is v1 already"),
        ((*ROUTES, "--fail-over", "staleness@lag7:1%"), "the lags are 1, 2"),
        ((*ROUTES, "--fail-over", "f2:1%"), "there is no f2 to hold it against"),
        ((*ROUTES, "--fail-over", "speed:1%"), "metric 'speed' is not known: staleness, total"),
        ((*ROUTES, "--noise-floor"), "--noise-floor runs a checkpoint again"),
        ((*ROUTES, "--method", "level=1"), "--method level must be between 0 and 1"),
        ((*ROUTES, "--method", "rows=none"), "--method rows 'none' is not known: dump, all"),
        ((*ROUTES, "--match", "prefix"), "--match 'prefix' is not known"),
        ((*ROUTES, "--forward", "mode=tied"), "--forward mode 'tied' is not known"),
        ((*ROUTES, "--layers", "0,9"), "layers [9] are not MoE layers"),
        ((ROUTES[0], OTHER_TOKENS), "nothing to compare: none of 96 samples of OLD"),
        (("--series", "x"), "--series takes the place of DUMP and --at"),
    ],
)
def test_refusals_are_one_line(capsys, tmp_path, line, said):
    """What cannot be answered is said in one line, exit 2, and no report is left."""
    assert said in complaint(capsys, "staleness", ENGINE, *line, "-o", tmp_path / "r.json")
    assert written(tmp_path) == []


@pytest.mark.models
def test_a_checkpoint_of_another_shape_is_refused_before_it_runs(capsys, tmp_path):
    """Other E: one line, and nothing is written."""
    families.tiny("qwen3_moe").save_pretrained(tmp_path / "w")
    before = written(tmp_path)
    line = (ROUTES[0], f"--at=v1={tmp_path / 'w'}", "-o", tmp_path / "r.json")
    said = complaint(capsys, "staleness", ENGINE, *line)
    assert f"version v1 ({tmp_path / 'w'}) is of another shape than {ENGINE}: num_experts" in said
    assert written(tmp_path) == before


def saved(path, samples):
    """A native file of samples with routes over LAYERS, EXPERTS and TOP_K of dumps.py."""
    dump = make_dump(samples)
    write_native(dump, dump.meta, path, force=False)
    return path


def tiny_run(folder, tokens, missing=False, version="v0"):
    """A dump of one sample, and the routes of two versions: of every token, the newer ones other
    experts.
    """
    prompt, response = [5] * (tokens - 1), [7]
    rows = tokens - 1
    gone = [(row, layer) for row in range(rows) for layer in range(3)] if missing else ()
    tokens_of = {"prompt": prompt, "response": response}
    routes = make_routes(all_alike(rows), missing=gone)
    dump = make_sample(routes, "a", **tokens_of, weight_spans=(WeightSpan(version, 0, 1),))
    line = [saved(folder / "dump.parquet", [dump])]
    for name, row in (("v0", (0, 1)), ("v1", (0, 2))):
        sample = make_sample(make_routes(all_alike(tokens, row)), "a", **tokens_of)
        line.append(f"--at={name}={saved(folder / f'{name}.parquet', [sample])}")
    return ("staleness", *line)


def test_one_row_is_measured_without_intervals(capsys, tmp_path):
    """One token with a row: rates, and no interval where one sequence cannot give any."""
    doc = document(capsys, *tiny_run(tmp_path, 2))
    assert (of(doc, "mismatch")["rows"], of(doc, "mismatch")["mismatch_rate"]) == (3, 0.0)
    assert of(doc, "total")["mismatch_rate"] == 1.0
    assert of(doc, "total")["intervals"]["mismatch_rate"] is None


@pytest.mark.parametrize(("tokens", "missing"), [(1, False), (4, True)])
def test_nothing_to_compare_is_trouble(capsys, tmp_path, tokens, missing):
    """One token alone has no row; nor has a dump whose rows are all missing."""
    line = tiny_run(tmp_path, tokens, missing)
    before = written(tmp_path)
    said = complaint(capsys, *line, "-o", tmp_path / "r.txt")
    assert "no row has a route: nothing to compare" in said
    assert written(tmp_path) == before


def test_spans_are_mapped_and_unknown_versions_are_named(capsys, tmp_path):
    """--version-map gives the dump's own names to versions; a name that none has is said."""
    line = tiny_run(tmp_path, 3, version="step-7")
    assert "--version-map step-7=v0 if these are the same weights" in complaint(capsys, *line)
    doc = document(capsys, *line, "--version-map", "step-7=v0")
    assert doc["spans"]["by_version"] == {"v0": 6, "v1": 0}
    assert doc["own_rows"][0]["own"] == "v0"


def test_rows_that_need_care_are_named(capsys, tmp_path):
    """Samples of several versions, retracted, with a reused prefix, or of a version that is not
    given: the text counts each kind of row, and says which are not in the mismatch.
    """
    spans = {
        "one": [("v0", 0, 4)],
        "switched": [("v0", 0, 2), ("v1", 2, 4)],
        "retracted": [("v0", 0, 2), ("v1", 2, 4)],
        "other": [("v9", 0, 4)],
        "cached": [("v0", 0, 4)],
    }
    samples, parts = [], {"v0": [], "v1": []}
    for n, (name, labels) in enumerate(spans.items()):
        tokens = {"prompt": [n, 2, 3, 4], "response": [5, 6, 7, 8]}
        care = {"retracted": {"retractions": 1}, "cached": {"cached_tokens": 2}}.get(name, {})
        weights = tuple(WeightSpan(*label) for label in labels)
        routes = make_routes(all_alike(7))
        samples.append(make_sample(routes, name, **tokens, weight_spans=weights, **care))
        for version, row in (("v0", (0, 1)), ("v1", (0, 2))):
            parts[version].append(make_sample(make_routes(all_alike(8, row)), name, **tokens))
    line = ["staleness", saved(tmp_path / "dump.parquet", samples)]
    line += [f"--at={v}={saved(tmp_path / f'{v}.parquet', held)}" for v, held in parts.items()]
    doc = document(capsys, *line)
    assert doc["spans"]["rows"] == {
        "first": 51,
        "switched": 3,
        "boundary": 3,
        "cached": 6,
        "uncertain": 21,
        "unlabelled": 21,
    }
    out = run(capsys, *line).out
    rows = "51 first, 3 switched, 3 boundary, 6 cached, 21 uncertain, 21 unlabelled; 5 samples"
    assert f"rows      {rows}" in out
    assert (
        "boundary  3 rows of 1 token may be of either of two versions: whether spans begin" in out
    )
    assert "unknown   versions that are not given: v9 (21 rows)\n" in out
    for group, where in (("cached", "not in the"), ("uncertain", "not in the"), ("switched", "in")):
        said = next(text for text in out.splitlines() if text.startswith(group))
        assert said.endswith(f"; {where} mismatch above" if where != "in" else "above too")


@pytest.mark.models
def test_a_family_without_gate_logprobs_goes_without(capsys, tmp_path, cache):
    """Where a router's logits are no product, the report has no router shift and a line says so;
    asked for, it is refused.
    """
    model = families.tiny("gemma4")
    model.save_pretrained(tmp_path / "w")
    layers = tuple(families.routers(model))
    config = model.config.get_text_config()
    experts, top_k = config.num_experts, config.top_k_experts
    routes = make_routes(all_alike(5, range(top_k), layers), layers, experts)
    sample = make_sample(routes, "a", prompt=[3, 4, 5], response=[6, 7, 8])
    dump = make_dump([sample], layers, experts, top_k)
    write_native(dump, dump.meta, tmp_path / "d.parquet", force=False)
    dump = tmp_path / "d.parquet"
    line = (
        "staleness",
        dump,
        f"--at=v0={tmp_path / 'w'}",
        f"--at=v1={dump}",
        "--version-map",
        "=v0",
        "--forward",
        "threads=1",
    )
    done = run(capsys, *line, "--json")
    assert done.code == 0, done.err
    assert f"routectl: version v0 ({tmp_path / 'w'}): no router shift: " in done.err
    assert "no gate log-probabilities of" in complaint(
        capsys, *line, "--forward", "gate-logprobs=yes"
    )
