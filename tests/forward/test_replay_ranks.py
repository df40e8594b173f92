"""replay on tensor and sequence parallel ranks of Megatron-Core: a program of tests/support."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.trainers, pytest.mark.slow]

TESTS = Path(__file__).parent.parent
ROWS = 3 * 8 * 2  # of a batch in two MoE layers


def test_each_rank_is_given_its_slice_or_refused():
    """Under TP + SP of 2 and 4, plain, recomputed and in Megatron's DDP, every row of every rank
    has its token's route, the proof says so, and a stage takes its own layers of a model's routes;
    without the rank, with another's, and for record, each is refused by name."""
    done = subprocess.run(
        [sys.executable, "-m", "support.mcore_shards"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = {case["case"][0]: case for case in map(json.loads, done.stdout.splitlines())}
    assert len(cases) == 5
    for name, case in cases.items():
        tp = {"tp4": 4, "tp1": 1}.get(name, 2)
        ranks = len(case["wrong"])
        assert set(case["wrong"]) == set(case["wrong_stage"]) == {0}, name
        assert case["rows"] == [ROWS // tp] * ranks
        assert case["again"] == [ROWS // tp if "recomputed" in name else 0] * ranks
        assert case["seen"] == case["given"] == [[ROWS // tp // 2] * 2] * ranks
        assert case["other"] == [[0, 0]] * ranks
        assert all(f"tp below {tp}" in said for said in case["beyond"])
        if tp > 1:
            assert all(wrong > 0.8 * ROWS / tp for wrong in case["control"])
            assert all("pass rank=routectl.Rank(tp=" in said for said in case["without"])
            assert all("this rank's tp is" in said for said in case["another"])
            assert all("record on a rank that has whole" in said for said in case["record"])
