"""Every document against its type, and against the JSON Schema that is made of it."""

import importlib.util
import json
from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from routectl import open_dump
from routectl.checkpoints.predictor import PredictorFacts, PredictorLayer
from routectl.cli.main import main
from routectl.errors import FormatError
from routectl.gate_logprobs import GateLogprobs
from routectl.ops.adding.intervals import Bootstrap
from routectl.ops.check.check import check
from routectl.ops.diff.diff import DiffOptions, diff_as
from routectl.ops.diff.thresholds import judge, parse_threshold
from routectl.ops.predict.scores import PredictionScores, predictor_scores
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.options import Noise, StalenessOptions
from routectl.ops.staleness.staleness import staleness
from routectl.ops.staleness.thresholds import judge_staleness, parse_staleness_threshold
from routectl.ops.summary import summarize
from routectl.reports.check.document import check_document, watch_document
from routectl.reports.diff.document import diff_document
from routectl.reports.document import to_json
from routectl.reports.page.page import with_texts
from routectl.reports.predict.document import prediction_document
from routectl.reports.show.document import summary_document
from routectl.reports.staleness.advice import advise
from routectl.reports.staleness.document import Judged, staleness_document
from routectl.reports.staleness.series import Step, series_document
from support.dumps import from_plain, make_dump, plain_of
from support.pages import hostile_document
from support.recordings import FIXTURES
from support.schemas import TYPES, json_schema

ROOT = FIXTURES.parent
TINY = FIXTURES / "tiny_rl"
RECORDED = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.bf16.grpo" / "samples.jsonl"
GOLDEN = [
    *sorted(p for p in (FIXTURES / "golden").glob("*.json") if p.name != "codecs.json"),
    FIXTURES / "routectl-ci.baseline.json",
]


def closed(schema):
    """The schema, in which no object has a key that is not named."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    return {**found, "additionalProperties": False} if "properties" in schema else found


VALIDATORS = {name: Draft202012Validator(closed(json_schema(name))) for name in TYPES}


def holds(document, name=None):
    """Hold a document, as JSON says it, against its type and its schema."""
    plain = json.loads(to_json(document))
    name = name or plain["schema"].removeprefix("routectl.").partition("/")[0]
    assert msgspec.convert(plain, TYPES[name], strict=True) == plain  # unknown keys are dropped
    VALIDATORS[name].validate(plain)
    return plain


def printed(capsys, *arguments, code=0):
    """The document that a command prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(name="tiny", scope="module")
