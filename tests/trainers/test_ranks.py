"""Routes in GPTModels of Megatron-Core on four ranks: programs of tests/support, run once each."""

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HAVE_VERL, HAVE_SWIFT = (importlib.util.find_spec(name) is not None for name in ("verl", "swift"))
SIZES = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
pytestmark = [pytest.mark.trainers, pytest.mark.slow]

AGAIN = {"tp2cp2-thd": 0, "tp4-thd": 0, "pp2vpp2-bshd": 0.5}  # recomputed; others whole
TESTS = Path(__file__).parent.parent


@cache
def lines_of(program):
    """What a program of tests/support printed: a case a line, each field by rank."""
    done = subprocess.run(
        [sys.executable, "-m", f"support.{program}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_token_has_its_route_in_megatrons_schedules():
    """Under TP, CP, PP, VPP and EP no row is wrong, forward or recomputed, and all are there."""
    cases = {case["case"]: case for case in lines_of("mcore_live")}
    control = cases.pop("control")
    assert len(cases) == 10
    for name, case in cases.items():
        again = AGAIN.get(name, 1)
        routes = sum(dict(zip(case["dp"], case["routes"], strict=True)).values())
        rows = sum(case["right"]) + sum(case["filler"])
        assert sum(case["wrong"]) == 0, name
        assert sum(case["right"]) == (1 + again) * routes > 0, name
        assert sum(case["recomputed"]) == rows * again / (1 + again), name
        assert (sum(case["left"]), all(case["native"])) == (0, True), name
    assert sum(control["wrong"]) > 0.8 * sum(control["routes"]) / 4


def test_rolls_packed_batches_train_as_unpacked_ones():
    """Under TP and CP of 1, 2, 4 each packed token has its route, and gradients are the same."""
    *cases, control = lines_of("mcore_roll")
    assert len(cases) == 9
    for case in cases:
        groups = 4 // (case["tp"][0] * case["cp"][0])
        assert sum(case["wrong"]) == 0
        assert sum(case["right"]) == groups * 2 * 2 * (21 + 9 + 30 + 17 - 4)  # layers, again
        assert sum(case["recomputed"]) > 0
        assert max(case["apart"]) < 1e-5
        assert sum(case["left"]) == 0
    assert sum(control["wrong"]) > 0
    assert min(control["apart"]) > 1e-2


@pytest.mark.skipif(not (HAVE_VERL and HAVE_SWIFT), reason="verl and ms-swift are not installed")
def test_verl_and_ms_swift_give_the_same_rows():
    """Their own set_router_replay_data gives each token the route that set_replay gives it.

    And a micro-batch with a CP size of its own is cut by the ranks of its group.
    """
    *cases, own = lines_of("mcore_foreign")
    assert own == [{"cp": [2, 1], "rank": [rank % 2, 0]} for rank in range(4)]
    assert {(case["trainer"], case["tp"], case["cp"]) for case in cases} == {
        (trainer, tp, cp) for trainer in ("verl", "ms-swift") for tp, cp in SIZES
    }
    for case in cases:
        groups = 4 // (case["tp"] * case["cp"])
        assert sum(case["wrong"]) == 0
        assert sum(case["real"]) == groups * (21 + 9 + 30 + 17 - 4)
