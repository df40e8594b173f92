"""A dump folder followed: half-written, renamed, replaced, deleted and damaged files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import PurePosixPath

import numpy as np
import pytest

from routectl.jobs.progress import Progress
from routectl.jobs.reading import Reading
from routectl.jobs.watch import request as watching
from routectl.jobs.watch.follower import Follower
from routectl.jobs.watch.look import Lookout, reference_of
from support.building import as_npy, some_ids, write_lines
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, VLLM, read_lines
from support.shell import complaint, run, written

LINES = DEEPSEEK / "samples.jsonl"
NATIVE = FIXTURES / "golden" / "deepseek_v3.parquet"
FAST = ("--settle", 0.1, "--interval", 0.02, "--give-up", 0.3, "--model", DEEPSEEK_CONFIG)


@pytest.fixture
def dumps(tmp_path):
    """An empty folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def some_lines(path, number=3):
    """A dump of the first recorded samples."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in read_lines(LINES)[:number]))
    return path


def seen(capsys, folder, *flags, code=0):
    """What a watch that ends when the folder rests prints, by file."""
    fast = (*FAST[:4], *FAST[6:]) if "--give-up" in flags else FAST
    done = run(capsys, "watch", folder, *fast, "--json", *(flags or ("--once",)))
    assert done.code == code, done.out + done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_a_line_each(dumps, capsys):
    """Each dump is a line with its samples and findings; what is no dump is only counted."""
    shutil.copy(LINES, dumps / "step_1.jsonl")
    shutil.copy(NATIVE, dumps / "step_2.parquet")
    shutil.copy(DEEPSEEK_CONFIG, dumps / "config.json")
    (dumps / "train.log").write_text("loss 0.1\n")
    done = run(capsys, "watch", dumps, *FAST, "--once")
    assert done.code == 0, done.err
    first, second = sorted(line[10:] for line in done.out.splitlines())
    assert first.split() == ["CLEAN", "step_1.jsonl", "46", "samples"]
    assert second.split() == ["CLEAN", "step_2.parquet", "46", "samples"]
    assert done.err == f"routectl: {dumps}: 2 dumps seen, 0 failed, 0 unchecked; 2 other files\n"
    (one, other) = seen(capsys, dumps)
    assert (one["schema"], one["error"], one["exit_code"]) == ("routectl.watch/1", None, 0)
    assert (one["samples"], other["samples"], one["tokens"]) == (46, 46, other["tokens"])


def test_a_model_that_nobody_says_ends_it_at_the_first_look(dumps, capsys):
    """A dump that needs --model is exit 2 with the hint, long before --give-up; once another was
    checked, it is a line at once.
    """
    flags = ("--once", "--settle", 0.1, "--interval", 0.02, "--give-up", 1000)
    some_lines(dumps / "step_2.jsonl")
    said = complaint(capsys, "watch", dumps, *flags)
    assert "step_2.jsonl: the model is not known" in said
    assert "\nhint: --model CONFIG.json" in said
    shutil.copy(NATIVE, dumps / "step_1.parquet")
    os.utime(dumps / "step_1.parquet", (1, 1))  # looked at first
    done = run(capsys, "watch", dumps, *flags)
    assert done.code == 2
    first, second = (line[10:] for line in done.out.splitlines())
    assert first.split()[:2] == ["CLEAN", "step_1.parquet"]
    assert second.startswith("UNCHECKED  step_2.jsonl  the model is not known")
    assert "--model CONFIG.json" in second


def test_findings_decide_the_exit_code(dumps, capsys):
    """A faulty dump gives exit 1, and the line names its worst finding as check does."""
    record = read_lines(LINES)[5]
    ids = np.zeros((len(record["prompt_token_ids"]) + len(record["token_ids"]) - 1, 5, 4), int)
    ids[:, :] = [1, 2, 3, 4]
    for name in [n for n in record if n.startswith("routed_experts")]:
        del record[name]
    (dumps / "bad.jsonl").write_text(json.dumps({**record, "routed_experts": ids.tolist()}) + "\n")
    (document,) = seen(capsys, dumps, code=1)
    alone = json.loads(
        run(capsys, "check", dumps / "bad.jsonl", "--model", DEEPSEEK_CONFIG, "--json").out
    )
    assert document["counts"] == alone["counts"]
    assert document["codes"] == list(dict.fromkeys(f["code"] for f in alone["findings"]))
    assert document["worst"]["code"] == alone["findings"][0]["code"]
    done = run(capsys, "watch", dumps, *FAST, "--once")
    assert done.code == 1
    assert run(capsys, "watch", dumps, *FAST, "--once", "--exit-zero").code == 0
    assert "FAULTY     bad.jsonl  1 sample, " in done.out
    assert document["worst"]["title"] in done.out


def test_a_pattern_says_what_its_files_are(dumps, capsys):
    """What stands behind :: of a pattern holds for the files that match it first, and no others."""
    bare = [{"id": "s", "routed_experts": as_npy(some_ids(9, layers=5, top_k=4, experts=28))}]
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(dumps / name, bare)
    (dumps / "config.json").unlink()
    patterns = ("--pattern", "a*::start=3", "--pattern", "*.jsonl")
    lines = seen(capsys, dumps, "--once", *patterns, code=1)
    assert [(doc["file"], doc["tokens"]) for doc in lines] == [("a.jsonl", 9), ("b.jsonl", 0)]
    assert lines[1]["codes"] == ["R001"]
    said = complaint(capsys, "watch", dumps, *FAST, "--pattern", "*::begin=3")
    assert "'begin=3' behind :: is not known" in said


def test_nothing_seen_is_no_success(dumps, capsys):
    """A watch that ends without having seen a dump exits 2."""
    assert "no dump was seen" in complaint(capsys, "watch", dumps, *FAST, "--once")
    (dumps / "train.log").write_text("loss 0.1\n")
    assert "no dump was seen" in complaint(capsys, "watch", dumps, *FAST, "--until-idle", 0.2)


DAMAGED = {
    "cut.jsonl": LINES.read_bytes()[:100_000],
    "cut.parquet": NATIVE.read_bytes()[:-20_000],
    "empty.jsonl": b"",
    "other.npz": b"PK\x03\x04 nothing",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_reported_once(dumps, capsys, name):
    """A file that stays unreadable is one line, after it was waited for, and exit 2."""
    (dumps / name).write_bytes(DAMAGED[name])
    some_lines(dumps / "good.jsonl")
    began = time.monotonic()
    documents = seen(capsys, dumps, "--until-idle", 0.5, code=2)
    assert time.monotonic() - began >= 0.3
    assert [d["file"] for d in documents] == ["good.jsonl", name]
    assert (documents[0]["error"], documents[1]["exit_code"]) == (None, 2)
    assert documents[1]["error"]
    assert str(dumps) not in documents[1]["error"]


def test_samples_without_routes_are_no_other_file(dumps, capsys):
    """A dump whose samples all lack routes is a line and exit 2: nobody asked for them."""
    shutil.copy(VLLM / "chat_stream.response.sse", dumps / "x.sse")
    (document,) = seen(capsys, dumps, code=2)
    assert document["error"].startswith("no routed_experts in any sample, of 1")


class Writer(threading.Thread):
    """Runs a function beside the watch; what it raises comes out at the end."""

    def __init__(self, write):
        super().__init__(daemon=True)
        self.write, self.failed = write, None

    def run(self):
        """Write."""
        try:
            self.write()
        except (OSError, AssertionError) as error:
            self.failed = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.join()
        if self.failed:
            raise self.failed


@pytest.mark.parametrize("source", [LINES, NATIVE], ids=["jsonl", "parquet"])
@pytest.mark.slow
def test_half_written_files_are_waited_for(dumps, capsys, source):
    """A file that grows in slices, with pauses longer than --settle, is one line when whole."""
    target, data = dumps / f"slow{source.suffix}", source.read_bytes()

    def write():
        with target.open("wb") as file:
            for i in range(6):
                file.write(data[i * len(data) // 6 : (i + 1) * len(data) // 6])
                file.flush()
                time.sleep(0.2)

    with Writer(write):
        documents = seen(capsys, dumps, "--until-idle", 0.6, "--give-up", 3)
    assert [(d["file"], d["samples"], d["error"]) for d in documents] == [(target.name, 46, None)]


@pytest.mark.parametrize("goes", [False, True], ids=["grows", "goes"])
def test_a_file_that_changes_while_it_is_read(dumps, capsys, monkeypatch, goes):
    """--once looks at it again when it has come to rest; one that goes is not waited for."""
    changing, look = some_lines(dumps / "b.jsonl", 1), Lookout.look
    some_lines(dumps / "a.jsonl", 1)
    looked = []

    def looking(self, path):
        found = look(self, path)
        looked.append(path.name)
        if path == changing and looked.count(path.name) == 1:
            changing.unlink() if goes else some_lines(changing, 2)
        return found

    monkeypatch.setattr(Lookout, "look", looking)
    told = {document["file"]: document["samples"] for document in seen(capsys, dumps)}
    assert told == ({"a.jsonl": 1} if goes else {"a.jsonl": 1, "b.jsonl": 2})
    assert len(looked) == 2 + (not goes)


class Live:
    """A watch in a process of its own: its lines as they come, ended by SIGINT."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "routectl", "watch", folder, *FAST, "--json"]
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not inherited
        )

    def line(self):
        """The file, samples (None where unchecked) of the next line."""
        document = json.loads(self.process.stdout.readline())
        return document["file"], document.get("samples")

    def end(self):
        """The rest of its lines and its summary, after SIGINT."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        assert self.process.returncode == 130
        return out, err.split(": ", 2)[2]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
def test_a_file_renamed_into_place(dumps):
    """Temporary and hidden names are passed over; the name that it gets is looked at."""
    for name in (".x.jsonl", "x.jsonl.tmp", "x.jsonl.partial"):
        (dumps / name).write_bytes(LINES.read_bytes()[:50_000])
    with Live(dumps) as live:
        some_lines(dumps / "first.jsonl", 1)
        assert live.line() == ("first.jsonl", 1)
        hidden = some_lines(dumps / ".y.jsonl.123", 4)
        time.sleep(0.3)
        hidden.replace(dumps / "y.jsonl")
        assert live.line() == ("y.jsonl", 4)
        assert live.end() == ("", "2 dumps seen, 0 failed, 0 unchecked\n")


@pytest.mark.slow
def test_files_replaced_and_deleted(dumps):
    """A replaced file is a new line, a deleted one none, and one that comes back is new."""
    with Live(dumps) as live:
        some_lines(dumps / "a.jsonl", 2)
        assert live.line() == ("a.jsonl", 2)
        some_lines(dumps / "b.jsonl", 2)
        assert live.line() == ("b.jsonl", 2)
        (dumps / "b.jsonl").unlink()
        some_lines(dumps / ".new", 3).replace(dumps / "a.jsonl")
        assert live.line() == ("a.jsonl", 3)
        some_lines(dumps / "b.jsonl", 1)
        assert live.line() == ("b.jsonl", 1)
        assert live.end() == ("", "2 dumps seen, 0 failed, 0 unchecked\n")


@pytest.mark.slow
def test_a_damaged_file_that_is_mended_counts_as_mended(dumps):
    """A damaged file is one line; when it is replaced, its new state counts."""
    (dumps / "a.jsonl").write_bytes(DAMAGED["cut.jsonl"])
    with Live(dumps) as live:
        assert live.line() == ("a.jsonl", None)
        some_lines(dumps / "a.jsonl")
        assert live.line() == ("a.jsonl", 3)
        out, err = live.end()
    waits, last = err.splitlines()
    assert "; waited for, " in waits
    assert (out, last.split(": ", 2)[2]) == ("", "1 dump seen, 0 failed, 0 unchecked")


@pytest.mark.slow
def test_hundreds_of_files(dumps, capsys):
    """Four hundred dumps in forty folders are a line each, and once."""
    template = some_lines(dumps / "template.jsonl", 1).read_bytes()
    (dumps / "template.jsonl").unlink()
    for i in range(400):
        path = dumps / f"step_{i // 10}" / f"rank_{i % 10}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(template)
    before = {path: os.stat(path).st_mtime_ns for path in dumps.rglob("*")}
    documents = seen(capsys, dumps)
    assert len({d["file"] for d in documents}) == len(documents) == 400
    assert {path: os.stat(path).st_mtime_ns for path in dumps.rglob("*")} == before


def test_patterns_choose_files(dumps, capsys):
    """Only files that fit one of the patterns are looked at."""
    for name in ("a.jsonl", "b.jsonl", "c/a.jsonl", "c/d.jsonl"):
        some_lines(dumps / name, 1)
    documents = seen(capsys, dumps, "--once", "--pattern", "a.*", "--pattern", "c/d*")
    assert sorted(d["file"] for d in documents) == ["a.jsonl", "c/d.jsonl"]


def test_a_reference_for_each_dump(tmp_path, dumps, capsys):
    """With --against each dump is compared with the file of its name; one without is waited for."""
    some_lines(dumps / "step_1.jsonl", 3)
    some_lines(dumps / "step_2.jsonl", 3)
    shutil.copy(NATIVE, tmp_path / "step_1.parquet")
    documents = seen(capsys, dumps, "--once", "--against", tmp_path / "{stem}.parquet", code=2)
    assert documents[0]["error"] is None
    assert documents[1]["error"] == f"its reference {tmp_path}/step_2.parquet is not there"
    pattern = ("--against", tmp_path / "{stem}.parquet")
    waits, last = run(capsys, "watch", dumps, *FAST, "--once", *pattern).err.splitlines()
    assert waits.endswith("/step_2.parquet is not there; waited for, 0.3 s at most: --give-up"), (
        waits
    )
    assert "/step_2.jsonl: its reference" in waits
    assert last.endswith(": 2 dumps seen, 0 failed, 1 unchecked")
    said = complaint(capsys, "watch", dumps, *FAST, "--against", NATIVE)
    assert "expected {name}, {stem}, {parent} of a dump in it" in said
    said = complaint(capsys, "watch", dumps, *FAST, "--against", "ref/{stme}.npz")
    assert "{stme} is not known: did you mean stem?" in said


@pytest.mark.parametrize(
    ("template", "below", "found"),
    [
        ("ref/{parent}/routes.npz", "step_7/rollout.npz", "ref/step_7/routes.npz"),
        ("ref/{parent}/{name}", "step_7/rank_0/a.b.npz", "ref/step_7/rank_0/a.b.npz"),
        ("s3://x/{parent}/{stem}.npz", "a.b.npz", "s3://x/a.b.npz"),
        ("{parent}.npz", "step_7/{name}.npz", "step_7.npz"),
        ("{stem}.npz", "step_7/{name}.npz", "{name}.npz"),
    ],
)
def test_the_reference_of_a_dump(template, below, found):
    """{name}, {stem} and {parent} are those of its path below DIR, which may have braces itself."""
    assert reference_of(template, PurePosixPath(below)) == found


def test_a_folder_of_references_for_each_step(tmp_path, dumps, capsys):
    """{parent} names the folder of a dump, so that each step has its own references."""
    some_lines(dumps / "step_7" / "rollout.jsonl", 3)
    (tmp_path / "ref" / "step_7").mkdir(parents=True)
    shutil.copy(NATIVE, tmp_path / "ref" / "step_7" / "routes.parquet")
    against = ("--against", tmp_path / "ref" / "{parent}" / "routes.parquet")
    (document,) = seen(capsys, dumps, "--once", *against)
    assert (document["file"], document["error"]) == ("step_7/rollout.jsonl", None)


@pytest.mark.parametrize("once", [True, False])
def test_an_interrupt_counts_what_is_waited_for(dumps, monkeypatch, once):
    """What is waited for is said, with an end or without; interrupted, that one is pending."""
    some_lines(dumps / "a.jsonl", 1)
    (dumps / "b.jsonl").write_bytes(DAMAGED["cut.jsonl"])
    notes, parts = [], []

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", stop)
    request = watching.WatchRequest(
        folder=dumps, settle=0.0, once=once, reading=Reading(model=str(DEEPSEEK_CONFIG))
    )
    with pytest.raises(KeyboardInterrupt):
        watching.watch_folder(request, Progress(note=notes.append, part=parts.append))
    assert [part["file"] for part in parts] == ["a.jsonl"]
    assert "b.jsonl" in notes[0]
    assert notes[0].endswith("; waited for, 120 s at most: --give-up")
    assert notes[1:] == [f"{dumps}: 1 dump seen, 0 failed, 0 unchecked, 1 pending"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_signals_end_it_cleanly(dumps, sent, code):
    """SIGINT ends a watch with 130 and SIGTERM with 143, whole lines, a summary, no traceback."""
    some_lines(dumps / "a.jsonl")
    with Live(dumps) as live:
        assert live.line() == ("a.jsonl", 3)
        live.process.send_signal(sent)
        out, err = live.process.communicate(timeout=20)
        assert live.process.returncode == code, err
    assert (out, err) == ("", f"routectl: {dumps}: 1 dump seen, 0 failed, 0 unchecked\n")
    assert written(dumps) == ["a.jsonl"]


def test_wrong_usage(tmp_path, dumps, capsys):
    """A folder that is not there, a wrong model and a wrong severity are named at once."""
    flags = ("--once", "--interval", 0.02)
    assert "no folder is there" in complaint(capsys, "watch", tmp_path / "none", *flags)
    assert "none.json" in complaint(capsys, "watch", dumps, "--model", tmp_path / "none.json")
    assert "--fail-on 'bad'" in complaint(capsys, "watch", dumps, "--fail-on", "bad", *flags)


def test_a_folder_that_goes_away(dumps, capsys):
    """A watch whose folder is removed ends with exit 2 and says so."""

    def write():
        time.sleep(0.3)
        dumps.rmdir()

    with Writer(write):
        assert "cannot be read" in complaint(capsys, "watch", dumps, *FAST)


def test_follower_tells_each_state_once(tmp_path):
    """A state of a file is told of once it has rested; a changed or put-off one again."""
    follower, path = Follower(tmp_path, settle_s=5), tmp_path / "a"
    path.write_text("1")
    assert [follower.poll(now) for now in (0, 4.9)] == [[], []]
    assert follower.resting is False
    assert [follower.poll(now) for now in (5, 6)] == [[path], []]
    path.write_text("12")
    assert [follower.poll(now) for now in (7, 11.9, 12, 13)] == [[], [], [path], []]
    assert follower.put_off(path, 20, 13) is True
    assert [follower.poll(now) for now in (26.9, 27)] == [[], [path]]
    assert follower.put_off(path, 20, 27) is False
    assert follower.changed == 7
    path.unlink()
    assert (follower.poll(40), follower.paths(), follower.resting) == ([], set(), True)
