"""tests/bench/gpu.sh: on the CPU all of it runs, and what is wrong is its exit code."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def gpu(monkeypatch):
    """The program, whose settings of the process are undone."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    spec = importlib.util.spec_from_file_location("gpu", BENCH / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.models
def test_all_of_it_runs_on_the_cpu(tmp_path):
    """Every part has its lines, says that it measures no GPU, and leaves no file."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [BENCH / "gpu.sh", "--cpu", "--dir", tmp_path],
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "cpu: not a measurement of a GPU" in done.stdout
    for part in ("passed", "routes of plain | yes", "from_pretrained", "all overlapped"):
        assert part in done.stdout
    for part in ("record of", "replay of", "checkpointed", "router inputs, DeepSeek-V3"):
        assert part in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_exit_1(gpu, monkeypatch, capsys, tmp_path):
    """A claim that does not hold is named under the table."""
    for part in ("recompute", "training", "router_inputs"):
        monkeypatch.setattr(gpu, part, lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--cpu", "--dir", str(tmp_path)])
    for holds, code in ((True, 0), (False, 1)):
        monkeypatch.setattr(
            gpu, "run_tests", lambda report, _, holds=holds: report.hold("it", holds)
        )
        assert gpu.main() == code
        assert ("WRONG: it" in capsys.readouterr().out) is not holds


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(gpu, monkeypatch, capsys):
    """Without --cpu and without a device nothing runs: exit 2."""
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert "no CUDA device" in capsys.readouterr().err
