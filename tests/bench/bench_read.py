"""How long JSON lines take to be read: through open_dump, and by ``routectl show``.

python tests/bench/bench_read.py [--runs R] [--tokens T] [--length N]

200,000 tokens of 48 x 8 rows in responses as vLLM sends them (base64 .npy, 104 MB), a sample a
line. Baseline: json.loads, base64 and np.load of the same lines. Each side is a process of its own;
what it takes to start (the imports, a file of one line) is subtracted.
"""

import argparse
import base64
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYERS, TOP_K, EXPERTS = 48, 8, 128
CONFIG = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": LAYERS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
}
BASELINE_NAME = "json.loads + base64 + np.load"
BASELINE = """
import base64, io, json, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    for line in file:
        choice = json.loads(line)["choices"][0]
        np.load(io.BytesIO(base64.b64decode(choice["routed_experts"])))
"""
READ = """
import sys
from routectl.formats import open_dump
for sample in open_dump(sys.argv[1]):
    pass
"""
PEAK = """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def response(number: int, length: int) -> dict[str, object]:
    """A completion of vLLM: ``length`` tokens, a row for each but the last."""
    rng = np.random.default_rng(number)
    first = rng.integers(0, EXPERTS // TOP_K, (length - 1, LAYERS, TOP_K))
    rows = (first + np.arange(0, EXPERTS, EXPERTS // TOP_K)).astype(np.uint8)
    file = io.BytesIO()
    np.save(file, rows)
    tokens, split = rng.integers(0, 150_000, length).tolist(), length // 4
    choice = {
        "index": 0,
        "token_ids": tokens[split:],
        "finish_reason": "stop",
        "routed_experts": base64.b64encode(file.getvalue()).decode(),
    }
    return {"id": f"cmpl-{number}", "prompt_token_ids": tokens[:split], "choices": [choice]}


def write(path: Path, samples: int, length: int) -> None:
    """Write a dump, and its model's configuration beside it."""
    path.parent.mkdir()
    (path.parent / "config.json").write_text(json.dumps(CONFIG))
    with path.open("w") as file:
        for number in range(samples):
            file.write(json.dumps(response(number, length)) + "\n")


def seconds(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU time of one process."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak(code: str, path: Path) -> float:
    """The memory that a side takes at most, in MB."""
    argv = [sys.executable, "-c", code + PEAK, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def above_start(starts: list[tuple[float, float]], times: list[tuple[float, float]]) -> list[float]:
    """What the median run takes above the median start, wall and CPU."""
    medians = [
        [statistics.median(one) for one in zip(*side, strict=True)] for side in (times, starts)
    ]
    return [whole - start for whole, start in zip(*medians, strict=True)]


def main() -> None:
    """Print the medians of interleaved runs above start-up, and their ratios to the baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--length", type=int, default=1000, help="tokens a sample")
    given = parser.parse_args()
    python = sys.executable
    sides = {
        BASELINE_NAME: [python, "-c", BASELINE],
        "open_dump, every sample": [python, "-c", READ],
        "routectl show": [python, "-m", "routectl", "show"],
    }
    with tempfile.TemporaryDirectory() as folder:
        whole, one = Path(folder) / "whole/dump.jsonl", Path(folder) / "one/dump.jsonl"
        write(whole, given.tokens // given.length, given.length)
        write(one, 1, 2)
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for run in range(given.runs + 1):
            for name, argv in sides.items():
                start, spent = seconds([*argv, str(one)]), seconds([*argv, str(whole)])
                if run:  # the first fills the caches
                    starts[name].append(start)
                    times[name].append(spent)
        size = whole.stat().st_size / 1e6
        memory = {code: peak(code, whole) for code in (BASELINE, READ)}
    print(f"{given.tokens:,} tokens, {size:.0f} MB; {given.runs} interleaved runs, above start-up:")
    above = {name: above_start(starts[name], times[name]) for name in sides}
    for name, spent in above.items():
        words = [
            f"{what} {of_it:.3f} s ({of_it / base:.2f}x)"
            for what, of_it, base in zip(("wall", "CPU"), spent, above[BASELINE_NAME], strict=True)
        ]
        print(f"{name:<32}{'  '.join(words)}")
    print(f"peak memory: baseline {memory[BASELINE]:.0f} MB, open_dump {memory[READ]:.0f} MB")


if __name__ == "__main__":
    main()
