"""Log-probs that are no numbers, from the file to every voice: over, "not finite", strict JSON."""

import json
import math
from functools import partial

import pytest

from routectl.ops.staleness.thresholds import parse_staleness_threshold
from routectl.reports.document import to_json
from routectl.reports.staleness.series import Step, series_document
from support.ci_configs import EXACT, config
from support.recordings import FIXTURES
from support.shell import run

HERE = FIXTURES / "hostile" / "logprobs"
OLD, MODEL = HERE / "nat.parquet", HERE / "ds.json"
NAMES = ["neginf", "one_neginf", "posinf", "1e308", "nan", "null"]
DIFF = ("--model", MODEL, "--match", "tokens")


def _refused(word):
    raise AssertionError(f"{word} is no JSON")


strict = partial(json.loads, parse_constant=_refused)


@pytest.fixture(name="new", params=NAMES)
def new_(request, tmp_path):
    """A dump whose log-probs are none: those of fixtures/, and one NaN, and one null."""
    path = HERE / f"logprobs_{request.param}.jsonl"
    if path.exists():
        return path
    text = (HERE / "logprobs_one_neginf.jsonl").read_text("utf-8")
    path = tmp_path / f"{request.param}.jsonl"
    path.write_text(text.replace("-Infinity", {"nan": "NaN"}.get(request.param, "null")), "utf-8")
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limit", ["k3:0.001", "k1:0.001", "abs_d:9", "k3:-1"])
def test_a_gate_is_over(capsys, new, limit):
    """Every limit on such a figure is crossed, with words that say why; JSON stays strict."""
    for flag in ("--fail-over", "--fail-under"):
        done = run(capsys, "diff", OLD, new, *DIFF, flag, limit)
        assert (done.code, done.err) == (1, "")
        assert done.out.startswith("OVER  1 threshold crossed; 0 of 512 rows differ")
        assert f"  {limit}: {limit.partition(':')[0]} is not finite (" in done.out
        doc = strict(run(capsys, "diff", OLD, new, *DIFF, flag, limit, "--json").out)
        (failed,) = doc["verdict"]["failed"]
        assert failed["value"] is None
        assert not math.isfinite(float(failed["not_finite"]))
        assert doc["verdict"]["exit_code"] == 1


def test_ungated(capsys, new):
    """Without a threshold the routes decide; figures that are not finite are told from none."""
    done = run(capsys, "diff", OLD, new, *DIFF, "--json")
    assert done.code == 0
    figures = strict(done.out)["logprobs"]
    if new.stem in ("nan", "null"):
        assert figures["tokens_of_one_side"] == 1
        assert figures["k3"] == 0
        return
    told = figures["not_finite"]
    undefined = {"pearson_probs"}  # of two tokens, where a side may be constant
    absent = {name for name, value in figures.items() if value is None}
    assert absent - undefined == set(told) - undefined
    assert {"k1", "k3", "mean_abs_d"} <= set(told)
    assert told["k3"] == "inf"
    assert told["k1"] == ("inf" if "neg" in new.stem else "-inf")


def test_pages_and_saved_reports(capsys, new, tmp_path):
    """A page is written, and a saved report reads as it was printed, on a page and as text."""
    page, saved = tmp_path / "x.html", tmp_path / "x.json"
    line = ("diff", OLD, new, *DIFF, "--fail-over", "k3:0.001")
    text = run(capsys, *line).out
    assert run(capsys, *line, "--html", page).code == 1
    assert run(capsys, *line, "-o", saved).code == 1
    assert run(capsys, "report", saved).out == text
    assert run(capsys, "report", saved, "-o", page, "--force").code == 0
    assert "k3 is not finite" in page.read_text("utf-8")


