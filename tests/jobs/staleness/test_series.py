"""routectl staleness --series: the trend over steps, thresholds on the last, broken entries."""

import json
import shutil

import pytest

from routectl.ops.staleness.drift import slope_of
from support.shell import complaint, document, run, written
from support.tiny_rl import ENGINE, TINY

ROUTES = [TINY / f"routes_v{n}.fp32.npz" for n in (0, 1, 2)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of two steps: at the second the current weights are one update later."""
    from routectl.cli.main import main

    folder = tmp_path_factory.mktemp("reports")
    at = [f"--at=v{n}={path}" for n, path in enumerate(ROUTES)]
    for name, last in (("step-9.json", 2), ("step-10.json", 3)):
        line = ["staleness", ENGINE, *at[:last], "--json", "-o", folder / name]
        assert main([str(word) for word in line]) == 0
    return folder


@pytest.fixture
def steps(tmp_path, reports):
    """A folder of these two reports, and a third step as a folder of dumps."""
    folder = tmp_path / "run"
    shutil.copytree(reports, folder)
    third = folder / "step-12"
    third.mkdir()
    shutil.copy(ENGINE, third / "rollout.jsonl")
    shutil.copy(TINY / "config.json", third / "config.json")
    for n in (0, 2):
        shutil.copy(ROUTES[n], third / f"v{n}.npz")
    return folder


def test_the_trend_of_a_run(capsys, steps):
    """Steps ascend by number, whatever they are written as; each figure has its slope per step,
    and a threshold the step that crossed it first.
    """
    doc = document(capsys, "staleness", "--series", steps, "--fail-over", "total:10%", code=1)
    assert doc["schema"] == "routectl.staleness_series/1"
    assert [point["step"] for point in doc["steps"]] == [9, 10, 12]
    assert doc["skipped"] == []
    totals = [point["figures"]["total"] for point in doc["steps"]]
    assert totals == [8749 / 101616, 12780 / 101616, 12780 / 101616]
    trend = next(t for t in doc["trends"] if t["figure"] == "total")
    assert (trend["steps"], trend["first"], trend["last"]) == (3, totals[0], totals[2])
    assert trend["slope"] == pytest.approx(slope_of([9, 10, 12], totals))
    assert doc["steps"][0]["figures"]["staleness@lag1"] == 8536 / 101616
    assert "staleness@lag2" not in doc["steps"][0]["figures"]
    assert doc["steps"][2]["figures"]["staleness@lag2"] == 12565 / 101616
    assert doc["crossings"] == [{"threshold": "total:10%", "first_step": 10}]
    assert [f["metric"] for f in doc["verdict"]["failed"]] == ["total"]
    assert "nothing" not in run(capsys, "staleness", "--series", steps).out


def test_thresholds_are_of_the_last_step(capsys, steps):
    """A limit that an earlier step crossed and the last does not: 0, and the text says where."""
    line = ("staleness", "--series", steps, "--fail-under", "total:9%")
    done = run(capsys, *line)
    assert done.code == 0
    assert done.out.startswith(
        "WITHIN  1 threshold; 3 steps, 9 to 12; thresholds are of the last step\n"
    )
    assert "crossed   total:9%: first at step 9\n" in done.out
    said = complaint(capsys, "staleness", "--series", steps, "--fail-over", "staleness@lag1:20%")
    assert "the last step, step-12, has no staleness@lag1" in said


@pytest.mark.slow
def test_broken_and_foreign_entries_are_named(capsys, steps):
    """What is no step is listed with its reason; the recomputes kept beside a report are not."""
    (steps / "notes.txt").write_text("hello", "utf-8")
    (steps / "step-3.json").write_text("{", "utf-8")
    (steps / "step-4.json").write_text('{"schema": "routectl.diff/1"}', "utf-8")
    (steps / "step-5.json").write_text('{"schema": "routectl.staleness/1"}', "utf-8")
    (steps / "step-6").mkdir()
    (steps / "step-09.json").write_bytes((steps / "step-9.json").read_bytes())
    (steps / "step-10.json.versions").mkdir()
    one = steps / "step-7"
    shutil.copytree(steps / "step-12", one)
    (one / "v2.npz").unlink()
    doc = document(capsys, "staleness", "--series", steps)
    assert {s["entry"]: s["reason"] for s in doc["skipped"]} == {
        "notes.txt": "no number in its name says which step it is",
        "step-3.json": "not JSON: Input data was truncated",
        "step-4.json": "got schema 'routectl.diff/1', expected routectl.staleness/1",
        "step-5.json": "not a whole report of routectl.staleness/1: no advice",
        "step-6": "0 files named rollout.*, expected one",
        "step-7": f"{one / 'rollout.jsonl'}: one version is given, v0: staleness is between two",
        "step-9.json": "step 9 is there already: step-09.json",
    }
    out = run(capsys, "staleness", "--series", steps).out
    assert out.startswith("MEASURED  3 steps, 9 to 12; 7 entries left out\n")
    assert "left out  step-3.json: not JSON: Input data was truncated\n" in out


@pytest.mark.slow
def test_a_broken_last_step_is_not_judged(capsys, steps):
    """With thresholds, a last step that cannot be read is trouble; without, it is named."""
    (steps / "step-13.json").write_text("", "utf-8")
    line = ("staleness", "--series", steps)
    assert run(capsys, *line).code == 0
    said = complaint(capsys, *line, "--fail-over", "total:90%")
    assert "step-13.json: the last step cannot be judged: got an empty file" in said


def test_refusals(capsys, tmp_path, steps):
    """No folder, no step in it, and a report that is there already: exit 2, nothing written."""
    assert "cannot be read" in complaint(capsys, "staleness", "--series", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no step in it" in complaint(capsys, "staleness", "--series", tmp_path / "empty")
    target = tmp_path / "trend.json"
    assert run(capsys, "staleness", "--series", steps, "--json", "-o", target).code == 0
    assert json.loads(target.read_text("utf-8"))["path"] == str(steps)
    before = written(tmp_path)
    assert "already exists" in complaint(capsys, "staleness", "--series", steps, "-o", target)
    assert written(tmp_path) == before


def test_slopes():
    """A slope is that of the least-squares line; one step has none."""
    assert slope_of([1, 2, 4], [0.5, 0.7, 1.1]) == pytest.approx(0.2)
    assert slope_of([1, 2, 3], [0.0, 1.0, 0.0]) == pytest.approx(0.0)
    assert slope_of([3], [1.0]) is None
