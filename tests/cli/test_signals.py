"""Signals end a run as an error does: cleaned up, quietly, with 128 and their number."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.shell import DUMPS, run

ROOT = Path(__file__).parent.parent.parent
LONG = ROOT / "fixtures/tiny_rl/vllm.bf16/samples.jsonl"
DUMP = DUMPS["native"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGPIPE: -13}

WRITING = """
import ctypes, sys, time
from pathlib import Path
from routectl.cli import main
from routectl.files.scratch import scratch_folder
from routectl.files.writing import replacing

def work(argv):
    with replacing(Path(argv[0]), force=True) as stream, scratch_folder("x"):
        stream.write(b"half")
        {body}
    return 0

def waiting(seconds):
    print("begun", flush=True)
    time.sleep(seconds)

def swallowing():
    try:
        waiting(30)
    except BaseException:
        pass
    time.sleep(30)

def called_by_c():
    ctypes.CFUNCTYPE(None)(lambda: waiting(30))()
    time.sleep(30)

def slow_to_clean():
    try:
        waiting(30)
    finally:
        time.sleep({cleaning})

main.main = work
main.script()
"""


def environment(tmp_path):
    """The environment of a run whose temporary files go to a folder of their own."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}


def plain_signals():
    """Signals as a terminal's job has them, whatever pytest's own run has."""
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)


def started(tmp_path, body, cleaning=0):
    """A run that writes, and is in the middle of it."""
    code = WRITING.format(body=body, cleaning=cleaning)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        preexec_fn=plain_signals,
    )
    assert process.stdout.readline() == "begun\n"
    return process


def left(tmp_path):
    """What stands where the run wrote, and in its TMPDIR."""
    return sorted(p.name for p in tmp_path.iterdir()), list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("sent", CODES)
def test_a_signal_cleans_up(tmp_path, sent):
    """Each signal ends the run with its code, says nothing, and leaves nothing, in TMPDIR neither.

    A broken pipe kills as it kills any Unix tool, which a shell calls 141.
    """
    process = started(tmp_path, "waiting(30)")
    process.send_signal(sent)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (CODES[sent], "")
    assert left(tmp_path) == (["tmp"], [])


@pytest.mark.parametrize("body", ["swallowing()", "called_by_c()"])
def test_a_signal_that_was_swallowed_comes_again(tmp_path, body):
    """Where a library, or C that calls Python, swallows the exception, it is raised again."""
    process = started(tmp_path, body)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert left(tmp_path) == (["tmp"], [])


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_lets_it_clean_up(tmp_path, second):
    """A signal that comes while the run cleans up does not end the cleaning; the first counts."""
    process = started(tmp_path, "slow_to_clean()", cleaning=1.2)
    process.send_signal(signal.SIGINT)
    for _ in range(3):
        time.sleep(0.2)
        process.send_signal(second)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert left(tmp_path) == (["tmp"], [])


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_by_the_next_signal(tmp_path):
    """A run that is not done cleaning after three seconds dies at once of the next signal."""
    process = started(tmp_path, "slow_to_clean()", cleaning=30)
    process.send_signal(signal.SIGINT)
    time.sleep(3.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """Under nohup, or in the background of a script, what is ignored does not end the run."""
    code = WRITING.format(body="waiting(1)", cleaning=0)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        stdout=subprocess.PIPE,
        env=environment(tmp_path),
        preexec_fn=lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, 2)],
    )
    assert process.stdout.readline() == b"begun\n"
    for number in (signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert left(tmp_path) == (["a", "tmp"], [])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_wherever_it_is(tmp_path, sent):
    """While modules are loaded, dumps read, files written: the run ends, and leaves nothing."""
    command = [
        sys.executable,
        "-m",
        "routectl",
        "convert",
        str(LONG),
        "--save",
        str(tmp_path / "a.parquet"),
    ]
    begun, codes = time.monotonic(), []
    subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True)
    whole = time.monotonic() - begun
    for number in range(6):
        (tmp_path / "a.parquet").unlink(missing_ok=True)
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            preexec_fn=plain_signals,
        )
        time.sleep(whole * number / 5)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sent)
        process.communicate(timeout=20)
        codes.append(process.returncode)
        there = ["a.parquet"] * (tmp_path / "a.parquet").exists()
        assert left(tmp_path) == ([*there, "tmp"], [])
        if process.returncode == 0:
            assert there
    assert set(codes) <= {
        0,
        CODES[sent],
        -sent,
    }  # Python itself dies of one that comes at its start


