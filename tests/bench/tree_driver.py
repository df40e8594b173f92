"""Runs command lines of a tree in this process, and says of each what it printed and wrote.

python tests/bench/tree_driver.py JOB.json RESULTS.jsonl

compare_trees.py starts it with the tree first on PYTHONPATH. The job has ``lines``, ``fixtures``
and ``made`` (folders that every line finds under these names in its own empty folder), ``work``
(where these folders are) and ``limit_s``. A line is of steps with `` ; `` between them, in one
folder. A step is what follows ``routectl``, or ``copy A B``, ``remove A``; ``COLUMNS=80`` before
it gives it a terminal, ``< FILE`` after it standard input, and ``{sglang:NAME}`` in it is the
address of a server that gives the recorded answer NAME.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from public_names import public_names

import routectl
from routectl.cli.main import main

NAMES = "routectl.__all__"
PORT = 47_819  # of the server of recorded answers
MEMORY = "MemAvailable: 8388608 kB\n"
KEPT = 100_000  # characters of a text that are kept to show a difference
TEXTS = {".json", ".jsonl", ".txt", ".xml"}
MOVING = (  # what differs from run to run, and what stands for it
    (re.compile(r"\bin [\d.]+ s\b"), "in N s"),
    (re.compile(r"[\d.,]+ (?:[kMG] )?(tokens/s|tok/s)"), r"N \1"),
    (re.compile(r"offline-run-\d+_\d+-\w{8}"), "offline-run-ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)?"), "TIME"),
    (re.compile(r"^\d\d:\d\d:\d\d(?=  )", re.MULTILINE), "TIME"),
    (re.compile(r'("(?:seconds|\w+_s)": )[\d.e-]+'), r"\1N"),
    (re.compile(r'( time=")[\d.]+"'), r'\1N"'),
    (re.compile(r"routectl-\w{8}\b"), "routectl-TEMPORARY"),
)
SERVERS = {
    "sglang": ("sglang-0.5.23", {"/get_model_info": "model_info"}),
    "vllm": ("vllm-0.32.0", {"/version": "version", "/v1/models": "models"}),
}


class TookTooLongError(BaseException):
    """A line is past its limit; no program's ``except Exception`` may swallow it."""


def still(text: str, places: dict[str, str]) -> str:
    """The text without what differs from run to run; ``places`` are paths and their names."""
    for place, name in places.items():
        text = text.replace(place, name)
    for pattern, name in MOVING:
        text = pattern.sub(name, text)
    return text


def digest(data: bytes) -> str:
    """Half of the SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


def without_times(events: bytes) -> bytes:
    """TensorBoard's event file without wall times and the sums over them."""
    parts, at = [], 0
    while at + 12 <= len(events):
        size = int.from_bytes(events[at : at + 8], "little")
        parts.append(events[at + 12 + 9 : at + 12 + size])  # a tag and a float64 are the time
        at += 16 + size
    return b"|".join(parts)


