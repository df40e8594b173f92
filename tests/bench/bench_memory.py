"""How much memory commands take above their start, at two sizes each: flat or not.

python tests/bench/bench_memory.py [--only WORD] [--tokens T] [--samples S]

Dumps shaped like Qwen3-30B-A3B's (48 layers, top-8 of 128): samples of 1,000 tokens, one sample of
all tokens, and samples of one row; each at a size and at four times that. Peaks are ru_maxrss of a
process of its own, less that of the same command on one sample of two tokens. Bounds that are not
flat (a sample's routes, an output tensor, bytes a sample) show as figures a token or a sample.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

GROWTH = 4
LENGTH = 1000  # tokens of a sample where there are many
SHAPE = "layers 48, top-8 of 128"
WRITE = """
import sys
from pathlib import Path
import numpy as np
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.routes import Routes

path, samples, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
pool = (rng.integers(0, 16, (4096, 48, 8)) + np.arange(0, 128, 16)).astype(np.uint8)
layers = tuple(range(48))

def made():
    for i in range(samples):
        ids = rng.integers(0, 150_000, length).astype(np.int32)
        rows = pool[rng.integers(0, len(pool), length - 1)]
        split = max(1, length // 4)
        yield Sample(
            Routes(rows, layers, 128), f"s-{i}", prompt_ids=ids[:split], response_ids=ids[split:],
            prompt_length=split, response_length=length - split,
        )

write_native(made(), DumpMeta(str(path), "native", layers, 128, 8, num_layers=48), path, force=True)
"""
WRITE_LINES = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench_read import CONFIG, response

path, samples, length = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
(path.parent / "config.json").write_text(json.dumps(CONFIG))
with path.open("w") as file:
    for number in range(samples):
        file.write(json.dumps(response(number, length)) + "\\n")
"""


@dataclass(frozen=True)
class Case:
    """A command, {dump} and {out} in it to be filled in; before is run first, not measured."""

    name: str
    argv: str
    kind: str  # tokens, one (sample) or rows
    form: str = "parquet"
    before: str | None = None


CASES = (
    Case("convert to native", "convert {dump} {out}.parquet", "tokens"),
    Case("convert JSON lines", "convert {dump} {out}.parquet", "tokens", "jsonl"),
    Case("convert to packed", "convert {dump} {out}.parquet --codec packed", "tokens"),
    Case("convert to JSON lines", "convert {dump} {out}.jsonl", "tokens"),
    Case("convert to verl", "convert {dump} {out}.pt --to verl", "tokens"),
    Case("pack, one micro-batch", "pack {dump} --save {out}", "tokens"),
    Case("pack JSON lines", "pack {dump} --save {out}", "tokens", "jsonl"),
    Case("pack, 32,768 a GPU", "pack {dump} --save {out} --max-tokens-per-gpu 32768", "tokens"),
    Case(
        "verify",
        "verify {out} --against {dump}",
        "tokens",
        before="pack {dump} --save {out}",
    ),
    Case(
        "unpack", "unpack {out} --save {out}.parquet", "tokens", before="pack {dump} --save {out}"
    ),
    Case("show", "show {dump}", "tokens"),
    Case("diff", "diff {dump} {dump}", "tokens"),
    Case("check", "check {dump}", "tokens"),
    Case("convert, one sample", "convert {dump} {out}.parquet", "one"),
    Case("pack, one sample", "pack {dump} --save {out}", "one"),
    Case(
        "verify, one sample",
        "verify {out} --against {dump}",
        "one",
        before="pack {dump} --save {out}",
    ),
    Case("show, rows", "show {dump}", "rows"),
    Case("show, rows, JSON lines", "show {dump}", "rows", "jsonl"),
    Case("convert, rows", "convert {dump} {out}.parquet", "rows"),
    Case("diff, rows", "diff {dump} {dump}", "rows"),
    Case("check, rows", "check {dump}", "rows"),
)


def run(argv: list[str]) -> tuple[float, float]:
    """The most memory that a process takes, in MB, and its time in seconds."""
    begin = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) > 1:
        raise SystemExit(f"{' '.join(argv)}: {said.decode()}")
    return usage.ru_maxrss / 1024, time.perf_counter() - begin


def write(path: Path, samples: int, length: int) -> None:
    """Write a dump in a process of its own, so that this one stays small."""
    if path.suffix == ".parquet":
        subprocess.run([sys.executable, "-c", WRITE, path, str(samples), str(length)], check=True)
        return
    argv = [sys.executable, "-c", WRITE_LINES, str(Path(__file__).parent)]
    subprocess.run([*argv, path, str(samples), str(length)], check=True)


def measured(case: Case, dump: Path, folder: Path) -> tuple[float, float]:
    """What a command takes on a dump."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        known = {"dump": dump, "out": f"{place}/out"}
        for words in (case.before, case.argv):
            if words is None:
                continue
            argv = [sys.executable, "-m", "routectl", *words.format(**known).split()]
            found = run(argv)
        return found


def inputs(folder: Path) -> Callable[[Case, int], Path]:
    """What gives the dump of a case at a size (0: one sample of two tokens), written when new."""

    def dump(case: Case, size: int) -> Path:
        shapes = {"tokens": (size // LENGTH, LENGTH), "one": (1, size), "rows": (size, 2)}
        samples, length = shapes[case.kind] if size else (1, 2)
        path = folder / f"{samples}-{length}" / f"dump.{case.form}"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write(path, samples, length)
        return path

    return dump


def table(cases: list[Case], folder: Path, sizes: dict[str, int]) -> Iterator[str]:
    """A line a case."""
    dump_of = inputs(folder)
    for case in cases:
        small = sizes[case.kind]
        start, _ = measured(case, dump_of(case, 0), folder)
        cells = []
        peaks = []
        for size in (small, GROWTH * small):
            peak, spent = measured(case, dump_of(case, size), folder)
            peaks.append(peak - start)
            cells.append(f"{peak - start:8.0f} {spent:7.1f}")
        more = 1e6 * (peaks[1] - peaks[0]) / ((GROWTH - 1) * small)
        said = f"{peaks[1] / max(peaks[0], 1):8.2f}{more:9.1f}"
        yield f"{case.name:<24}{small:>10,}{''.join(cells)}{said}"


def main() -> None:
    """Print peaks above start-up at both sizes, and bytes a further token or sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--samples", type=int, default=250_000, help="of one row")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--folder", type=Path, help="where dumps are written, and kept")
    given = parser.parse_args()
    sizes = {"tokens": given.tokens, "one": given.tokens, "rows": given.samples}
    cases = [case for case in CASES if given.only in case.name]
    print(f"{SHAPE}; sizes S and {GROWTH} S; peak MB above start-up, seconds, ratio of the peaks,")
    print("and bytes of memory a further token, or sample of one row")
    print(f"{'':<24}{'S':>10}{'MB':>8}{'s':>8}{'MB':>8}{'s':>8}{'ratio':>8}{'bytes':>9}")
    with tempfile.TemporaryDirectory() as folder:
        place = given.folder or Path(folder)
        for line in table(cases, place, sizes):
            print(line, flush=True)


if __name__ == "__main__":
    main()