def said(*args, **how):
    """What a command that cannot write says: its exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "routectl", *map(str, args)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **how,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "line", [["show", DUMP], ["show", DUMP, "--json"], ["--version"], ["show", "--help"]]
)
def test_a_full_stdout_is_one_line(line):
    """Where stdout is a full disk, that is one line, exit 2, and no traceback."""
    with open("/dev/full", "w") as full:
        code, err = said(*line, stdout=full)
    assert (code, err) == (2, "routectl: stdout: cannot be written: No space left on device\n")


class TestStreams:
    """Reports and dumps go to devices and pipes, as files."""

    def test_a_report_to_an_open_file(self, tmp_path):
        """-o - writes where stdout is: a file that a shell opened to append to, say."""
        path = tmp_path / "log"
        path.write_text("before\n", "utf-8")
        with path.open("a") as log:
            code, err = said("show", DUMP, "-o", "-", stdout=log)
        assert (code, err) == (0, "")
        assert path.read_text("utf-8").startswith("before\nDUMP ")

    @pytest.mark.parametrize("name", ["a.parquet", "a.npz", "a.jsonl", "a.safetensors"])
    def test_a_dump_to_a_fifo(self, capsys, tmp_path, name):
        """Every form of a dump goes to a FIFO whole, though some are not written in order."""
        path, copy = tmp_path / name, tmp_path / f"copy-{name}"
        os.mkfifo(path)
        more = [] if name.endswith(".parquet") else ["--lossy"]
        with copy.open("wb") as got, subprocess.Popen(["cat", str(path)], stdout=got) as reader:
            done = run(capsys, "convert", DUMP, "--save", path, *more)
            if done.code:
                reader.kill()
        assert done.code == 0, done.err
        assert path.is_fifo()
        plain = tmp_path / f"plain-{name}"
        assert run(capsys, "convert", DUMP, "--save", plain, *more).code == 0
        assert copy.read_bytes() == plain.read_bytes()

    @pytest.mark.parametrize("force", [[], ["--force"]])
    def test_a_device_is_not_replaced(self, capsys, force):
        """A page to /dev/full says that it is full, with --force too, and is a device after."""
        done = run(capsys, "show", DUMP, "--html", "/dev/full", *force)
        assert (done.code, done.err) == (
            2,
            "routectl: /dev/full: cannot be written: No space left on device\n",
        )
        assert Path("/dev/full").is_char_device()


def test_a_missing_tmpdir_is_named(tmp_path):
    """A writer that needs temporary files says which folder of them is not there."""
    environment = os.environ | {"TMPDIR": str(tmp_path / "none")}
    code, err = said(
        "convert", DUMP, "--save", tmp_path / "a.safetensors", "--lossy", env=environment
    )
    assert code == 2
    assert err.startswith(f"routectl: {tmp_path}/none: no temporary file can be written there: No ")
    assert err.endswith("\nhint: TMPDIR names the folder for temporary files\n")
    assert list(tmp_path.iterdir()) == []


LOADING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from routectl.cli.start import console_script
console_script()
"""


def test_an_interrupt_while_it_is_loaded_is_quiet(tmp_path):
    """SIGINT before a command is known ends the run by that signal, with no traceback."""
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env=environment(tmp_path),
        preexec_fn=plain_signals,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
