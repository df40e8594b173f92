"""What goes to stderr: errors and notes that fit a terminal, how far long work is in a log."""

import re
import sys

import pytest

from routectl.cli import terminal
from routectl.cli.main import main
from routectl.cli.terminal import answer, note, progress_line, told_now_and_then
from routectl.jobs.progress import Progress, tokens_rate
from routectl.jobs.shards import work
from support.recordings import FIXTURES
from support.reports import Terminal
from support.shell import DUMPS, run

TINY = FIXTURES / "tiny_rl"
LONG = "/data/runs/2026-11-28_grpo/step_000120/rollouts/samples.jsonl: cannot be read: no such file"


@pytest.fixture(name="narrow")
def narrow_(monkeypatch):
    """What makes stderr a terminal of 60 columns, and gives it."""
    for name, value in (("COLUMNS", "60"), ("LINES", "40"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)

    def narrow():
        page = Terminal()
        monkeypatch.setattr(sys, "stderr", page)
        return page

    return narrow


class TestWords:
    """Errors, hints and notes."""

    def test_a_note_hangs_on_a_terminal(self, narrow):
        """A long note is broken between words and continued under itself."""
        page = narrow()
        note(LONG)
        assert page.getvalue() == (
            "routectl: /data/runs/2026-11-28_grpo/step_000120/rollouts/\n"
            "          samples.jsonl: cannot be read: no such file\n"
        )

    def test_an_error_and_its_hint_hang(self, narrow):
        """Of an error and its hint no line is too wide, and no word is split."""
        page = narrow()
        assert main(["show", "nowhere/a_long_name_of_a_dump_that_is_not_there.parquet"]) == 2
        assert main(["diff", "--fail-over", "mismatsch:1%", str(DUMPS["jsonl"]), "x.npz"]) == 2
        lines = page.getvalue().splitlines()
        assert max(map(len, lines)) <= 60
        assert [
            line for line in lines if not re.match(r"routectl: \S|hint: \S| {6}\S| {10}\S", line)
        ] == []
        assert "pearson, pearson_probs, equal_logprobs" in " ".join(page.getvalue().split())

    def test_a_summary_does_not_cut_alarms(self, monkeypatch):
        """In 60 columns an alarm is whole, where other lines end in an ellipsis."""
        for name, value in (("COLUMNS", "60"), ("LINES", "40"), ("TERM", "dumb")):
            monkeypatch.setenv(name, value)
        page = Terminal()
        monkeypatch.setattr(sys, "stdout", page)
        where = TINY / "prefix_cache"
        sides = [f"--at=v0={where}/v0.parquet", f"--at=v2={where}/trainer.parquet"]
        main(["staleness", str(where / "rollout.jsonl.gz"), *sides, "--summary"])
        told = " ".join(page.getvalue().split())
        assert "flush the engine's cache at each update" in told
        assert "they are of older weights, closest to v0" in told
        assert "…" in told

    def test_an_answer_without_a_document_hangs(self, monkeypatch):
        """What a finding means is broken to a terminal, under its labels; in a pipe it is not."""
        for name, value in (("COLUMNS", "60"), ("LINES", "40"), ("TERM", "dumb")):
            monkeypatch.setenv(name, value)
        page = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", page)
            answer("R712  numerics only (note)\n\ncause     " + "Rows are in place. " * 5)
        lines = page.getvalue().splitlines()
        assert lines[:2] == ["R712  numerics only (note)", ""]
        assert max(map(len, lines)) <= 60
        assert len(lines) > 3
        assert all(line.startswith(" " * 10 + "R") or line[10].isalpha() for line in lines[3:])

    def test_in_a_pipe_a_line_is_a_line(self, capsys, monkeypatch):
        """Where stderr is no terminal, an error is one line and its hint another."""
        monkeypatch.setenv("COLUMNS", "40")
        note(LONG)
        assert capsys.readouterr().err == f"routectl: {LONG}\n"

    @pytest.mark.parametrize("width", [60, 80, 200])
    def test_help_fits(self, capsys, monkeypatch, width):
        """--help of every command fits the terminal; from 80 columns on no word of it is split."""
        for command in ([], ["show"], ["diff"], ["pack"], ["staleness"], ["recompute"]):
            texts = []
            for columns in (width, 200):
                monkeypatch.setenv("COLUMNS", str(columns))
                done = run(capsys, *command, "--help")
                assert done.code == 0
                texts.append(done.out)
            assert max(map(len, texts[0].splitlines())) <= width
            told = set(re.split(r"[\s,]+", texts[1]))
            strange = [word for word in re.split(r"[\s,]+", texts[0]) if word not in told]
            assert width < 80 or strange == []


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self):
        """Seconds."""
        return self.now


