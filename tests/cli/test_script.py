"""The command line: exit codes, streams, files; and a handful of lines of the installed script."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.shell import complaint, run

ROOT = Path(__file__).parent.parent.parent
SCRIPT = str(Path(sys.executable).parent / "routectl")
ENGINE = "fixtures/tiny_rl/vllm.bf16/samples.jsonl"
TRAINER = "fixtures/tiny_rl/routes_v0.fp32.npz"
MODEL = "fixtures/tiny_rl/config.json"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line runs in the repository's root."""
    monkeypatch.chdir(ROOT)


def installed(*args: str) -> tuple[int, str, str]:
    """What the installed script says, not on a terminal: exit code, stdout, stderr."""
    done = subprocess.run([SCRIPT, *args], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


class TestScript:
    """The script that pip installs."""

    def test_exit_codes(self) -> None:
        """The script exits with the code of main, and says what main says."""
        code, out, err = installed("diff", ENGINE, ENGINE)
        assert (code, err) == (0, "")
        assert out.startswith("SAME")
        assert installed("diff", ENGINE, TRAINER)[0] == 1
        code, out, err = installed("diff", ENGINE, "none.npz")
        assert (code, out) == (2, "")
        assert err == "routectl: none.npz: cannot be read: No such file or directory\n"

    def test_version(self) -> None:
        """--version prints the version of the package."""
        import routectl as package

        assert installed("--version")[1] == f"routectl {package.__version__}\n"


class TestExitCodes:
    """0 same or within, 1 differs or over, 2 trouble."""

    def test_same_is_0(self, capsys) -> None:
        """A dump against itself is the same."""
        done = run(capsys, "diff", ENGINE, ENGINE)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("SAME")

    def test_different_is_1(self, capsys) -> None:
        """A mismatched row is exit 1, and --exit-zero makes it 0."""
        assert run(capsys, "diff", ENGINE, TRAINER).code == 1
        assert run(capsys, "diff", ENGINE, TRAINER, "--exit-zero").code == 0

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
    def test_thresholds_decide(self, capsys, flags: list[str], code: int) -> None:
        """With thresholds, only they decide between 0 and 1."""
        assert run(capsys, "diff", ENGINE, TRAINER, *flags).code == code

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
            (["diff", f"{ENGINE}::format=xml", TRAINER], "'xml' is not known: json"),
            (["diff", ENGINE, TRAINER, "--model", "6,0,32"], "got K 0, expected 1 to 32"),
            (["diff", ENGINE, "fixtures/hf/vllm.qwen3_moe.fp32.npz"], "nothing to compare"),
            (["diff", ENGINE, "fixtures/hf/vllm.qwen3_moe_soft.bf16.npz"], "top_k is 4 in OLD"),
            (
                ["show", ENGINE, "--model", "README.md"],
                "README.md: got text, expected an HF config.json",
            ),
            (["convert", ENGINE, "--save", "out.txt"], "expected NAME.parquet"),
            (["diff", ENGINE, ""], "got an empty path: a variable without a value?"),
            (["check", ENGINE, "--against", ""], "got an empty path"),
            (["show", "::start=0"], "got an empty path"),
            (["show", ENGINE, "--model", ""], "got an empty path"),
            (["convert", ENGINE, "--save", ""], "got an empty path"),
            (["watch", "", "--once"], "got an empty path"),
        ],
    )
    def test_trouble_is_2(self, capsys, args: list[str], said: str) -> None:
        """Trouble is exit 2 with one line that says what was wrong."""
        assert said in complaint(capsys, *args)

    @pytest.mark.parametrize(
        "line", ["diff a b --fail-over", "check --against", "predict fit x --save", "show a --nope"]
    )
    def test_usage_hints_at_the_commands_help(self, capsys, line: str) -> None:
        """A line that is typed wrong points at the help of its own command."""
        command = "predict fit" if "fit" in line else line.split()[0]
        assert complaint(capsys, *line.split()).endswith(f"hint: routectl {command} --help\n")

    def test_no_arguments(self, capsys) -> None:
        """Without arguments the help is printed and the exit code is 2."""
        done = run(capsys)
        assert done.code == 2
        assert done.out.startswith("Usage: routectl")