def tiny_():
    """The recording of vLLM and the recomputes of three versions, the first with margins."""
    names = ("routes_v0.margins.parquet", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
    dump = open_dump(TINY / "vllm.bf16" / "samples.jsonl").select(samples=range(12)).held()
    return dump, [Version(f"v{n}", open_dump(TINY / name).held()) for n, name in enumerate(names)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_documents(path):
    """Every document that is checked in is of its type, and has no other key."""
    holds(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("name", TYPES)
def test_schemas_are_schemas(name):
    """A file of docs/schema/ is JSON Schema, names its document and is made of the type."""
    schema = json.loads((ROOT / "docs" / "schema" / f"{name}.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"routectl.{name}/1"
    assert schema == json_schema(name)


def test_every_type_has_a_file():
    """fixtures/make.py writes a schema for each type, and no other is there."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "fixtures" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert sorted(make.SCHEMAS) == sorted(TYPES)
    assert {path.stem for path in (ROOT / "docs" / "schema").iterdir()} == set(TYPES)


@pytest.mark.parametrize("change", [{"typo": 1}, {"rows": None}, {"schema": "routectl.diff/2"}])
def test_other_documents_are_none(change):
    """A key that no type names, a value of another type, another number: each is noticed."""
    document = json.loads((FIXTURES / "golden" / "diff.json").read_text("utf-8"))
    with pytest.raises((AssertionError, msgspec.ValidationError)):
        holds({**document, **change}, "diff")
    with pytest.raises((AssertionError, msgspec.ValidationError)):
        holds({key: value for key, value in document.items() if key != "tokens"})
    assert not VALIDATORS["diff"].is_valid({**document, **change})


def test_diff(tiny):
    """A diff with everything in it: failures, noise, detail, texts of tokens; and a hostile one."""
    dump, versions = tiny
    sides = versions[0].free, versions[1].free
    result = diff_as(*sides, DiffOptions(detail=True))
    limits = [
        parse_threshold("mismatch@*:0", over=True),
        parse_threshold("rows_missing:-1", over=True),
    ]
    found = diff_document(result, judge(result, limits), noise=diff_as(*sides, DiffOptions()))
    holds(found["detail"])
    holds(with_texts(found, lambda ids: [str(i) for i in ids]))
    holds(diff_document(diff_as(dump, sides[0], DiffOptions(tokens="response"))))
    holds(hostile_document())


def test_diff_of_little():
    """A layer without a row, log-probs that are not finite: figures are null."""
    plain = plain_of([[[0, 1], [2, 3]]] * 4, missing=[(t, 1) for t in range(4)], layers=(1, 3))
    sides = []
    for value in (-np.inf, 0.0):
        sample = from_plain(plain, "a", logprobs=np.full(2, value))
        sides.append(make_dump([sample], layers=(1, 3)))
    holds(diff_document(diff_as(*sides, DiffOptions())))


def test_show():
    """A summary, alone and with the expert load; of a dump without samples that have routes."""
    dump = open_dump(RECORDED)
    for detail in (False, True):
        holds(summary_document(summarize(dump), detail=detail))
    bare = [replace(sample, routes=None, logprobs=None) for sample in dump]
    holds(summary_document(summarize(make_dump(bare, dump.meta.layers_L))))


def test_check_and_watch(tiny):
    """Findings with and without a reference, and what watch says: clean, faulty, not checked."""
    dump, versions = tiny
    alone, against = check(dump), check(dump, versions[2].free)
    holds(check_document(alone, fail_on="note"))
    holds(check_document(against, (versions[2].free.meta, 12)))
    for result in (alone, against):
        holds(watch_document("a.jsonl", "2026-01-01T00:00:00+00:00", result))
    error = str(FormatError("cut off"))
    holds(watch_document("a.jsonl", "2026-01-01T00:00:00+00:00", None, error=error))


def gated(dump, scale):
    """The dump's own routes with gate log-probabilities, all ``-scale``."""

    def load(index):
        sample = dump[index]
        logprobs_TLK = np.full(sample.routes.ids_TLK.shape, -scale, np.float32)
        return replace(sample, gates=GateLogprobs(logprobs_TLK, "x"))

    return type(dump)(replace(dump.meta, gates=True), dump.keys, load)


def test_staleness_and_series(tiny):
    """Every part of a staleness report, both modes, and a series of two steps."""
    dump, versions = tiny
    own = versions[0].free.select(samples=range(12)).held()
    both = [Version(v.name, v.free, gated(own, 1 + n / 8)) for n, v in enumerate(versions)]
    options = StalenessOptions(
        own="v0", bootstrap=Bootstrap(replicates=100), noise=(Noise("n", 9, 1),), detail=True
    )
    result = staleness(dump, both, options)
    texts = ("staleness@lag1:0", "mismatch@*:0", "overlap:1%")
    limits = tuple(parse_staleness_threshold(text) for text in texts)
    judged = Judged(texts, judge_staleness(result, limits))
    assert result.shifts
    advice = advise(result, mini_steps=3)
    found = holds(staleness_document(result, advice, options, judged=judged))
    assert any("router_shift" in one for one in found["by_lag"])
    for samples in (range(12), [0]):
        one = staleness(dump.select(samples=samples), both[:1], StalenessOptions(own="v0"))
        holds(staleness_document(one, advise(one)))
    steps = [Step(n, f"step-{n}", found) for n in (3, 5)]
    holds(series_document("run", steps, [("README", "no number")], limits))


def test_predict():
    """Scores of three kinds of routes, and of two; a sequence without rows has no interval."""
    facts = PredictorFacts(
        "qwen3_moe", "v0", ("v1",), {"v0": "ab"}, 9, 3, 1, (PredictorLayer(1, None, 1, 1, 1, 1),)
    )
    ids_TLK = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    for kinds in (("frozen", "extrapolated", "predicted"), ("frozen", "predicted")):
        routes = {kind: ids_TLK + n for n, kind in enumerate(kinds)}
        rows, lens = np.arange(6) < 4, (2, 2, 2)
        scores = predictor_scores(routes, ids_TLK, ("v2", 2), (1, 3), (rows, lens))
        found = PredictionScores("v0", kinds[1], (scores,), (), 4, 2)
        sources = {"v2": "recomputed"}
        holds(prediction_document(found, facts, "x.inputs", sources, (("gain:1%", "v2", 0.5),)))


def test_pack_and_verify(capsys, tmp_path):
    """A manifest as it is printed and as it is kept; what verify finds, right and wrong."""
    folder = tmp_path / "replay"
    (tmp_path / "layout.toml").write_text("framework = 'slime'\ntp = 2\npp = 2\n", "utf-8")
    sizes = ("--layout", tmp_path / "layout.toml", "--layout", "decoder-layers=6")
    packed = printed(capsys, "pack", RECORDED, "--save", folder, *sizes)
    holds(packed, "pack")
    assert packed["layout_from"][0]["keys"] == {"framework": "framework", "tp": "tp", "pp": "pp"}
    holds(json.loads((folder / "manifest.json").read_text("utf-8")))
    holds(printed(capsys, "verify", folder, "--against", RECORDED))
    (folder / "manifest.json").unlink()
    wrong = (*sizes, "--layout", "framework=verl")
    holds(printed(capsys, "verify", folder, "--against", RECORDED, *wrong, code=1))
    save = tmp_path / "back.parquet"
    printed(capsys, "pack", RECORDED, "--save", tmp_path / "whole", *sizes)
    holds(printed(capsys, "unpack", tmp_path / "whole", "--save", save), "written")


def test_ci(capsys, tmp_path):
    """Runs that pass, fail and come to nothing."""
    config = tmp_path / "ci.toml"
    paths = f'old = "{TINY}/vllm.bf16/samples.jsonl"\nnew = "{TINY}/routes_v0.fp32.npz"\n'
    config.write_text(
        f'[checks.over]\nverb = "diff"\n{paths}fail-over = ["mismatch:1%"]\n'
        f'[checks.lost]\nverb = "check"\ndump = "nowhere.jsonl"\n'
        f'[checks.clean]\nverb = "check"\ndump = "{TINY}/routes_v0.fp32.npz"\n'
    )
    found = holds(printed(capsys, "ci", config, code=2))
    assert Counter(run["status"] for run in found["runs"]) == {
        "passed": 1,
        "failed": 1,
        "trouble": 1,
    }