def test_ci_goes_on(capsys, new, tmp_path):
    """In a config it is that check's failure: the others run, and every voice is written."""
    over = {"verb": "diff", "old": str(OLD), "new": str(new), "match": "tokens"}
    over |= {"model": str(MODEL), "fail-over": ["k3:0.001", "k1:+1"]}
    path = config(tmp_path, over=over, same=EXACT)
    voices = {name: tmp_path / name for name in ("ci.xml", "ci.json", "events")}
    flags = ["--junit", voices["ci.xml"], "--github", "-o", voices["ci.json"]]
    done = run(capsys, "ci", path, *flags, "--update-baseline")
    assert done.code == 1
    told = run(capsys, "report", voices["ci.json"], "--tensorboard", voices["events"])
    assert told.code == 0
    doc = strict(voices["ci.json"].read_text("utf-8"))
    assert [r["status"] for r in doc["runs"]] == ["failed", "passed"]
    assert [line.split(" (")[0] for line in doc["runs"][0]["details"]] == [
        "k3:0.001: k3 is not finite",
        "k1:+1: k1 is not finite",
    ]
    assert 'failures="1"' in voices["ci.xml"].read_text("utf-8")
    assert "::error title=routectl diff%3A over::OVER" in done.err
    kept = strict((tmp_path / "ci.baseline.json").read_text("utf-8"))["checks"]
    assert list(kept) == ["over", "same"]
    assert list(voices["events"].iterdir())


@pytest.mark.parametrize("figure", ["inf", "-inf", "nan", None])
def test_series(figure):
    """A step of a series whose figure is not finite is over, and the table says so; so is one of
    a report of before, which has null alone.
    """
    step = json.loads((FIXTURES / "golden" / "staleness.json").read_text("utf-8"))
    for one in step["comparisons"]:
        one["logprobs"] = {"tokens": 9, "k1": 0.1, "k3": None, "mean_abs_d": 0.1}
        one["logprobs"] |= {"max_abs_d": 0.2, "tau": 2.0, "f_tau": 0.0}
        if figure is not None:
            one["logprobs"]["not_finite"] = {"k3": figure}
    limits = [parse_staleness_threshold("k3:1", over=over) for over in (True, False)]
    doc = strict(to_json(series_document("x", [Step(1, "a", step)], [], limits)))
    assert [f["metric"] for f in doc["verdict"]["failed"]] == ["k3", "k3"]
    assert {f["not_finite"] for f in doc["verdict"]["failed"]} == {figure or "nan"}
    assert doc["verdict"]["exit_code"] == 1
    assert doc["steps"][0]["figures"]["k3"] is None
    assert doc["steps"][0]["not_finite"]["k3"] == (figure or "nan")
    assert "k3" not in [trend["figure"] for trend in doc["trends"]]
    assert [c["first_step"] for c in doc["crossings"]] == [1, 1]


def test_nan_of_a_trainer(capsys, tmp_path):
    """NaN in a torch file's log-probs is over too, unless its loss mask leaves the token out."""
    import torch

    path = tmp_path / "slime.pt"
    assert run(capsys, "convert", OLD, "--save", path, "--to", "slime").code == 0
    doc = torch.load(path, weights_only=False)
    line = ("diff", OLD, path, *DIFF, "--fail-over", "k3:0.001")
    assert run(capsys, *line).code == 0
    doc["samples"][1]["rollout_log_probs"][3] = math.nan
    torch.save(doc, path)
    done = run(capsys, *line)
    assert done.code == 1
    assert "k3 is not finite (nan), limit 0.001" in done.out
    assert "; 1 more token on one side alone" in done.out
    size = len(doc["samples"][1]["rollout_log_probs"])
    doc["samples"][1]["loss_mask"] = [int(i != 3) for i in range(size)]
    torch.save(doc, path)
    assert run(capsys, *line).code == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", ["jsonl", "jsonl-sglang", "nemo-rl", "npz", "slime", "skyrl"])
def test_what_is_converted(capsys, new, tmp_path, target):
    """What a target holds comes back so, or is refused in one line: never a number in its place."""
    ending = {"slime": "pt", "skyrl": "pt", "npz": "npz"}.get(target, "jsonl")
    path = tmp_path / f"x.{ending}"
    done = run(capsys, "convert", new, "--save", path, "--to", target, "--model", MODEL)
    if "inf" in new.stem and path.suffix == ".jsonl":
        assert done.code == 2
        assert "has a log-prob that is infinite, for which JSON has no number" in done.err
        assert not path.exists()
        return
    assert done.code == 0
    back = run(capsys, "diff", OLD, path, *DIFF, "--fail-over", "k3:0.001")
    assert back.code == 1
    assert "k3 is not finite" in back.out
