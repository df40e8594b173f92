"""``routectl diff`` of two plain native files against decoding both, and np.array_equal.

python tests/bench/bench_plain_diff.py [--tokens T] [--runs R] [--cases equal,...]

The baseline is a process that reads the id columns of both files with pyarrow, a row group at a
time on one thread, takes them as numpy arrays and compares them: of the obvious ways (a column at a
time, the whole file at once) the fastest for row groups of 4 MB; ``few large`` takes the faster of
two. Each side is a process of its own, its start in it, in turns after one round that warms the
page cache. Before a run each side must say the same: equal, or not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_diff import E, K, L, routes

from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.routes import Routes

BASELINE = """
import sys
import numpy as np
import pyarrow.parquet as pq

def ids_of(column):
    parts = []
    for chunk in column.chunks:
        ends = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
        parts.append(np.frombuffer(chunk.buffers()[2], np.uint8)[ends[0] : ends[-1]])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

files = [pq.ParquetFile(path) for path in sys.argv[2:]]
names = [n for n in files[0].schema_arrow.names if n.startswith("layer_")]
if sys.argv[1] == "groups":
    reads = [lambda f, g=g: f.read_row_group(g, names, use_threads=False)
             for g in range(files[0].num_row_groups)]
else:
    reads = [lambda f, n=n: f.read([n], use_threads=False) for n in names]
same = True
for read in reads:
    old, new = map(read, files)
    for name in old.column_names:
        same &= np.array_equal(ids_of(old[name]), ids_of(new[name]))
print(same)
"""
CASES = {  # mismatched rows, whether slots are permuted, tokens of a sample: from, to
    "equal": (0.0, False, 2000, 8000),
    "1 %": (0.01, False, 2000, 8000),
    "1 %, few large": (0.01, False, 250_000, 250_000),
    "1 %, permuted": (0.01, True, 2000, 8000),
}


def lengths(tokens: int, least: int, most: int) -> list[int]:
    """Tokens of each sample; they add up to ``tokens``."""
    rng, found = np.random.default_rng(5), []
    while sum(found) < tokens:
        found.append(min(int(rng.integers(least, most + 1)), tokens - sum(found)))
    return found


def write(path: Path, sizes: list[int], rate: float, permute: bool, *, new: bool) -> None:
    """A native file of samples of these sizes; old and new differ in a share ``rate`` of rows."""
    meta = DumpMeta("-", "native", tuple(range(L)), E, K, engine="bench")

    def samples() -> Iterator[Sample]:
        for i, size in enumerate(sizes):
            rng = np.random.default_rng(i)
            token_ids = rng.integers(0, 150_000, size + 1, dtype=np.int32)
            split = (size + 1) // 4
            yield Sample(
                Routes(routes(rng, size, rate, permute)[new], meta.layers_L, E),
                f"sample-{i:05d}",
                prompt_ids=token_ids[:split],
                response_ids=token_ids[split:],
                prompt_length=split,
                response_length=size + 1 - split,
            )

    write_native(samples(), meta, path, force=True)


def spent(argv: list[str]) -> tuple[float, float, str]:
    """Wall and processor seconds of a process and its children, and its stdout."""
    env = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    wall, after = time.perf_counter() - begin, os.times()
    assert done.returncode < 2, argv
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system, done.stdout


def says_same(out: str) -> bool:
    """Whether a side found all rows equal, slots too."""
    if out[:1] != "{":
        return out.strip() == "True"
    report = json.loads(out)
    return not report["mismatch_rate"] and not report["order_mismatch_rate"]


def measure(name: str, paths: list[str], runs: int) -> None:
    """Print medians of a case."""
    ours = [sys.executable, "-m", "routectl", "diff", "--json", "--jobs"]
    how = "columns" if "large" in name else "groups"
    sides = {
        "pyarrow": [sys.executable, "-c", BASELINE, how, *paths],
        "--jobs 1": [*ours, "1", *paths],
        "--jobs 2": [*ours, "2", *paths],
    }
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for run in range(runs + 1):
        for side, argv in sides.items():
            wall, used, out = spent(argv)
            assert says_same(out) == name.startswith("equal"), (name, side)
            if run:
                found[side].append((wall, used))
    base = [statistics.median(times) for times in zip(*found["pyarrow"], strict=True)]
    for side, times in found.items():
        wall, used = (statistics.median(t) for t in zip(*times, strict=True))
        ratios = wall / base[0], used / base[1]
        figures = "".join(f"{figure:>8.2f}" for figure in (wall, used, *ratios))
        print(f"{name:<17}{side:<10}{figures}", flush=True)


def main() -> None:
    """Write the files of each case, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cases", help=f"some of: {'; '.join(CASES)}")
    args = parser.parse_args()
    chosen = args.cases.split(";") if args.cases else list(CASES)
    print(f"{args.tokens:,} tokens x {L} layers, top-{K} of {E}; medians of {args.runs} runs")
    print(f"{'case':<17}{'':<10}{'wall s':>8}{'cpu s':>8}{'ratio':>8}{'of cpu':>8}")
    for name in map(str.strip, chosen):
        rate, permute, least, most = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            sizes = lengths(args.tokens, least, most)
            paths = [Path(folder) / f"{side}.parquet" for side in ("old", "new")]
            for new, path in enumerate(paths):
                write(path, sizes, rate, permute, new=bool(new))
            measure(name, [str(path) for path in paths], args.runs)
    print("targets of ratio, but for permuted: 1.3 with --jobs 1, 0.75 with --jobs 2")


if __name__ == "__main__":
    main()
