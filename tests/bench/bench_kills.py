"""Runs that write, each killed at a random moment: what stands there, and what the next run does.

    python tests/bench/bench_kills.py [--kills N] [--real N] [--seed N] [WRITER ...]

Each writer's command is run whole to learn how long it takes, then N times killed by SIGKILL,
SIGTERM, SIGINT and SIGPIPE in turn, at moments spread over the whole of it and a little beyond.
After each kill the destination must be absent or whole, old or new, which is proven by reading all
of it; the next run of the same command must end well, and nothing may be left beside its
destination or in $TMPDIR. A run is a fork of this process, which has everything loaded; every
``--real``-th one is a process of its own, which is killed while it loads, too. Prints a table and
exits 1 on any fault.
"""

import argparse
import atexit
import contextlib
import hashlib
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import routectl.jobs.recompute.share as share
from routectl.cli import main as cli
from routectl.formats.native.container import check_native, open_native
from routectl.gate_logprobs import digest_routes
from support import ci_configs, crews
from support.engine_server import EngineServer, rollouts
from support.recordings import QWEN
from support.tiny_rl import ENGINE

ROOT = Path(__file__).parent.parent.parent
_BEGINS_S = 5.0  # within which a fork has begun its run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)
CODES = {s: -s if s in (signal.SIGKILL, signal.SIGPIPE) else 128 + s for s in SIGNALS}


@dataclass(frozen=True)
class Writer:
    """A command, where it writes, what stood there before, and what tells the content.

    ``words`` begin a run, ``next_words`` go on from a killed one. ``old`` is copied to the
    destination first. ``content`` reads all that is there and raises where it is not whole.
    """

    name: str
    destination: str
    words: tuple[str, ...]
    content: Callable[[Path], str]
    next_words: tuple[str, ...] = ()
    old: Path | None = None


