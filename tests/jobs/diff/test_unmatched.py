"""Lost samples through the commands: diff, a saved report, ci with its JUnit, a page, scalars."""

import json
from xml.etree import ElementTree as ET

import pytest

from support.ci_configs import config
from support.shell import document, run
from support.tiny_rl import ENGINE, TINY


@pytest.fixture(name="ten", scope="module")
def ten_(tmp_path_factory):
    """The first ten lines of a recording of 96 samples."""
    path = tmp_path_factory.mktemp("ten") / "ten.jsonl"
    path.write_text("".join(ENGINE.read_text("utf-8").splitlines(keepends=True)[:10]))
    (path.parent / "config.json").write_bytes((TINY / "config.json").read_bytes())
    return path


def test_lost_samples_are_not_the_same(capsys, ten):
    """The rows that are left agree: exit 1, with other thresholds too, and the line says why."""
    for sides in ((ENGINE, ten), (ten, ENGINE)):
        for more in ((), ("--fail-over", "mismatch:5%"), ("--fail-under", "overlap:90%")):
            done = run(capsys, "diff", *sides, *more)
            assert done.code == 1
            first = done.out.splitlines()[0]
            assert first.startswith("DIFFERS  0 of 6,804 rows differ; 86 samples without a partner")
            assert first.endswith("; coverage 6.70 %")
    limits = ("--fail-under", "coverage:99%", "--fail-over", "mismatch:5%")
    assert run(capsys, "diff", ENGINE, ten, *limits).out.startswith("OVER  1 threshold crossed")
    allowed = run(capsys, "diff", ENGINE, ten, "--allow-unmatched")
    assert (allowed.code, allowed.out.split()[0]) == (0, "SAME")
    assert "86 samples without a partner" in allowed.out.splitlines()[0]
    assert run(capsys, "diff", ENGINE, ENGINE).out.startswith("SAME  0 of 101,616 rows differ\n")


def test_coverage_is_the_share_of_all_rows(capsys, ten):
    """6,804 rows of ten samples, of the 101,616 of all."""
    doc = document(capsys, "diff", ENGINE, ten, code=1)
    assert doc["coverage_rate"] == pytest.approx(6804 / 101616)
    assert doc["rows_unmatched_old"] == 101616 - 6804
    assert doc["verdict"]["unmatched"] == {"samples": 86, "layers": 0, "rows": 0}
    assert doc["verdict"]["differs"]


def test_the_page_and_a_saved_report_say_it(capsys, ten, tmp_path):
    """The first line is one and the same wherever it is read."""
    line = ("diff", ENGINE, ten)
    first = run(capsys, *line).out.splitlines()[0]
    run(capsys, *line, "--html", tmp_path / "a.html")
    (tmp_path / "a.json").write_text(run(capsys, *line, "--json").out)
    assert run(capsys, "report", tmp_path / "a.json").out.splitlines()[0] == first
    assert first.partition("  ")[2] in (tmp_path / "a.html").read_text("utf-8")


def test_ci_fails_a_check_that_lost_samples(capsys, ten, tmp_path):
    """The run fails, its summary and JUnit's message are the verdict line, its details the loss."""
    check = {"verb": "diff", "old": str(ENGINE), "new": str(ten), "fail-over": "mismatch:5%"}
    path = config(tmp_path, lost=check, allowed={**check, "allow-unmatched": True})
    junit = tmp_path / "j.xml"
    done = run(capsys, "ci", path, "--json", "--junit", junit)
    assert done.code == 1
    lost, allowed = json.loads(done.out)["runs"]
    assert (lost["status"], allowed["status"]) == ("failed", "passed")
    assert lost["summary"].startswith(
        "DIFFERS  0 of 6,804 rows differ; 86 samples without a partner"
    )
    assert lost["details"] == ["86 samples without a partner"]
    assert lost["metrics"]["routectl/unmatched"] == 86
    (failure,) = ET.parse(junit).iter("failure")
    assert failure.get("message") == lost["summary"]
    assert failure.text == "86 samples without a partner"
