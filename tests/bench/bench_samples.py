"""How much memory a comparison of very many samples takes, and how long a sample.

    python tests/bench/bench_samples.py [--samples 10000000] [--rows 2]

Two dumps that are made as they are read, so that what is measured is the comparison: keys of every
sample, the join, the counts. A sample has so many rows in 2 layers, top-2 of 16; one in eight
differs. Peaks are of the process, its imports too.
"""

import argparse
import resource
import time

import numpy as np

from routectl.dump import Dump, DumpMeta, Keys, Sample
from routectl.jobs.compared.compared import Judging, count, judged
from routectl.jobs.compared.work import ComparedWork, OpenSides, held
from routectl.jobs.progress import SILENT
from routectl.jobs.shards.crew import ALONE
from routectl.ops.diff.options import DiffOptions
from routectl.reports.document import to_json
from routectl.routes import Routes

LAYERS, TOP_K, EXPERTS = (0, 1), 2, 16
KINDS = 64  # samples that are there in turn


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dump_of(name: str, samples: int, kinds: list[Routes]) -> Dump:
    """A dump of so many samples; of each its id alone is kept."""
    keys = Keys()
    for i in range(samples):
        keys.put(f"{i:08d}", None, None)

    def load(index: int) -> Sample:
        return Sample(kinds[index % KINDS], f"{index:08d}", prompt_length=1, response_length=2)

    meta = DumpMeta(name, "made here", LAYERS, EXPERTS, TOP_K, file_bytes=samples * 64)
    return Dump(meta, keys, load)


def routes(rows: int) -> tuple[list[Routes], list[Routes]]:
    """The routes of samples, of both sides."""
    rng = np.random.default_rng(0)
    old = [rng.integers(0, EXPERTS, (rows, 2, TOP_K), np.uint8) for _ in range(KINDS)]
    new = [ids.copy() for ids in old]
    for ids in new[::8]:
        ids[0, 0] ^= 1
    return tuple([Routes(ids, LAYERS, EXPERTS) for ids in side] for side in (old, new))


def main() -> None:
    """Measure one run and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=2)
    asked = parser.parse_args()
    begun, imports = time.monotonic(), peak_mb()
    sides = routes(asked.rows)
    old, new = (
        dump_of(name, asked.samples, kinds)
        for name, kinds in zip(("OLD", "NEW"), sides, strict=True)
    )
    keyed, keys = time.monotonic(), peak_mb()
    work = ComparedWork(held(OpenSides(old, new)), DiffOptions())
    found = judged(count(work, ALONE, SILENT), Judging())
    document = to_json(found.document)
    seconds = time.monotonic() - keyed
    assert found.result.samples.compared == asked.samples
    print(f"{asked.samples:,} samples: peak {peak_mb():,.0f} MB")
    print(f"  imports {imports:,.0f} MB; with keys {keys:,.0f} MB, made in {keyed - begun:.0f} s")
    print(f"  joined and compared in {seconds:.0f} s, {1e6 * seconds / asked.samples:.0f} us each")
    print(f"  the document has {len(document):,} bytes")


if __name__ == "__main__":
    main()
