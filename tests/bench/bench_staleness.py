"""Staleness of many versions in one pass: reads and time; and how router shift grows.

    python tests/bench/bench_staleness.py [--versions 8] [--samples 64]

Routes of 24 layers, top-8 of 128, 600 tokens a sample; 5 % of the rows of each version have another
expert than those of the version before. Reads are counted, by file. Router shift is of 4 layers,
200 tokens a sample, n and 4n samples.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from routectl.dump import Dump, DumpMeta, Sample, SampleKey, WeightSpan
from routectl.formats.native.container import open_native, write_native
from routectl.gate_logprobs import GateLogprobs
from routectl.ops.staleness.attribution import Version
from routectl.ops.staleness.gamma import router_shift
from routectl.ops.staleness.staleness import staleness
from routectl.routes import Routes

L, K, E, TOKENS, PROMPT = 24, 8, 128, 600, 100


def write_run(folder: Path, samples: int, versions: int) -> None:
    """A dump, dump.parquet, and its versions v0.parquet, v1.parquet, ..."""
    rng = np.random.default_rng(0)
    table = np.argpartition(rng.random((1 << 14, E)), K, axis=1)[:, : K + 1].astype(np.uint8)
    pick = rng.integers(0, len(table), (samples, TOKENS, L))
    ids = table[pick][..., :K].copy()
    meta = DumpMeta("made here", "test", tuple(range(L)), E, K, engine="vllm")

    def made(spanned: bool) -> list[Sample]:
        prompt, response = np.arange(PROMPT, dtype=np.int32), np.arange(TOKENS - PROMPT)
        return [
            Sample(
                Routes(ids[b].copy(), meta.layers_L, E),
                f"s{b}",
                prompt_ids=prompt + b,
                response_ids=response.astype(np.int32),
                prompt_length=PROMPT,
                response_length=TOKENS - PROMPT,
                weight_spans=(WeightSpan(f"v{b % versions}", 0, TOKENS),) if spanned else (),
            )
            for b in range(samples)
        ]

    write_native(made(True), meta, folder / "dump.parquet", force=True)
    for v in range(versions):
        hit = rng.random(pick.shape) < (0.05 if v else 0)
        ids[hit, rng.integers(0, K, hit.sum())] = table[pick[hit], K]
        write_native(made(False), meta, folder / f"v{v}.parquet", force=True)


def counted(path: Path, reads: Counter[str]) -> Dump:
    """A dump that counts how often its samples are read."""
    dump = open_native(path)

    def load(index: int) -> Sample:
        reads[path.stem] += 1
        return dump[index]

    return Dump(dump.meta, dump.keys, load)


def gated(samples: int, step: float) -> Dump:
    """A recompute with gate log-probabilities."""
    rng = np.random.default_rng(0)
    ids = np.tile(np.arange(K, dtype=np.uint8), (200, 4, 1))
    routes, base = Routes(ids, (0, 1, 2, 3), E), -rng.random((200, 4, K)).astype(np.float32)
    meta = DumpMeta("made here", "test", routes.layers_L, E, K, gates=True)
    gates = GateLogprobs(base - np.float32(step), "x")
    sample = Sample(routes, prompt_length=1, response_length=199, gates=gates)
    keys = [SampleKey(f"s{n}", None, None) for n in range(samples)]
    return Dump(meta, keys, lambda n: sample)


def shift_seconds(samples: int) -> float:
    """How long the router shift of so many samples takes."""
    old, new = gated(samples, 0), gated(samples, 0.25)
    begun = time.process_time()
    assert router_shift(old, new).tokens == 200 * samples
    return time.process_time() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    reads: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_run(folder, asked.samples, asked.versions)
        dump = counted(folder / "dump.parquet", reads)
        names = [f"v{v}" for v in range(asked.versions)]
        versions = [Version(n, counted(folder / f"{n}.parquet", reads)) for n in names]
        begun = time.process_time()
        result = staleness(dump, versions)
        seconds = time.process_time() - begun
    told = ", ".join(f"{name} {count / asked.samples:g}" for name, count in reads.items())
    print(f"{asked.versions} versions, {len(result.comparisons)} comparisons: {seconds:.1f} s")
    print(f"  reads of a stored sample: {told}")
    shift_seconds(100)
    few, many = shift_seconds(2000), shift_seconds(8000)
    print(f"router shift: 2,000 samples {few:.2f} s, 8,000 {many:.2f} s: {many / few:.2f}x")


if __name__ == "__main__":
    main()
