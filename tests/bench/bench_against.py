"""How a check against a reference grows with the runs of rows that are not where they should be.

    python tests/bench/bench_against.py [--runs 500 2000] [--times 3]

Each sample has 128 tokens of 4 MoE layers, top-4 of 32, and one run of 40 rows: of nobody, of
another sample, or with experts renumbered. The growth is the time from the first number of samples
to the last, over their ratio; under 1.15 is linear.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from routectl.dump import Dump, DumpMeta, Keys, Sample
from routectl.ops.check.check import CheckOptions, check
from routectl.routes import Routes

LAYERS, EXPERTS, TOP_K, TOKENS, RUN = (0, 1, 2, 3), 32, 4, 128, slice(40, 80)
KINDS = ("nobody", "other", "renumbered")


def pair_of(samples, kind):
    """A dump with one run of a kind in each sample, and its reference."""
    rng = np.random.default_rng(0)
    shape = (samples, TOKENS - 1, len(LAYERS))
    right = rng.random((*shape, EXPERTS), np.float32).argpartition(TOP_K, -1)[..., :TOP_K]
    right = right.astype(np.uint8)
    wrong = right.copy()
    if kind == "nobody":
        other = rng.random((*wrong[:, RUN].shape[:3], EXPERTS), np.float32)
        wrong[:, RUN] = other.argpartition(TOP_K, -1)[..., :TOP_K]
    elif kind == "other":
        wrong[:, RUN] = np.roll(right, 1, axis=0)[:, RUN]
    else:
        wrong[:, RUN] = rng.permutation(EXPERTS).astype(np.uint8)[right[:, RUN]]
    tokens = rng.integers(0, 1000, (samples, TOKENS)).astype(np.int32)
    made = []
    for ids in (wrong, right):
        keys = Keys()
        for n in range(samples):
            keys.put_ids(f"s{n}", tokens[n, :64], tokens[n, 64:])

        def load(n, ids=ids):
            return Sample(
                Routes(ids[n], LAYERS, EXPERTS),
                sample_id=f"s{n}",
                prompt_ids=tokens[n, :64],
                response_ids=tokens[n, 64:],
                prompt_length=64,
                response_length=TOKENS - 64,
            )

        made.append(Dump(DumpMeta("made", "made", LAYERS, EXPERTS, TOP_K), keys, load))
    return made


def seconds(samples, kind, times):
    """The median time of a check, of CPU, and the codes that it found."""
    dump, reference = pair_of(samples, kind)
    options, took = CheckOptions(by_tokens=False), []
    for _ in range(times):
        begin = time.process_time()
        found = check(dump, reference, options=options)
        took.append(time.process_time() - begin)
    return statistics.median(took), sorted({f.code for f in found.findings})


def grown(runs, times):
    """Print a line for each kind of runs."""
    for kind in KINDS:
        seconds(8, kind, 1)
        found = [seconds(n, kind, times) for n in runs]
        growth = found[-1][0] / found[0][0]
        told = ", ".join(f"{n:,}: {s:.2f} s" for n, (s, _) in zip(runs, found, strict=True))
        ratio = runs[-1] / runs[0]
        print(f"{kind:<11} {told}; {growth:.2f} x for {ratio:g} x the runs {found[-1][1]}")


def main():
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    grown(args.runs, args.times)


if __name__ == "__main__":
    main()
