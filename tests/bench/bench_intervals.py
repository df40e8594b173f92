"""How often intervals cover the truth, by how many sequences there are.

    python tests/bench/bench_intervals.py [--runs 500] [--level 0.95]

Sequences of 100 to 400 rows flip at rates of their own, 10 % on average: evenly (a standard
deviation of 4 %), unevenly (9 %); rarely: one in five flips, at 2.5 %, the others never. Printed
are the shares of runs whose interval covers the mean rate, of runs that have an interval, and in
brackets how many have none. Below FEWEST sequences no command prints an interval; what it would
cover is printed here all the same, which is why FEWEST is what it is.
"""

import argparse

import numpy as np

from routectl.ops.adding.intervals import Bootstrap, interval_of, resample, tail_share

COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64)


def rates_of(kind: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The rate of each sequence, and the mean that they are drawn around."""
    if kind == "evenly":
        return rng.beta(6, 54, count), 0.1
    if kind == "unevenly":
        return rng.beta(0.9, 8.1, count), 0.1
    return np.where(rng.random(count) < 0.2, 0.025, 0.0), 0.005


def covered(kind: str, count: int, runs: int, level: float) -> tuple[int, int]:
    """How many of so many runs have an interval, and of how many it covers the truth."""
    rng, having, hit = np.random.default_rng(count), 0, 0
    for run in range(runs):
        rate, truth = rates_of(kind, count, rng)
        rows = rng.integers(100, 400, count)
        wrong = rng.binomial(rows, rate)
        plan = Bootstrap(level, seed=run)
        sums = resample(np.stack([wrong, rows], axis=1), plan)
        rates = sums[:, 0] / sums[:, 1]
        if rates.min() == rates.max():
            continue
        having += 1
        low, high = np.quantile(rates, [tail_share(count, level), 1 - tail_share(count, level)])
        hit += low <= truth <= high
        found = interval_of(rates, count, level)
        assert found is None or (found.low, found.high) == (low, high)
    return having, hit


def main() -> None:
    """Print a row a count of sequences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--level", type=float, default=0.95)
    asked = parser.parse_args()
    kinds = ("evenly", "unevenly", "rarely")
    print("sequences  " + "  ".join(f"{kind:>15}" for kind in kinds))
    for count in COUNTS:
        cells = []
        for kind in kinds:
            having, hit = covered(kind, count, asked.runs, asked.level)
            none = f" ({asked.runs - having})" if having < asked.runs else ""
            cells.append(f"{100 * hit / max(having, 1):.1f} %{none}")
        print(f"{count:9}  " + "  ".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
