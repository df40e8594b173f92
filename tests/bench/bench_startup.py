"""How long ``routectl --help`` takes, against a bare typer program with three commands; and
``routectl diff`` of two tiny files, against a process that imports numpy, pyarrow and numba.

python tests/bench/bench_startup.py [--runs R]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.routes import Routes

BARE = '''
import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def show(path: str, as_json: bool = False) -> None:
    """Show."""


@app.command()
def diff(old: str, new: str, tokens: str = "all") -> None:
    """Diff."""


@app.command()
def convert(path: str, output: str, force: bool = False) -> None:
    """Convert."""


app()
'''


def spent(argv: list[str]) -> tuple[float, float]:
    """Wall and processor time of one process, which may keep its compiled files."""
    env = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    wall, after = time.perf_counter() - begin, os.times()
    assert done.returncode < 2, done.stderr
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def write_two(folder: Path) -> list[str]:
    """Two native files of two samples, 48 layers, top-8 of 128, some rows mismatched."""
    paths = [folder / "old.parquet", folder / "new.parquet"]
    for path in paths:
        meta = DumpMeta("-", "native", tuple(range(48)), 128, 8)
        rng, samples = np.random.default_rng(0), []
        for size in (320, 330):
            ids = rng.permuted(np.tile(np.arange(128, dtype=np.uint8), (size, 48, 1)), axis=2)
            ids = np.ascontiguousarray(ids[:, :, :8])
            ids[::50, 3] = (0, 1, 2, 3, 4, 5, 6, 7 + (path == paths[1]))
            samples.append(Sample(Routes(ids, meta.layers_L, 128), f"s{size}"))
        write_native(samples, meta, path, force=True)
    return [str(path) for path in paths]


def medians(sides: dict[str, list[str]], runs: int) -> list[tuple[float, float]]:
    """Print the medians of interleaved runs; wall and processor time of each side."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, argv in sides.items():
            one = spent(argv)
            if run:  # the first fills the caches
                times[name].append(one)
    found = []
    for name, all_of in times.items():
        wall, used = (statistics.median(column) for column in zip(*all_of, strict=True))
        print(f"{name:<36}{wall:>8.3f} s{used:>8.3f} s of CPU")
        found.append((wall, used))
    return found


def main() -> None:
    """Print the medians of interleaved runs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    script = shutil.which("routectl", path=str(Path(sys.executable).parent))
    ours = [script] if script else [sys.executable, "-m", "routectl"]
    told = " ".join([Path(ours[0]).name, *ours[1:]])
    print(f"medians of {runs} interleaved runs")
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, "utf-8")
        helped = {
            f"{told} --help": [*ours, "--help"],
            "bare typer --help": [sys.executable, str(bare), "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        tiny = {
            f"{told} diff --json": [*ours, "diff", "--json", *write_two(Path(folder))],
            "import numpy, pyarrow, numba": [
                *(sys.executable, "-c", "import numpy, pyarrow, numba")
            ],
        }
        for sides, most in ((helped, 2), (tiny, 1.6)):
            (wall, used), (base, base_used), *_ = medians(sides, runs)
            print(f"ratio {wall / base:.2f}, of CPU {used / base_used:.2f}, target <= {most}")


if __name__ == "__main__":
    main()
