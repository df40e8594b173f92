"""How long keys of very many samples take to be joined, and how much memory.

    python tests/bench/bench_join.py [--keys 10000000] [--match auto] [--files OLD NEW]

Two dumps' keys in memory, ids of 19 letters and both digests, the second in another order; or those
of two native files, as ``bench_many_samples.py --folder`` leaves them, read as they are joined.
Times are of the processor, peaks of the process, its imports and the keys too.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from routectl.formats.native.container import open_native
from routectl.keys import Keys, SampleKey
from routectl.ops.pairs.join import join_keys

TOGETHER = 100_000


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keys_of(places_S: np.ndarray) -> Keys:
    """The keys of samples by their numbers."""
    keys = Keys()
    for part in np.array_split(places_S, max(1, len(places_S) // TOGETHER)):
        mixed = part.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        digests = np.stack([mixed, part.astype(np.uint64)], axis=1).tobytes()
        keys.extend(
            [
                SampleKey(f"sample-{n:012}", digest, digest)
                for n, digest in zip(
                    part.tolist(),
                    (digests[i : i + 16] for i in range(0, len(digests), 16)),
                    strict=True,
                )
            ]
        )
    return keys


def told(what: str, match: str, begun: float, held: float) -> None:
    """Print what a join took."""
    seconds = time.process_time() - begun
    print(f"{what}, --match {match}: {seconds:.1f} s")
    print(f"  peak {peak_mb():,.0f} MB, of which {held:,.0f} MB before the join", flush=True)


def main() -> None:
    """Measure one join and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--match", default="auto")
    parser.add_argument("--files", nargs=2, type=Path)
    asked = parser.parse_args()
    if asked.files is not None:
        sides = [open_native(path).keys for path in asked.files]
        held, begun = peak_mb(), time.process_time()
        joined = join_keys(*sides, asked.match)
        told(f"{len(sides[0]):,} and {len(sides[1]):,} keys of files", asked.match, begun, held)
        print(f"  {joined.by}")
        return
    order = np.random.default_rng(0).permutation(asked.keys)
    old, new = keys_of(np.arange(asked.keys)), keys_of(order)
    held, begun = peak_mb(), time.process_time()
    joined = join_keys(old, new, asked.match)
    told(f"{asked.keys:,} keys a side", asked.match, begun, held)
    assert (order[joined.pairs.new_P] == joined.pairs.old_P).all()


if __name__ == "__main__":
    main()
