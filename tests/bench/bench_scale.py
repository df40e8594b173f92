"""What --jobs 2 gives over --jobs 1, and what of a command cannot be split.

    python tests/bench/bench_scale.py [--mb N] [--runs R] [--only diff,check] [--save FILE]

Two native files of N MB of ids each (48 layers, top-8 of 128, samples of 2,000 tokens; 1 row in 50
differs), and a third as another version. Each command runs R times with either number of processes,
in turns; medians of wall time are compared, and of processor time, workers' too. A profile of one
process tells how much of its processor time is spent in shards and in adding up what they give,
which any number of processes share, and how much is not: at N MB and at a quarter of it, so that
what grows with the input is told from what does not (imports). What two processes take more than
one is what a worker costs: its start, and what it opens again. ``--runs 0`` runs each once and
tells no wall time, as on a machine that others use. ``--save`` writes the figures to
fixtures/scale.json, of which fixtures/make.py draws docs/scale.svg. With 1,000 MB and three runs
all takes 10 to 12 minutes.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from routectl.dump import DumpMeta, Sample, WeightSpan
from routectl.formats.native.container import write_native
from routectl.routes import Routes

L, K, E, TOKENS = 48, 8, 128, 2000
POOL = 512  # sets of experts that the rows of a sample are drawn from
COMMANDS = {
    "diff": "diff OLD NEW --json",
    "check": "check OLD --json",
    "convert": "convert OLD --save OUT/x.parquet --force",
    "pack": "pack OLD --cp 2 --dp 2 --max-tokens-per-gpu 8192 --save OUT/packed --force",
    "staleness": "staleness OLD --at v0=NEW --at v1=LATER --json",
    "show": "show OLD --json",
}
IN_ORDER = ("convert",)  # whose parent puts together what two workers give
TARGETS = "targets: ratio >= 1.7 of all but show; a share that cannot be split < 8 %"


def write_dump(path: Path, megabytes: float, changed: float, seed: int) -> None:
    """A native file whose samples are those of any other seed, but for a share of their rows."""
    layers = tuple(range(L))
    count = max(2, round(megabytes * 1e6 / (TOKENS * L * K)))

    def samples() -> Any:
        for i in range(count):
            random, own = np.random.default_rng(i), np.random.default_rng([seed, i])
            pool = np.argsort(random.random((POOL, E), np.float32), 1)[:, :K].astype(np.uint8)
            ids = pool[random.integers(0, POOL, (TOKENS, L))]
            other = own.random((TOKENS, L)) < changed
            ids[other] = pool[own.integers(0, POOL, int(other.sum()))]
            tokens = random.integers(0, 150_000, TOKENS + 1).astype(np.int32)
            half = TOKENS // 2
            yield Sample(
                Routes(ids, layers, E),
                f"sample-{i}",
                prompt_ids=tokens[:half],
                response_ids=tokens[half:],
                prompt_length=half,
                response_length=TOKENS + 1 - half,
                weight_spans=(WeightSpan("v0", 0, TOKENS + 1 - half),),
            )

    meta = DumpMeta("made", "made", layers, E, K, engine="vllm")
    write_native(samples(), meta, path, force=True)


def write_inputs(folder: Path, megabytes: float) -> Path:
    """OLD, NEW and LATER of so many MB in a folder of their own."""
    inner = folder / f"{megabytes:g}"
    (inner / "out").mkdir(parents=True)
    for seed, (name, changed) in enumerate((("OLD", 0.0), ("NEW", 0.02), ("LATER", 0.05))):
        write_dump(inner / f"{name.lower()}.parquet", megabytes, changed, seed)
    return inner


def words_of(command: str, folder: Path, jobs: int) -> list[str]:
    """The command line over a folder's dumps."""
    named = {name: str(folder / f"{name.lower()}.parquet") for name in ("OLD", "NEW", "LATER")}
    line = COMMANDS[command].replace("OUT", str(folder / "out"))
    words = []
    for word in line.split():
        head, equals, tail = word.rpartition("=")
        words.append(head + equals + named.get(tail, tail))
    return [*words, "--jobs", str(jobs)]


def spent(words: list[str]) -> tuple[float, float]:
    """Wall and processor time of a command and its workers; 0 and 1 are good exit codes."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "routectl", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)  # of the workers that it waited for, too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit(f"{' '.join(words)}: exit code {process.returncode}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def profiled(words: list[str]) -> dict[str, float]:
    """The processor time that one process spends in shards, and in all."""
    argv = [sys.executable, __file__, "--profile", *words]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def profile(words: list[str]) -> None:
    """Run a command in this process, watched, and print what was seen as a line of JSON."""
    gc.set_threshold(50_000)  # as routectl.cli.start does, before it loads anything
    from routectl.cli.main import main as routectl
    from routectl.jobs.shards import run as runner

    split_s = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            nonlocal split_s
            begin = time.process_time()
            try:
                return function(*given)
            finally:
                split_s += time.process_time() - begin

        return run

    runner.done_by, runner.with_more = timed(runner.done_by), timed(runner.with_more)
    with open(os.devnull, "w") as sink:
        stdout, sys.stdout = sys.stdout, sink
        code = routectl(words)
        sys.stdout = stdout
    if code not in (0, 1):
        sys.exit(code)
    print(json.dumps({"split_s": split_s, "total_s": time.process_time()}))


def measure(command: str, folders: tuple[Path, Path], runs: int) -> dict[str, float | None]:
    """The figures of a command: over all of the input, and over a quarter."""
    whole, quarter = folders
    at = [profiled(words_of(command, folder, 1)) for folder in (quarter, whole)][::-1]
    found = {1: list[tuple[float, float]](), 2: list[tuple[float, float]]()}
    for _ in range(max(runs, 1)):
        for jobs, times in found.items():
            times.append(spent(words_of(command, whole, jobs)))
    walls, cpus = (
        [statistics.median(one[which] for one in times) for times in found.values()]
        for which in (0, 1)
    )
    apart = [one["total_s"] - one["split_s"] for one in at]
    megabytes = [float(folder.name) for folder in folders]
    grows = max(0.0, (apart[0] - apart[1]) / (megabytes[0] - megabytes[1]))
    workers = 2 if command in IN_ORDER else 1
    return {
        "one_s": round(walls[0], 3) if runs else None,
        "two_s": round(walls[1], 3) if runs else None,
        "ratio": round(walls[0] / walls[1], 3) if runs else None,
        "more": round(cpus[1] / cpus[0], 3),
        "apart_share": round(apart[0] / at[0]["total_s"], 4),
        "apart_s": round(max(0.0, apart[0] - grows * megabytes[0]), 3),
        "apart_s_per_gb": round(1000 * grows, 4),
        "split_s_per_gb": round(1000 * at[0]["split_s"] / megabytes[0], 3),
        "start_s": round(max(0.0, cpus[1] - cpus[0]) / workers, 3),
    }


def main() -> None:
    """Print a row a command."""
    if sys.argv[1:2] == ["--profile"]:
        profile(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    found: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory() as kept:
        folders = tuple(write_inputs(Path(kept), part * asked.mb) for part in (1, 0.25))
        print(f"{asked.mb:g} MB of ids a dump; medians of {asked.runs} runs in turns; {TARGETS}")
        for command in asked.only.split(","):
            row = found[command] = measure(command, (folders[0], folders[1]), asked.runs)
            print(f"{command:<12}", *(f"{name} {value}" for name, value in row.items()), flush=True)
    if asked.save is not None:
        asked.save.write_text(json.dumps({"mb": asked.mb, "commands": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
