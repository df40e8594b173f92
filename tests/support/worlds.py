"""Command lines run in worlds that differ in all that must not matter, and what they wrote.

``python -m support.worlds JOB.json`` is one world: a process whose clock is off, whose folders list
their entries in another order, whose free memory is another. What else differs (hash seed, time
zone, locale, umask, working folder, threads) is set by who starts it: ``world``.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from support.recordings import FIXTURES

__all__ = ["WORLDS", "world"]

ROOT = FIXTURES.parent
WORLDS = (
    {
        "env": {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
        "umask": 0o022,
        "cwd": "here",
        "clock_s": 0,
        "backwards": False,
        "free_kb": 64_000_000,
        "threads": 1,
    },
    {
        "env": {
            "PYTHONHASHSEED": "2",
            "TZ": "Asia/Kathmandu",
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "OMP_NUM_THREADS": "2",
        },
        "umask": 0o077,
        "cwd": "far/away",
        "clock_s": 86_400 * 400,
        "backwards": True,
        "free_kb": 6_000,
        "threads": 2,
    },
)


def world(number, lines, inputs, folder):
    """What each line wrote and printed in a world: {name: {path or "stdout": SHA-256}}.

    ``lines`` are lists of words by name: IN/ begins a path among ``inputs``, OUT/ one that is
    written, THREADS is the world's number of them.
    """
    about = WORLDS[number]
    place = folder / about["cwd"]
    place.mkdir(parents=True)
    (place / "in").symlink_to(inputs)
    job = folder / f"job{number}.json"
    job.write_text(json.dumps({**about, "lines": lines}), "utf-8")
    own = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "COLUMNS": "80",
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    env = {**os.environ, **about["env"], **own}
    done = subprocess.run(
        [sys.executable, "-m", "support.worlds", str(job)],
        cwd=place,
        env=env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-4000:]
    return json.loads(done.stdout)


def _listed_backwards():
    """Folders list their entries in descending order of the names."""
    listed, scanned = os.listdir, os.scandir

    def listdir(path="."):
        return sorted(listed(path), reverse=True)

    class Scanned:
        """What os.scandir gives: an iterator that is closed by with."""

        def __init__(self, path="."):
            with scanned(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
            self._entries = iter(found)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self._entries)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def close(self):
            """Nothing: all entries are read."""

    os.listdir, os.scandir = listdir, Scanned


def _listed_forwards():
    listed = os.listdir
    os.listdir = lambda path=".": sorted(listed(path))


def _run(words):
    """Exit code and stdout of a command line."""
    from routectl.cli.main import main

    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(out):
        code = main(words)
    return code, out.buffer.getvalue()


def _server(words):
    """The server that a capture asks, on the port that its words name."""
    if words[0] != "capture":
        return contextlib.nullcontext()
    from support.engine_server import EngineServer, rollouts

    answers = {tuple(ids): outputs[:1] for ids, outputs in rollouts()}
    return EngineServer("sglang", answers, port=int(words[1].rsplit(":", 1)[1]))


def _sums(folder):
    """The SHA-256 of each file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _live(job):
    """Run the lines of a job and print what they wrote."""
    os.umask(job["umask"])
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + job["clock_s"]
    time.time_ns = lambda: now_ns() + 10**9 * job["clock_s"]
    (_listed_backwards if job["backwards"] else _listed_forwards)()
    from routectl.forward import devices

    devices._available = lambda: job["free_kb"] * 1000
    found = {}
    for name, words in job["lines"].items():
        out = Path("out") / name
        if Path("in/before", name).exists():
            shutil.copytree(Path("in/before", name), out)
        else:
            out.mkdir(parents=True)
        names = {"THREADS": str(job["threads"])}
        line = [names.get(w, w.replace("OUT/", f"{out}/").replace("IN/", "in/")) for w in words]
        with _server(line):
            code, printed = _run(line)
        assert code in (0, 1), f"{name}: exit {code}"
        (out / "stdout").write_bytes(printed.replace(bytes(out), b"OUT"))
        found[name] = _sums(out)
    print(json.dumps(found))


if __name__ == "__main__":
    _live(json.loads(Path(sys.argv[1]).read_text("utf-8")))
