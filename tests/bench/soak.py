"""Half an hour of convert, diff, check and watch over a folder that gets dumps while others go.

    python tests/bench/soak.py [--minutes M] [--folder DIR] [--megabytes MB]

One process runs ``routectl watch``; another converts each new dump, compares it with the one
before and checks it, again and again in one process, so that a leak would add up. A dump is written
elsewhere and moved into the folder; the oldest goes once KEPT are there. Linux: memory and
descriptors are read from /proc. Exit status 1 when memory grew by more than GROWN from the second
quarter to the last, a process has more descriptors than in its first quarter, or a dump was missed:
``watch`` has not said that it was checked. It has PATIENCE for that from when the last dump has
come: what it states that a file waits for at most. A dump that goes before is missed.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KEPT, GROWN = 6, 1.1
L, K, E = 48, 8, 128
EVERY = 5.0  # seconds from one dump to the next, at least
SETTLE, INTERVAL, GIVE_UP = 0.5, 0.5, 120.0  # of watch, in seconds
PATIENCE = SETTLE + INTERVAL + GIVE_UP


def write(path: Path, number: int, megabytes: float) -> None:
    """A dump of samples of 500 tokens; two in turn have the same ones, some rows of them apart."""
    from routectl.dump import DumpMeta, Sample
    from routectl.formats.native.container import write_native
    from routectl.routes import Routes

    rng = np.random.default_rng(number // 2)
    pool = (rng.integers(0, E // K, (4096, L, K)) + np.arange(0, E, E // K)).astype(np.uint8)
    meta = DumpMeta(str(path), "native", tuple(range(L)), E, K, num_layers=L)

    def samples() -> object:
        for i in range(int(megabytes * 1e6) // (500 * L * K)):
            ids = rng.integers(0, 150_000, 501).astype(np.int32)
            rows = pool[rng.integers(0, len(pool), 500)]
            moved = rows[number % 2 :: 100, 0]
            moved[:] = pool[rng.integers(0, len(pool), len(moved)), 0]
            yield Sample(
                Routes(rows, meta.layers_L, E),
                f"s-{i}",
                prompt_ids=ids[:100],
                response_ids=ids[100:],
                prompt_length=100,
                response_length=401,
            )

    write_native(samples(), meta, path, force=True)


def work() -> None:
    """For each line of paths, ``before new scratch``: convert, diff and check in this process."""
    from routectl.cli.main import main as routectl

    for line in sys.stdin:
        before, new, scratch = line.split()
        said = []
        for argv in (
            ["convert", new, "--save", scratch, "--codec", "packed", "--force"],
            ["diff", before, scratch, "--json", "--exit-zero"],
            ["check", scratch, "--json", "--exit-zero"],
        ):
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()) as errors,
            ):
                code = routectl(argv)
            said += [f"{' '.join(argv)}: {code}: {errors.getvalue()}"] if code else []
        print(json.dumps(said), flush=True)


def held(pid: int) -> tuple[float, int]:
    """Megabytes in memory and open descriptors of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{pid}/fd"))


def grown(name: str, found: list[tuple[float, int]]) -> list[str]:
    """What is wrong with the memory and descriptors of a process over time; a line of figures."""
    quarter = max(len(found) // 4, 1)
    parts = [found[i * quarter : (i + 1) * quarter] or found[-1:] for i in range(4)]
    memory = [statistics.median(mb for mb, _ in part) for part in parts]
    files = [max(count for _, count in part) for part in parts]
    print(
        f"{name:<10} memory by quarters, MB: {', '.join(f'{mb:.0f}' for mb in memory)}; "
        f"most descriptors: {', '.join(map(str, files))}"
    )
    wrong = [f"{name}: memory grew"] if memory[3] > GROWN * memory[1] else []
    return wrong + ([f"{name}: more descriptors"] if files[3] > files[0] else [])


def untold(log: Path, written: list[Path]) -> list[str]:
    """Dumps that watch has not checked, PATIENCE from now; sooner where there is none."""
    end = time.monotonic() + PATIENCE
    while True:
        lines = log.read_text("utf-8").splitlines(keepends=True)
        said = [json.loads(line) for line in lines if line.endswith("\n")]
        told = {one["file"] for one in said if one["error"] is None}
        left = [path.name for path in written if path.name not in told]
        if not left or time.monotonic() >= end:
            return left
        time.sleep(INTERVAL)


def soak(folder: Path, minutes: float, megabytes: float) -> list[str]:
    """Run all of it; what went wrong."""
    dumps, aside = folder / "dumps", folder / "aside"
    for place in (dumps, aside):
        place.mkdir(exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # watch inherits no shell's SIG_IGN
    log = folder / "watch.jsonl"
    argv = [sys.executable, "-m", "routectl", "watch", str(dumps), "--json"]
    argv += [f"--settle={SETTLE}", f"--interval={INTERVAL}", f"--give-up={GIVE_UP}"]
    with log.open("wb") as lines:
        watch = subprocess.Popen(argv, stdout=lines)
    worker = subprocess.Popen(
        [sys.executable, __file__, "--work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    wrong: list[str] = []
    written: list[Path] = []
    samples: dict[str, list[tuple[float, int]]] = {"watch": [], "the rest": []}
    end = time.monotonic() + minutes * 60
    try:
        while time.monotonic() < end:
            begin, number = time.monotonic(), len(written)
            made, path = aside / "new.parquet", dumps / f"dump-{number:05d}.parquet"
            write(made, number, megabytes)
            made.rename(path)
            written.append(path)
            before = written[-2] if number % 2 else path
            print(before, path, aside / "converted.parquet", file=worker.stdin, flush=True)
            wrong += json.loads(worker.stdout.readline() or '["the worker ended"]')
            for name, process in (("watch", watch), ("the rest", worker)):
                samples[name].append(held(process.pid))
            if len(written) > KEPT:
                written[-KEPT - 1].unlink()
            time.sleep(max(0.0, EVERY - (time.monotonic() - begin)))
        begin = time.monotonic()
        missed = untold(log, written)
        waited = time.monotonic() - begin
    finally:
        worker.stdin.close()
        watch.send_signal(signal.SIGINT)
        ends = watch.wait(60), worker.wait(60)
    wrong += [f"ended with {ends}, expected (130, 0)"] if ends != (130, 0) else []
    for name, found in samples.items():
        wrong += grown(name, found)
    print(
        f"{len(written)} dumps of {megabytes:g} MB, {len(missed)} missed, {waited:.1f} s after the "
        "last came"
    )
    return wrong + [f"missed: {name}" for name in missed]


def main() -> None:
    """Read the arguments; print what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--megabytes", type=float, default=20, help="ids of a dump")
    parser.add_argument("--folder", type=Path, help="where, empty; a temporary one by default")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wrong = soak(folder, args.minutes, args.megabytes)
    print("\n".join(wrong) if wrong else "nothing leaked, nothing missed")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
