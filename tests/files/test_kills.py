"""The kill loop of tests/bench, a few kills of two writers."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench" / "bench_kills.py"


@pytest.mark.slow
def test_a_killed_run_leaves_all_or_nothing():
    """After each kill the destination is whole or absent, and the next run leaves nothing else."""
    line = [sys.executable, str(BENCH), "--kills", "8", "--real", "4", "convert", "pack --force"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.split()[-1] for row in done.stdout.splitlines()] == ["faults", "0", "0"]