def digest_of_tree(path: Path) -> str:
    """What tells a file's bytes, or all names and bytes of a folder."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(str(file.relative_to(path)).encode())
        found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()


def routes_of_native(path: Path) -> str:
    """What tells the routes of a native file, every one of which is held against its digest."""
    dump = open_native(path)
    assert check_native(path) == len(dump)
    return repr([digest_routes(sample.routes) for sample in dump])


def samples_of_native(path: Path) -> str:
    """How many samples a whole native file has: answers of a server come in any order."""
    return str(check_native(path))


def packed(path: Path) -> str:
    """A folder of replay tensors, each held against the dump and the manifest's digests."""
    with quiet():
        code = cli.main(["verify", str(path), "--against", str(ENGINE)])
    assert code == 0, code
    return digest_of_tree(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed."""
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        yield


def writers_of(place: Path, url: str) -> Iterator[Writer]:
    """All writers; their inputs are made in ``place``, what they write is in the run's folder."""
    dump = str(ENGINE)
    convert = ("convert", dump, "--save", "a.parquet")
    yield Writer("convert", "a.parquet", convert, digest_of_tree)
    old = place / "old.parquet"
    run_here("convert", dump, "--save", str(old), "--codec", "packed")
    force = (*convert, "--verify", "--force")
    yield Writer("convert --force", "a.parquet", force, digest_of_tree, old=old)
    target = ("convert", dump, "--save", "a.safetensors", "--lossy")
    yield Writer("convert to a target", "a.safetensors", target, digest_of_tree)
    pack = ("pack", dump, "--save", "a", "--framework", "verl", "--tp", "2", "--cp", "2")
    yield Writer("pack", "a", pack, packed)
    run_here(*pack[:3], str(place / "old"), *pack[4:], "--dtype", "int64")
    yield Writer("pack --force", "a", (*pack, "--force"), packed, old=place / "old")
    folder = crews.make_folder(place)
    share._PART_TOKENS = 8  # several parts of seven samples
    words = tuple(map(str, crews.command(folder, "a.parquet")))
    resumed = (*words, "--resume")
    yield Writer("recompute", "a.parquet", words, routes_of_native, resumed)
    prompts = place / "prompts.jsonl"
    lines = (f'{{"prompt_token_ids": {list(ids)}}}\n' for ids, _ in rollouts())
    prompts.write_text("".join(lines), "utf-8")
    words = ("capture", url, "--prompts", str(prompts), "--save", "a.parquet", "--max-tokens", "24")
    yield Writer("capture", "a.parquet", (*words, "--model", str(QWEN)), samples_of_native)
    config = ci_configs.config(place, a=ci_configs.EXACT | {"fail-over": ["mismatch:+1%"]})
    text = config.read_text("utf-8")
    config.write_text(f'baseline = "{place}/run/a.json"\n{text}', "utf-8")
    old = place / "old.json"
    old.write_text('{"schema": "routectl.baseline/1", "checks": {}}\n', "utf-8")
    words = ("ci", str(config), "--update-baseline", "--junit", "j.xml", "--force")
    yield Writer("ci baseline", "a.json", words, digest_of_tree, old=old)


def run_here(*words: str) -> None:
    """Run a command in this process."""
    with quiet():
        code = cli.main(list(words))
    assert code == 0, words


@dataclass
class Bench:
    """A folder in which runs write, begun anew for each kill."""

    place: Path
    faults: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """Where a run writes."""
        return self.place / "run"

    @property
    def tmp(self) -> Path:
        """Its TMPDIR."""
        return self.place / "tmp"

    def begin(self, writer: Writer) -> None:
        """An empty folder, but for what stood there before."""
        for folder in (self.run, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        if writer.old is not None:
            copy = shutil.copytree if writer.old.is_dir() else shutil.copy
            copy(writer.old, self.run / writer.destination)

    def start(self, words: tuple[str, ...], real: bool) -> Callable[[], int]:
        """Start a run; a function that waits for it and gives its exit code, with its ``pid``."""
        log = (self.place / "log").open("wb")
        if real:
            env = os.environ | {"TMPDIR": str(self.tmp), "PYTHONPATH": str(ROOT)}
            line = [sys.executable, "-m", "routectl", *words]
            process = subprocess.Popen(line, cwd=self.run, env=env, stdout=log, stderr=log)
            return Started(process.pid, process.wait)
        while True:
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._run_forked(words, log.fileno(), writing)
            os.close(writing)
            begun = select.select([reading], [], [], _BEGINS_S)[0]
            os.close(reading)
            if begun:
                return Started(pid, partial(_exit_code, pid))
            os.kill(pid, signal.SIGKILL)  # a lock that another thread had when this one forked
            os.waitpid(pid, 0)

    def _run_forked(self, words: tuple[str, ...], log: int, begun: int) -> None:
        code = 99
        atexit._clear()  # this process's own
        try:
            for number in SIGNALS[1:]:
                signal.signal(number, signal.SIG_DFL)  # kills what is not yet a run
            os.chdir(self.run)
            os.environ["TMPDIR"] = str(self.tmp)
            for stream in (1, 2):
                os.dup2(log, stream)
            sys.argv = ["routectl", *words]
            os.close(begun)
            try:
                cli.script()
            except SystemExit as ended:
                code = ended.code
            atexit._run_exitfuncs()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def names(self) -> list[str]:
        """All that a run left, in its folder and in TMPDIR."""
        return sorted(p.name for folder in (self.run, self.tmp) for p in folder.iterdir())

    def log(self) -> str:
        """What the last run said."""
        return (self.place / "log").read_text("utf-8", "replace")[-600:]


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass(frozen=True)
class Started:
    """A run that has begun."""

    pid: int
    wait: Callable[[], int]


def whole_run(bench: Bench, writer: Writer, real: bool) -> tuple[float, list[str], str]:
    """A run that nobody kills: its seconds, the names that it leaves, what it writes."""
    bench.begin(writer)
    begun = time.perf_counter()
    code = bench.start(writer.words, real).wait()
    elapsed = time.perf_counter() - begun
    assert code == 0, (writer.name, code, bench.log())
    return elapsed, bench.names(), writer.content(bench.run / writer.destination)


def kill_once(bench: Bench, writer: Writer, sent: int, after_s: float, real: bool) -> int:
    """Kill a run after so long; its exit code."""
    bench.begin(writer)
    started = bench.start(writer.words, real)
    time.sleep(after_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(started.pid, sent)
    return started.wait()


def judge(bench: Bench, writer: Writer, old: str | None, new: str, names: list[str]) -> str:
    """What stands at the destination after a kill, and then whether the next run ends well."""
    destination = bench.run / writer.destination
    found = "absent"
    if os.path.lexists(destination):
        content = writer.content(destination)
        found = "new" if content == new else "old" if content == old else "other"
    if found == "other" or (found == "absent" and writer.old is not None):
        bench.faults.append(f"{writer.name}: {found} at the destination")
    code = bench.start(writer.next_words or writer.words, False).wait()
    refused = code == 2 and found == "new" and "already exists" in bench.log()
    if not (code == 0 or refused):
        bench.faults.append(f"{writer.name}: the next run: exit {code}: {bench.log()}")
    elif writer.content(destination) != new:
        bench.faults.append(f"{writer.name}: the next run wrote something else")
    left = [name for name in bench.names() if name not in names]
    if left:
        bench.faults.append(f"{writer.name}: left: {left}")
    return found


def main() -> int:
    """Kill all writers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("writers", nargs="*", metavar="WRITER")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--real", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    print(f"{'writer':22}{'run ms':>8}{'kills':>7}{'old':>6}{'new':>6}{'absent':>8}{'faults':>8}")
    all_faults = []
    with (
        tempfile.TemporaryDirectory() as place,
        EngineServer("sglang", {tuple(i): o for i, o in rollouts()}, pace_s=0.02) as server,
    ):
        bench = Bench(Path(place))
        left = set(asked.writers)
        for writer in writers_of(bench.place, server.url):
            if asked.writers and writer.name not in left:
                continue
            left.discard(writer.name)
            found, row = killed(bench, writer, asked, rng)
            counts = "".join(f"{found[kind]:{width}}" for kind, width in COLUMNS)
            print(
                f"{writer.name:22}{row:8.0f}{asked.kills:7}{counts}{len(bench.faults):8}",
                flush=True,
            )
            all_faults += bench.faults
            bench.faults.clear()
            if asked.writers and not left:
                break  # inputs of the others are not made
    for fault in all_faults:
        print(fault)
    return 1 if all_faults else 0


COLUMNS = (("old", 6), ("new", 6), ("absent", 8))


def killed(
    bench: Bench, writer: Writer, asked: argparse.Namespace, rng: random.Random
) -> tuple[Counter[str], float]:
    """Kill one writer so many times: what stood there after each, and how long a run takes."""
    bench.begin(writer)
    with contextlib.chdir(bench.run):
        run_here(*writer.words)  # loads and compiles what the forks have then
    runs = [whole_run(bench, writer, False) for _ in range(3)]
    elapsed, (_, names, new) = statistics.median(run[0] for run in runs), runs[0]
    of_real = whole_run(bench, writer, True)[0] if asked.real and asked.kills >= asked.real else 0.0
    old = None if writer.old is None else writer.content(writer.old)
    found: Counter[str] = Counter()
    for number in range(asked.kills):
        real = bool(asked.real) and number % asked.real == asked.real - 1
        span = of_real if real else elapsed
        moment = 1.1 * span * rng.random()
        sent = SIGNALS[number % len(SIGNALS)]
        code = kill_once(bench, writer, sent, moment, real)
        if code not in (0, CODES[sent], -sent):
            bench.faults.append(f"{writer.name}: signal {sent}: exit {code}: {bench.log()}")
        found[judge(bench, writer, old, new, names)] += 1
    return found, 1000 * elapsed


if __name__ == "__main__":
    sys.exit(main())
