"""Memory and time of a check of very many samples: nothing may be kept of each but its key.

    python tests/bench/bench_many_samples.py [--samples 10000000] [--read 100000] [--no-tokens]

Samples are made as they are read: 8 tokens, 2 MoE layers, top-2 of 16, four of each prompt, of
routes that follow their tokens; one in a hundred has a row of one expert twice. With --read so many
of them, evenly spaced, are read, the others are keys alone. Memory is that of the process at its
highest, keys included; digests in keys are numbers in place of BLAKE2b, which takes longer.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from routectl.dump import Dump, DumpMeta, Keys, Sample
from routectl.ops.check.check import Checker, CheckOptions, check
from routectl.ops.check.lesson import learn
from routectl.routes import Routes

LAYERS, EXPERTS, TOP_K, PROMPT, RESPONSE = (0, 1), 16, 2, 4, 5
VOCABULARY = 64


def tokens_of(index):
    """The token ids of a sample: those of its prompt, then its own."""
    first = np.arange(PROMPT, dtype=np.uint64) + np.uint64(1000 * (index // 4))
    own = np.arange(RESPONSE, dtype=np.uint64) + np.uint64(1000 * index + 7)
    mixed = np.concatenate([first, own]) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(40)) % np.uint64(VOCABULARY)).astype(np.int32)


def dump_of(samples):
    """A dump whose samples are made when they are read."""
    table = np.random.default_rng(0).permuted(
        np.tile(np.arange(EXPERTS, dtype=np.uint8), (VOCABULARY, len(LAYERS), 1)), axis=2
    )[:, :, :TOP_K]

    def load(index):
        tokens = tokens_of(index)
        ids = table[tokens[:-1]].copy()
        if index % 101 == 50:
            ids[index % len(ids), 1] = 3
        return Sample(
            Routes(ids, LAYERS, EXPERTS),
            sample_id=f"{index // 4:08d}/{index % 4}",
            prompt_ids=tokens[:PROMPT],
            response_ids=tokens[PROMPT:],
            prompt_length=PROMPT,
            response_length=RESPONSE,
        )

    keys = Keys()
    for index in range(samples):
        prompt = (index // 4 * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(16, "little")
        keys.put(f"{index // 4:08d}/{index % 4}", index.to_bytes(16, "little"), prompt)
    meta = DumpMeta("made", "made", LAYERS, EXPERTS, TOP_K)
    return Dump(meta, keys, load)


def peak_mb():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--read", type=int, help="so many of them; all when not given")
    parser.add_argument("--no-tokens", action="store_true")
    args = parser.parse_args()
    check(dump_of(64))  # what is imported and compiled
    begin = time.perf_counter()
    dump = dump_of(args.samples)
    made, keys_mb = time.perf_counter() - begin, peak_mb()
    begin, cpu = time.perf_counter(), time.process_time()
    options = CheckOptions(by_tokens=not args.no_tokens)
    lesson, reader = learn(dump, options)
    read = range(0, args.samples, -(-args.samples // (args.read or args.samples)))
    checker = Checker(reader, lesson, options)
    found = checker.partial(read).result(checker)
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    codes = {f.code: (f.samples, f.rows) for f in found.findings}
    print(f"{args.samples:,} samples: keys {made:.0f} s, {keys_mb:.0f} MB in all with them")
    print(
        f"{len(read):,} read: {took:.0f} s ({cpu:.0f} s of CPU), "
        f"{1e6 * cpu / len(read):.0f} us a sample read"
    )
    print(f"peak {peak_mb():.0f} MB; samples and rows by code: {codes}")


if __name__ == "__main__":
    main()
