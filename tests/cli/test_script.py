"""The command line through the installed script: exit codes, streams, files, signals."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = str(Path(sys.executable).parent / "routectl")
ENGINE = "fixtures/tiny_rl/vllm.bf16/samples.jsonl"
TRAINER = "fixtures/tiny_rl/routes_v0.fp32.npz"


def routectl(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the installed script in the repository root, not on a terminal."""
    return subprocess.run(
        [SCRIPT, *args], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )


def complaint(*args: str) -> str:
    """The error of a run that must exit 2 with an empty stdout and no traceback."""
    done = routectl(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("routectl: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    return done.stderr


class TestExitCodes:
    """0 same or within, 1 differs or over, 2 trouble."""

    def test_same_is_0(self) -> None:
        """A dump against itself is the same."""
        done = routectl("diff", ENGINE, ENGINE)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("SAME")

    def test_different_is_1(self) -> None:
        """A mismatched row is exit 1, and --exit-zero makes it 0."""
        assert routectl("diff", ENGINE, TRAINER).returncode == 1
        assert routectl("diff", ENGINE, TRAINER, "--exit-zero").returncode == 0

    @pytest.mark.parametrize(
        ("flags", "code"),
        [
            (["--fail-over", "mismatch:3%"], 0),
            (["--fail-over", "mismatch:2%"], 1),
            (["--fail-over", "mismatch@5:3%"], 1),
            (["--fail-over", "mismatch@0:3%"], 0),
            (["--fail-over", "mismatch@*:3%"], 1),
            (["--fail-under", "overlap:0.99"], 0),
            (["--fail-under", "overlap:99.9%"], 1),
            (["--fail-over", "mismatch:3%", "--fail-under", "coverage:1"], 0),
            (["--fail-over", "rows_mismatched:2054"], 1),
            (["--fail-over", "rows_mismatched:2055"], 0),
        ],
    )
    def test_thresholds_decide(self, flags: list[str], code: int) -> None:
        """With thresholds, only they decide between 0 and 1."""
        assert routectl("diff", ENGINE, TRAINER, *flags).returncode == code

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["nonsense"], "No such command"),
            (["diff"], "Missing argument"),
            (["diff", ENGINE], "Missing argument"),
            (["diff", ENGINE, TRAINER, "--nope"], "No such option"),
            (["diff", ENGINE, "none.npz"], "none.npz: cannot be read: No such file"),
            (["diff", ENGINE, TRAINER, "--fail-over", "nope:1"], "'nope' is not known: mismatch"),
            (["diff", ENGINE, TRAINER, "--fail-over", "mismatch:7"], "expected 0..1"),
            (["diff", ENGINE, TRAINER, "--fail-over", "import os"], "expected METRIC"),
            (["diff", ENGINE, TRAINER, "--fail-over", "k3:1"], "there is no k3"),
            (["diff", ENGINE, TRAINER, "--layers", "3-1"], "expected an ascending range"),
            (["diff", ENGINE, TRAINER, "--layers", "9"], "not MoE layers of both"),
            (["diff", ENGINE, TRAINER, "--match", "luck"], "'luck' is not known: auto"),
            (["diff", ENGINE, TRAINER, "--tokens", "few"], "'few' is not known: all"),
            (["diff", ENGINE, TRAINER, "--format", "xml"], "'xml' is not known: json"),
            (["diff", ENGINE, TRAINER, "--top-k", "4"], "also needs"),
            (["diff", ENGINE, "fixtures/hf/vllm.qwen3_moe.fp32.npz"], "nothing to compare"),
            (["diff", ENGINE, "fixtures/hf/vllm.qwen3_moe_soft.bf16.npz"], "top_k is 4 in OLD"),
            (["show", ENGINE, "--model", "README.md"], "README.md: not JSON"),
            (["convert", ENGINE, "out.txt"], "expected NAME.parquet"),
        ],
    )
    def test_trouble_is_2(self, args: list[str], said: str) -> None:
        """Trouble is exit 2 with one line that says what was wrong."""
        assert said in complaint(*args)

    def test_no_arguments(self) -> None:
        """Without arguments the help is printed and the exit code is 2."""
        done = routectl()
        assert done.returncode == 2
        assert done.stdout.startswith("Usage: routectl")

    def test_version(self) -> None:
        """--version prints the version of the package."""
        import routectl as package

        assert routectl("--version").stdout == f"routectl {package.__version__}\n"


