"""What makes staleness exit 1, and what it warns of: boundaries, lost samples, order, alarms."""

import json

import numpy as np
import pytest

from support.shell import complaint, document, run
from support.tiny_rl import TINY

INPLACE = TINY / "sglang.inplace"
CONFIG = TINY / "config.json"
SWITCHED = (
    "staleness",
    INPLACE / "samples.jsonl",
    f"--at=v0={INPLACE / 'transformers_v0.npz'}",
    f"--at=v0p={INPLACE / 'transformers_v0p.npz'}",
    "--model",
    CONFIG,
)
ROUTES = INPLACE / "transformers_v0.npz"
CALM = ("staleness", ROUTES, "--version-map", "=v0", f"--at=v0={ROUTES}", f"--at=v1={ROUTES}")


def rows_of(doc, group):
    """Rows and mismatched rows of an entry of ``apart``."""
    (entry,) = (entry for entry in doc["apart"] if entry["group"] == group)
    return entry["rows"], entry["rows_mismatched"]


def test_a_recorded_update_in_place_has_no_mismatch(capsys, tmp_path):
    """SGLang's weights were changed while it sampled, under its overlap scheduler: every row is
    that of the weights that made it, the first of the new span that of the old weights.
    """
    doc = document(capsys, *SWITCHED)
    (mismatch,) = (c for c in doc["comparisons"] if c["kind"] == "mismatch")
    assert (mismatch["rows"], mismatch["rows_mismatched"]) == (1806, 0)
    assert doc["boundary"] == {
        "engine": "sglang",
        "exact": False,
        "known": True,
        "tokens": 2,
        "rows": 12,
    }
    assert rows_of(doc, "boundary") == (12, 12)
    assert rows_of(doc, "boundary_before") == (12, 0)
    assert doc["warnings"] == []
    done = run(capsys, *SWITCHED, "--html", tmp_path / "p.html")
    said = (
        "12 rows of 2 tokens may be of either of two versions: spans of sglang may begin one token"
    )
    assert said in done.out
    assert said in (tmp_path / "p.html").read_text("utf-8")


@pytest.mark.parametrize(("engine", "known", "tokens"), [("vllm", True, 0), ("other", False, 2)])
def test_boundaries_by_engine(capsys, tmp_path, engine, known, tokens):
    """Another engine's name on the same answers: vLLM's spans are taken at their word, those of an
    engine that is not known are taken for early ones, and the report says so.
    """
    path = tmp_path / "samples.jsonl"
    lines = []
    for text in (INPLACE / "samples.jsonl").read_text("utf-8").splitlines():
        record = json.loads(text)
        meta = record["response"]["meta_info"]
        about = {name: record[name] for name in ("sample_id", "group_id")}
        about |= {"engine": engine}
        about |= {"prompt_token_ids": record["request"]["input_ids"]}
        about |= {"token_ids": record["response"]["output_ids"]}
        kept = ("routed_experts", "weight_versions")
        lines.append({**about, **{name: meta[name] for name in kept}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    line = (SWITCHED[0], path, *SWITCHED[2:])
    doc = document(capsys, *line)
    found = doc["boundary"]
    assert (found["known"], found["exact"], found["tokens"]) == (known, known, tokens)
    (mismatch,) = (c for c in doc["comparisons"] if c["kind"] == "mismatch")
    assert mismatch["rows_mismatched"] == (12 if known else 0)
    out = run(capsys, *line).out
    assert ("whether spans begin early is not known (other)" in out) == (not known)


def test_samples_that_no_version_covers_are_exit_1(capsys, tmp_path):
    """They are in the verdict line and count whatever other thresholds say, unless allowed."""
    part = tmp_path / "v0.npz"
    with np.load(ROUTES) as arrays:
        np.savez(part, **{name: arrays[name] for name in arrays if name[:3] != "001"})
    line = (*SWITCHED[:2], f"--at=v0={part}", *SWITCHED[3:])
    for more in ((), ("--fail-over", "mismatch:50%")):
        done = run(capsys, *line, *more)
        assert done.code == 1, done.err
        assert done.out.startswith("UNCOVERED  ")
        assert "; 1 sample that a version does not cover" in done.out.splitlines()[0]
    doc = document(capsys, *line, code=1)
    assert doc["verdict"]["unmatched"] == {"samples": 1, "layers": 0, "rows": 0}
    assert run(capsys, *line, "--allow-unmatched").code == 0
    assert run(capsys, *line, "--fail-over", "unmatched:1").code == 0
    assert run(capsys, *line, "--fail-over", "unmatched:0").code == 1


def test_versions_out_of_order_are_warned_of(capsys):
    """The newer one first, or one twice: a line on stderr and a key of the document name both."""
    line = (*CALM[:4], f"--at=v1={ROUTES}", f"--at=v0={ROUTES}")  # --version-map =v0
    doc = document(capsys, *line)
    warning, alike = doc["warnings"]
    rows = doc["comparisons"][0]["rows"]
    assert alike.startswith(
        f"v1 and v0 have the same routes in all {rows:,} rows: the same weights"
    )
    assert warning.endswith("v1 before v0; the dump says that v0 made it")
    done = run(capsys, *line)
    assert done.err.count(f"routectl: warning: {warning}\n") == 1
    assert done.err.count(f"routectl: warning: {alike}\n") == 1
    assert f"warning   {warning}" in done.out
    quiet = run(capsys, *CALM)
    assert "out of order" not in quiet.err + quiet.out
    swapped = (*SWITCHED[:2], *SWITCHED[3:1:-1], *SWITCHED[4:])
    (warning,) = document(capsys, *swapped)["warnings"]
    assert warning.endswith("v0p before v0, but 2 samples went from v0 to v0p")


def test_fail_on_alarm(capsys, tmp_path):
    """An alarm of the advice is exit 1 where that is asked for, of a series by its last step."""
    assert run(capsys, *SWITCHED).code == 0
    done = run(capsys, *SWITCHED, "--fail-on", "alarm")
    assert (done.code, done.out.split()[0]) == (1, "ALARM")
    assert run(capsys, *CALM, "--fail-on", "alarm").code == 0
    folder = tmp_path / "steps"
    folder.mkdir()
    for step, line in ((1, SWITCHED), (2, CALM)):
        run(capsys, *line, "-o", folder / f"step-{step}.json")
    series = ("staleness", "--series", folder, "--fail-on", "alarm")
    assert document(capsys, *series)["verdict"]["alarms"] == 0
    (folder / "step-1.json").rename(folder / "step-3.json")
    assert document(capsys, *series, code=1)["verdict"]["alarms"] == 1
    said = complaint(capsys, *SWITCHED, "--fail-on", "error")
    assert "--fail-on 'error' is not known: alarm" in said