class TestLog:
    """How far long work is, where stderr is no terminal."""

    def told(self, seconds, total=1000):
        """What is told of work that takes so long and advances evenly, with when."""
        clock, lines = Clock(), []
        show = told_now_and_then("comparing", "samples", lines.append, clock)
        found = []
        for done in range(total + 1):
            clock.now = seconds * done / total
            show(done, total, lambda s, done=done: tokens_rate(100 * done / s if s else 0.0))
            found += [(clock.now, line) for line in lines]
            lines.clear()
        return found

    def test_short_work_is_silent(self):
        """Work of less than 30 s tells nothing."""
        assert self.told(29) == []

    def test_each_tenth_of_long_work(self):
        """Of ten minutes each tenth is told: done, share, rate, time left."""
        told = self.told(600)
        assert [when for when, _ in told] == [60.0 * n for n in range(1, 11)]
        assert told[0][1] == "comparing 100 of 1,000 samples (10 %), 167 tokens/s, 9 min left"
        assert told[8][1].endswith("60 s left")

    def test_never_twice_in_half_a_minute(self):
        """Of 100 s a line comes after 30 s at the earliest, and then 30 s after another."""
        times = [when for when, _ in self.told(100)]
        assert times == [30.0, 60.0, 90.0]

    def test_very_long_work_is_heard_of_every_five_minutes(self):
        """Of ten hours a line comes every five minutes, though no tenth more is done."""
        told = self.told(36_000, total=12_000)
        assert [when for when, _ in told] == [300.0 * n for n in range(1, 121)]
        assert told[0][1].endswith("9 h 55 min left")

    def test_a_second_pass_is_told(self):
        """A dump that is read again goes on counting: the share is of all passes."""
        clock, lines = Clock(), []
        line = told_now_and_then("reading", "steps", lines.append, clock)
        for n, (done, total) in enumerate([(8, 10), (10, 10), (11, 20), (16, 20)], 1):
            clock.now = 100.0 * n
            line(done, total, lambda s: "")
        assert lines == [
            "reading 8 of 10 steps (80 %), 25 s left",
            "reading 10 of 10 steps (100 %), 0 s left",
            "reading 16 of 20 steps (80 %), 2 min left",
        ]

    def test_a_command_in_a_pipe(self, capsys, monkeypatch):
        """A real command tells on stderr what it is at, and its answer stays whole on stdout."""
        quiet = run(capsys, "diff", TINY / "vllm.bf16" / "samples.jsonl", DUMPS["trainer"])
        assert quiet.err == ""
        monkeypatch.setattr(terminal, "_QUIET_S", 0.0)
        monkeypatch.setattr(work, "LEAST_BYTES", 1)  # shards are told as they are done
        loud = run(capsys, "diff", TINY / "vllm.bf16" / "samples.jsonl", DUMPS["trainer"])
        assert loud.out == quiet.out
        lines = loud.err.splitlines()
        assert len(lines) in (9, 10)
        assert lines[0].startswith("routectl: comparing 10 of 96 samples (10 %), ")
        assert re.search(r" [kMG]B/s, ", lines[0])
        assert lines[0].endswith(" s left")

    def test_runs_say_which_they_are(self):
        """A listener within a run says which it is, before what is done; no label is blank."""
        said = []

        def line(what, unit):
            said.append(f"{what} [{unit}]")
            return progress_line(what, unit)

        progress = Progress(line=line).within("v1, version 2 of 3")
        with progress.counting_samples("recomputing", 3):
            pass
        assert said == ["v1, version 2 of 3, recomputing [samples]"]

    @pytest.mark.parametrize("width", [40, 60, 80, 140])
    def test_a_terminal_has_a_line_drawn_again(self, monkeypatch, width):
        """On a terminal one line tells what is done, whatever its width; the rest where it fits."""
        for name, value in (("COLUMNS", width), ("LINES", 40), ("TERM", "xterm")):
            monkeypatch.setenv(name, str(value))
        page = Terminal()
        monkeypatch.setattr(sys, "stderr", page)
        with progress_line("v1, version 2 of 3, recomputing", "samples") as show:
            show(1234, 3840, lambda seconds: "layer 12 of 48, 12,345 tokens/s, 18.2 GB read")
        frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", page.getvalue()).replace("\r", "\n")
        last = [line.strip() for line in frames.splitlines() if "1,234" in line][-1]
        assert max(map(len, frames.splitlines())) <= width
        assert "1,234 of 3,840 samples (32 %)" in last
        assert ("v1, vers" in last) == (width > 40)
        assert ("layer 12 of 48, 12,345 tokens/s, 18.2 GB read" in last) == (width == 140)
        assert "routectl:" not in page.getvalue()