class TestStreams:
    """stdout is the answer; files are whole or absent."""

    def test_json_is_the_library_value(self) -> None:
        """--json prints what diff_document returns."""
        import routectl as package

        old = package.open_dump(ROOT / ENGINE)
        new = package.open_dump(ROOT / TRAINER)
        document = package.diff_document(package.diff(old, new))
        printed = json.loads(routectl("diff", ENGINE, TRAINER, "--json").stdout)
        for side in ("old", "new"):
            for place in (document, printed):
                place[side].pop("path")
                place[side].pop("facts_source")
        assert printed == json.loads(json.dumps(document))

    def test_output_file(self, tmp_path: Path) -> None:
        """-o writes the report whole, and refuses to replace it without --force."""
        target = tmp_path / "report.json"
        args = ("diff", ENGINE, TRAINER, "--json", "-o", str(target))
        done = routectl(*args)
        assert (done.returncode, done.stdout) == (1, "")
        assert json.loads(target.read_text("utf-8"))["rows"] == 101616
        target.write_text("kept", "utf-8")
        assert "already exists" in complaint(*args)
        assert target.read_text("utf-8") == "kept"
        assert routectl(*args, "--force").returncode == 1
        assert target.read_text("utf-8") != "kept"
        assert list(tmp_path.iterdir()) == [target]

    def test_text_output_file_is_plain(self, tmp_path: Path) -> None:
        """A text report in a file is what a pipe gets."""
        target = tmp_path / "report.txt"
        routectl("diff", ENGINE, TRAINER, "-o", str(target))
        assert target.read_text("utf-8") == routectl("diff", ENGINE, TRAINER, "-o", "-").stdout

    def test_convert_keeps_everything(self, tmp_path: Path) -> None:
        """A converted dump is the same as its source, log-probs included."""
        target = tmp_path / "native.parquet"
        assert routectl("convert", ENGINE, str(target)).returncode == 0
        report = json.loads(routectl("diff", ENGINE, str(target), "--json").stdout)
        assert report["rows_mismatched"] == report["order_mismatches"] == 0
        assert report["coverage_rate"] == 1
        assert report["logprobs"]["tokens"] == 9216
        assert report["logprobs"]["max_abs_d"] == 0
        assert "already exists" in complaint("convert", ENGINE, str(target))

    def test_sizes_instead_of_a_config(self, tmp_path: Path) -> None:
        """--num-layers, --top-k and --num-experts stand in for --model."""
        copy = tmp_path / "alone.jsonl"
        copy.write_bytes((ROOT / ENGINE).read_bytes())
        assert "--model" in complaint("show", str(copy))
        sizes = ("--num-layers", "6", "--top-k", "4", "--num-experts", "32")
        assert routectl("show", str(copy), *sizes).returncode == 0

    def test_incomparable_layer_is_trouble(self, tmp_path: Path) -> None:
        """A layer that is filler on one side is exit 2, after the report."""
        import numpy as np

        ids = np.tile(np.arange(4, dtype=np.uint8), (5, 2, 1))
        holed = ids.copy()
        holed[:, 1] = 0
        np.savez(tmp_path / "a.npz", s=ids)
        np.savez(tmp_path / "b.npz", s=holed)
        sizes = ("--num-layers", "2", "--top-k", "4", "--num-experts", "8")
        done = routectl("diff", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), *sizes)
        assert done.returncode == 2
        assert done.stdout.startswith("INCOMPARABLE")
        assert "first: layer 1" in done.stderr


class TestSignals:
    """A closed pipe and Ctrl-C end the run as they end any Unix tool."""

    def test_closed_pipe_is_141(self) -> None:
        """When the reader of stdout goes away, the exit code is 141 and stderr is empty."""
        line = f"{SCRIPT} diff {ENGINE} {TRAINER} --json | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert (done.stdout.strip(), done.stderr) == ("141", "")

    def test_interrupt_is_130(self, tmp_path: Path) -> None:
        """Ctrl-C while a dump is read ends the run with 130 and no traceback."""
        pipe = tmp_path / "dump.jsonl"
        os.mkfifo(pipe)
        process = subprocess.Popen(
            [SCRIPT, "show", str(pipe)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not inherited
        )
        writer = -1
        while writer < 0:
            with contextlib.suppress(OSError):
                writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            assert process.poll() is None, errno.errorcode
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        os.close(writer)
        assert process.returncode == 130
        assert "Traceback" not in error
