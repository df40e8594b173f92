"""How long ``routectl --help`` takes, against a bare typer program with three commands.

python tests/bench/bench_startup.py [--runs R]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def seconds(argv: list[str]) -> float:
    """Wall time of one process."""
    begin = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print the medians of interleaved runs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    script = shutil.which("routectl", path=str(Path(sys.executable).parent))
    ours = [script] if script else [sys.executable, "-m", "routectl"]
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, "utf-8")
        sides = {
            " ".join([Path(ours[0]).name, *ours[1:], "--help"]): [*ours, "--help"],
            "bare typer --help": [sys.executable, str(bare), "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for run in range(runs + 1):
            for name, argv in sides.items():
                spent = seconds(argv)
                if run:  # the first fills the caches
                    times[name].append(spent)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    print(f"medians of {runs} interleaved runs")
    for name, spent in medians.items():
        print(f"{name:<28}{spent:>8.3f} s")
    first, second, _ = medians.values()
    print(f"ratio {first / second:.2f}, target <= 2")


if __name__ == "__main__":
    main()