def written(folder: Path, places: dict[str, str]) -> dict[str, str]:
    """Every path below a folder, with what it holds: a digest, of a short text with the text."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            continue
        if "offline-run" in name:
            found["wandb"] = "not compared"  # names and bytes are of the moment
        elif path.is_dir():
            found[f"{name}/"] = "folder"
        elif "events.out.tfevents" in path.name:
            found[re.sub(r"\d{6,}.*", "TIME", name)] = digest(without_times(path.read_bytes()))
        else:
            data = path.read_bytes()
            if path.suffix in TEXTS:
                data = still(data.decode("utf-8", "replace"), places).encode()
            text = data.decode() if path.suffix in TEXTS and len(data) < KEPT // 4 else ""
            found[name] = f"{len(data)} {digest(data)} {text}"
    return found


@contextlib.contextmanager
def recorded_server(engine: str, answer: str) -> Iterator[str]:
    """The address of a server of an engine that gives one recorded answer to every POST."""
    folder, gets = SERVERS[engine]
    place = Path("fixtures/servers") / folder / "qwen3_moe.bf16"

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.give(gets.get(self.path))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.give(answer)

        def give(self, name: str | None) -> None:
            path = place / f"{name}.response.json"
            found = path.is_file()
            body = path.read_bytes() if found else b'{"detail":"Not Found"}'
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with (Path(tempfile.gettempdir()) / f"compare_trees.{PORT}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the address is in files that are written
        server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{PORT}"
        finally:
            server.shutdown()
            server.server_close()


def drain(master: int, chunks: list[bytes]) -> None:
    """Read a terminal until its other end is closed."""
    with contextlib.suppress(OSError):  # EIO says so on Linux
        while chunk := os.read(master, 1 << 16):
            chunks.append(chunk)


@contextlib.contextmanager
def streams(columns: str | None) -> Iterator[list[bytes]]:
    """Standard output, a terminal where ``columns`` says how wide, and standard error, kept."""
    kept: list[bytes] = []
    saved = os.dup(1), os.dup(2)
    chunks: list[bytes] = []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        master, slave = pty.openpty() if columns else (-1, out.fileno())
        reader = threading.Thread(target=drain, args=(master, chunks))
        if columns:
            reader.start()
        os.dup2(slave, 1)
        os.dup2(err.fileno(), 2)
        try:
            yield kept
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, fd in zip((1, 2), saved, strict=True):
                os.dup2(fd, number)
                os.close(fd)
            if columns:
                os.close(slave)
                reader.join()
                os.close(master)
            out.seek(0)
            err.seek(0)
            kept += [b"".join(chunks).replace(b"\r\n", b"\n") or out.read(), err.read()]


def in_process(argv: list[str], columns: str | None) -> tuple[int | str, bytes, bytes]:
    """Exit code, output and errors of a command line run here."""
    before = dict(os.environ)
    if columns:
        os.environ.update(COLUMNS=columns, LINES="40", TERM="xterm-256color")
    try:
        with streams(columns) as kept:
            try:
                code: int | str = main(argv)
            except SystemExit as leaving:
                code = f"SystemExit {leaving.code}"
            except TookTooLongError:
                code = "took too long"
    finally:
        os.environ.clear()
        os.environ.update(before)
    return code, *kept


def of_its_own(argv: list[str], stdin: str) -> tuple[int, bytes, bytes]:
    """The same of a process with a file as standard input."""
    with Path(stdin).open("rb") as file:
        command = [sys.executable, "-m", "routectl", *argv]
        done = subprocess.run(command, stdin=file, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def step(words: list[str]) -> tuple[int | str, bytes, bytes] | None:
    """Run a step; None of one that only prepares the next."""
    if words[:1] == ["copy"]:
        source, target = map(Path, words[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return None
    if words[:1] == ["remove"]:
        Path(words[1]).unlink()
        return None
    columns = None
    if words and words[0].startswith("COLUMNS="):
        columns, words = words[0].removeprefix("COLUMNS="), words[1:]
    if "<" in words:
        return of_its_own(words[: words.index("<")], words[-1])
    with contextlib.ExitStack() as stack:
        for index, word in enumerate(words):
            if found := re.fullmatch(r"\{(\w+):(\w+)\}", word):
                words[index] = stack.enter_context(recorded_server(found[1], found[2]))
        return in_process(words, columns)


def line_result(line: str, job: dict, folder: Path) -> dict:
    """What a line printed, step by step, and wrote."""
    places = {str(folder): "HERE", job["fixtures"]: "fixtures", job["made"]: "made"}
    places[str(Path(routectl.__file__).parent.parent)] = "TREE"
    signal.setitimer(signal.ITIMER_REAL, job["limit_s"])
    steps = []
    try:
        for part in line.split(" ; "):
            said = step(shlex.split(part))
            if said is not None:
                texts = [still(data.decode("utf-8", "replace"), places) for data in said[1:]]
                sums = [f"{digest(text.encode())}\n{text[:KEPT]}" for text in texts]
                steps.append([said[0], *sums])
    except (OSError, TookTooLongError) as error:
        steps.append([type(error).__name__, "", still(str(error), places)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"line": line, "steps": steps, "files": written(folder, places)}


_read_text = Path.read_text


def read_text(path: Path, *args: object, **options: object) -> str:
    """Path.read_text on a machine whose free memory, which recompute tells, never changes."""
    if str(path).startswith("/sys/fs/cgroup"):
        raise FileNotFoundError(path)
    return MEMORY if str(path) == "/proc/meminfo" else _read_text(path, *args, **options)


def give_up(*_: object) -> None:
    """The answer to SIGALRM."""
    raise TookTooLongError


def run(job: dict, results: Path) -> None:
    """Run every line of the job in a folder of its own, and write a result a line as it comes."""
    signal.signal(signal.SIGALRM, give_up)
    Path.read_text = read_text
    with results.open("w", encoding="utf-8") as file:
        for line in job["lines"]:
            folder = Path(tempfile.mkdtemp(dir=job["work"]))
            for name in ("fixtures", "made", "data"):
                if job.get(name):
                    (folder / name).symlink_to(job[name])
            os.chdir(folder)
            cpu_s = os.times()
            if line == NAMES:
                result = {"line": line, "names": public_names()}
            else:
                result = line_result(line, job, folder)
            now = os.times()
            result["cpu_s"] = round(sum(now[:4]) - sum(cpu_s[:4]), 3)
            os.chdir(job["work"])
            shutil.rmtree(folder)
            file.write(json.dumps(result) + "\n")
            file.flush()


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
