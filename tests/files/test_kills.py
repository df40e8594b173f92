"""The kill loop of tests/bench, a few kills of two writers."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench" / "bench_kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["convert", "pack --force"])
def test_a_killed_run_leaves_all_or_nothing(writer):
    """After each kill the destination is whole or absent, and the next run leaves nothing else."""
    line = [sys.executable, str(BENCH), "--kills", "8", "--real", "4", writer]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split()[-1] == "0"