class TestStreams:
    """stdout is the answer; files are whole or absent."""

    def test_json_is_the_library_value(self, capsys) -> None:
        """--json prints what the library says of two paths; of dumps, all but what was typed."""
        import routectl as package

        printed = json.loads(run(capsys, "diff", ENGINE, TRAINER, "--model", MODEL, "--json").out)
        assert printed == package.diff(ENGINE, TRAINER, model=MODEL).to_dict()
        old, new = (package.open_dump(ROOT / path, model=MODEL) for path in (ENGINE, TRAINER))
        document = package.diff_document(package.diff(old, new))
        del printed["asked"]
        for side in ("old", "new"):
            for place in (document, printed):
                place[side].pop("path")
        assert printed == json.loads(json.dumps(document))

    def test_output_file(self, capsys, tmp_path: Path) -> None:
        """-o writes the report whole, and refuses to replace it without --force."""
        target = tmp_path / "report.json"
        args = ("diff", ENGINE, TRAINER, "--json", "-o", str(target))
        done = run(capsys, *args)
        assert (done.code, done.out) == (1, "")
        assert json.loads(target.read_text("utf-8"))["rows"] == 101616
        target.write_text("kept", "utf-8")
        assert "already exists" in complaint(capsys, *args)
        assert target.read_text("utf-8") == "kept"
        assert run(capsys, *args, "--force").code == 1
        assert target.read_text("utf-8") != "kept"
        assert list(tmp_path.iterdir()) == [target]

    def test_text_output_file_is_plain(self, capsys, tmp_path: Path) -> None:
        """A text report in a file is what a pipe gets."""
        target = tmp_path / "report.txt"
        run(capsys, "diff", ENGINE, TRAINER, "-o", str(target))
        assert target.read_text("utf-8") == run(capsys, "diff", ENGINE, TRAINER, "-o", "-").out

    def test_convert_keeps_everything(self, capsys, tmp_path: Path) -> None:
        """A converted dump is the same as its source, log-probs included."""
        target = tmp_path / "native.parquet"
        assert run(capsys, "convert", ENGINE, "--save", str(target)).code == 0
        report = json.loads(run(capsys, "diff", ENGINE, str(target), "--json").out)
        assert report["rows_mismatched"] == report["order_mismatches"] == 0
        assert report["coverage_rate"] == 1
        assert report["logprobs"]["tokens"] == 9216
        assert report["logprobs"]["max_abs_d"] == 0
        assert "already exists" in complaint(capsys, "convert", ENGINE, "--save", str(target))

    def test_sizes_instead_of_a_config(self, capsys, tmp_path: Path) -> None:
        """LAYERS,K,E stand in for a config."""
        copy = tmp_path / "alone.jsonl"
        copy.write_bytes((ROOT / ENGINE).read_bytes())
        assert "hint: --model" in complaint(capsys, "check", str(copy))
        sizes = ("--model", "6,4,32")
        assert run(capsys, "show", str(copy), *sizes).code == 0

    def test_incomparable_layer_is_trouble(self, capsys, tmp_path: Path) -> None:
        """A layer that is filler on one side is exit 2, after the report."""
        import numpy as np

        ids = np.tile(np.arange(4, dtype=np.uint8), (5, 2, 1))
        holed = ids.copy()
        holed[:, 1] = 0
        np.savez(tmp_path / "a.npz", s=ids)
        np.savez(tmp_path / "b.npz", s=holed)
        sizes = ("--model", "2,4,8")
        done = run(capsys, "diff", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), *sizes)
        assert done.code == 2
        assert done.out.startswith("INCOMPARABLE")
        assert "first: layer 1" in done.err

    @pytest.mark.parametrize("args", [("diff", ENGINE, ENGINE), ("--version",), ("diff", "--help")])
    def test_closed_stdout_is_trouble(self, args: tuple[str, ...]) -> None:
        """An answer that has nowhere to go is 2, never 1, and one line says so."""
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", SCRIPT, *args], capture_output=True, text=True
        )
        said = "routectl: stdout: cannot be written: Bad file descriptor\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)

    def test_closed_stderr_changes_nothing(self, tmp_path: Path) -> None:
        """Without stderr and stdin the answer, the files and the exit code are the same."""
        for args, code in (
            (("diff", ENGINE, TRAINER), 1),
            (("diff", ENGINE, "none.npz"), 2),
            (("convert", ENGINE, "--save", str(tmp_path / "a.parquet")), 0),
            (("show", "-", "--model", MODEL), 2),
        ):
            done = subprocess.run(
                ["sh", "-c", 'exec "$@" 2>&- <&-', "sh", SCRIPT, *args], capture_output=True
            )
            assert done.returncode == code, args
            assert done.stderr == b""
        assert installed("diff", ENGINE, str(tmp_path / "a.parquet"))[0] == 0


class TestSignals:
    """A closed pipe and Ctrl-C end the run as they end any Unix tool."""

    def test_closed_pipe_is_141(self) -> None:
        """When the reader of stdout goes away, the exit code is 141 and stderr is empty."""
        diff = f"{SCRIPT} diff {ENGINE} {TRAINER} --model {MODEL} --json"
        line = f"{diff} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == ("141", "")

    def test_interrupt_is_130(self) -> None:
        """Ctrl-C while a dump is read ends the run with 130 and no traceback."""
        process = subprocess.Popen(
            [SCRIPT, "show", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not inherited
        )
        assert process.stdin is not None
        process.stdin.write(b"{" + b" " * (1 << 21))  # more than a pipe holds: it is being read
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        _, error = process.communicate()
        assert b"Traceback" not in error
