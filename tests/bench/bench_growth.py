"""How time and memory grow from n to 4 n: a line a case, each size in a process of its own.

    python tests/bench/bench_growth.py [--only WORD] [--runs R] [--scale F]

A case is a function of n that makes its input and gives what is timed. Seconds are the least
processor time of the runs, memory the peak above that before the first run. n log n grows 4.4-fold
at such sizes; more than 4.6 is too much. ``--scale`` makes every n smaller or larger.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from routectl.formats.responses.streams import merge_stream
from routectl.layouts.balancing import first_fit, karmarkar_karp, split_fullest
from routectl.layouts.packing import Packing
from routectl.layouts.plan import build_plan

GROWTH, MOST = 4, 4.6
CAP = 32_768  # tokens of a micro-batch


def lengths(count: int) -> list[int]:
    """Tokens of samples, as rollouts have them: some long, most short, none above the cap."""
    drawn = np.random.default_rng(0).lognormal(7, 1, count)
    return np.clip(drawn, 1, CAP).astype(int).tolist()


def balanced(count: int, parts: int) -> Callable[[], object]:
    """Karmarkar-Karp of so many samples."""
    lens = lengths(count)
    return lambda: karmarkar_karp(lens, parts)


def packed(count: int) -> Callable[[], object]:
    """First-fit, then the fullest bins split until 1,024 ranks have equally many."""
    lens = lengths(count)

    def call() -> object:
        bins = first_fit(lens, CAP)
        split_fullest(bins, lens, -(-len(bins) // 1024) * 1024)
        return bins

    return call


def shares(count: int) -> Callable[[], object]:
    """A plan of 64 ranks, and where the rows of each micro-batch of each of them begin."""
    lens = lengths(count)

    def call() -> object:
        plan = build_plan(lens, 64, max_tokens_per_gpu=CAP)
        layout = Packing(lens, "verl", plan=plan)
        places = ((m, r) for m in range(layout.num_micro_batches) for r in range(64))
        return [layout.share(m, r).packing.cu_seqlens_padded[-1] for m, r in places]

    return call


def stream_of_vllm(chunks: int) -> Callable[[], object]:
    """A stream of completions, a token a chunk."""
    choice = {"index": 0, "text": "a", "token_ids": [7], "finish_reason": None}
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
    line = "data: " + json.dumps({"id": "c", "choices": [{**choice, "logprobs": logprobs}]})
    text = f"{line}\n\n" * chunks + "data: [DONE]\n\n"
    return lambda: merge_stream(text, "stream")


def stream_of_sglang(chunks: int) -> Callable[[], object]:
    """A stream of /generate with incremental output, a token a chunk."""
    lines = (
        {"text": "a", "output_ids": [7], "meta_info": {"id": "x", "completion_tokens": i + 1}}
        for i in range(chunks)
    )
    text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    return lambda: merge_stream(text, "stream")


@dataclass(frozen=True)
class Case:
    """What is measured, from how many of what on."""

    name: str
    count: int
    of: str
    make: Callable[[int], Callable[[], object]]


CASES = (
    Case("karmarkar-karp, 4,096 bins", 250_000, "samples", lambda n: balanced(n, 4096)),
    Case("karmarkar-karp, 8 bins", 250_000, "samples", lambda n: balanced(n, 8)),
    Case("first-fit, 1,024 ranks", 250_000, "samples", packed),
    Case("plan and shares of 64 ranks", 250_000, "samples", shares),
    Case("event stream of vLLM", 32_000, "chunks", stream_of_vllm),
    Case("event stream of SGLang", 32_000, "chunks", stream_of_sglang),
)


def measure(case: Case, count: int, runs: int) -> None:
    """Print the seconds and megabytes of one size, in a process that has done nothing else."""
    call = case.make(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = []
    for _ in range(runs):
        begin = time.process_time()
        call()
        spent.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(min(spent), (peak - before) * 1024 / 1e6)


def main() -> None:
    """Read the arguments; print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(CASES[int(args.one[0])], int(args.one[1]), args.runs)
        return
    print(f"{'':<30}{'n':>22}{'s':>9}{'4 n: s':>9}{'growth':>8}{'MB':>8}{'4 n: MB':>9}")
    for i, case in enumerate(CASES):
        if args.only not in case.name:
            continue
        found = []
        first = max(int(case.count * args.scale), 1)
        for count in (first, GROWTH * first):
            argv = [sys.executable, __file__, "--runs", str(args.runs), "--one", str(i), str(count)]
            said = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append([float(part) for part in said.split()])
        (once, mb), (more, more_mb) = found
        mark = "" if more <= MOST * once else f"  above {MOST}"
        print(
            f"{case.name:<30}{f'{first:,} {case.of}':>22}{once:>9.3f}{more:>9.3f}"
            f"{more / once:>8.2f}{mb:>8.1f}{more_mb:>9.1f}{mark}",
            flush=True,
        )


if __name__ == "__main__":
    main()
