"""Sizes and speeds of the codecs, beside what people use, and the bounds.

    python tests/bench/bench_codecs.py [--e128 SAMPLES.npz] [--runs N] [--tokens N]

Routes: a trained model's (fixtures/tiny_rl; with --e128 one of 128 experts top-8), a recording of
vLLM, Qwen3-30B-A3B's shape with its published skew (load entropy 0.878) and even routes.
Blocks are those of a native file: all layers of a row group of the codec's size, one layer at a
time. Speeds are of the fastest of N runs, in millions of ids a second, of one thread, models
and joins included; with 2 threads the layers are spread. Every answer is compared with its source.
Baselines that are not installed (blosc2, pcodec: pip install -c constraints.txt -e '.[bench]')
are left out.
Shape suffixes: R rows, L layers, K top_k, E experts, S samples.
"""

import argparse
import importlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import comb, log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from routectl.codecs import codec_named
from routectl.codecs.block import Block, Codec
from routectl.formats import open_dump

CODECS = ("plain", "packed", "set", "context", "delta")
FIXTURES = Path(__file__).parents[2] / "fixtures"


class Case(NamedTuple):
    """Samples end to end: ids_RLK, rows of each, their tokens or None, a base or None."""

    name: str
    ids_RLK: np.ndarray
    num_experts: int
    lens_S: tuple[int, ...]
    tokens_R: np.ndarray | None
    base_RLK: np.ndarray | None = None


class Figure(NamedTuple):
    """Bits a set, and ids a microsecond."""

    bits: float
    encode: float
    decode: float
    encode_2: float = float("nan")
    decode_2: float = float("nan")


def from_dump(name: str, path: Path, base: Path | None = None) -> Case:
    """Samples of a dump, those with every row."""
    samples = [s for s in open_dump(path) if s.routes and s.routes.missing_TL is None]
    tokens = []
    for s in samples:
        at = s.routes.start
        tokens.append(np.array(s.token_ids[at : at + s.routes.num_tokens], np.int32))
    bases = None
    if base:
        by_id = {s.sample_id: s.routes for s in open_dump(base)}
        bases = np.concatenate([by_id[s.sample_id].ids_TLK for s in samples])
    ids = np.concatenate([s.routes.ids_TLK for s in samples])
    lens = tuple(s.routes.num_tokens for s in samples)
    return Case(name, ids, samples[0].routes.num_experts, lens, np.concatenate(tokens), bases)


def from_npz(name: str, path: Path, num_experts: int) -> Case:
    """Samples as NNN.routed_experts and its tokens; the base has a tenth of the rows changed."""
    with np.load(path) as file:
        names = sorted(n.split(".")[0] for n in file.files if n.endswith("routed_experts"))
        parts = [file[f"{n}.routed_experts"] for n in names]
        tokens = [
            np.concatenate([file[f"{n}.prompt_token_ids"], file[f"{n}.token_ids"]])[: len(part)]
            for n, part in zip(names, parts, strict=True)
        ]
    ids = np.concatenate(parts)
    base = swapped(ids, num_experts)
    lens = tuple(map(len, parts))
    return Case(name, ids, num_experts, lens, np.concatenate(tokens).astype(np.int32), base)


def swapped(ids_RLK: np.ndarray, num_experts: int) -> np.ndarray:
    """The same, one id of a tenth of the rows replaced by one that was not there, at random."""
    rng = np.random.default_rng(5)
    base = ids_RLK.copy()
    flat = base.reshape(-1, base.shape[-1])
    hit = np.flatnonzero(rng.random(len(flat)) < 0.1)
    slots = rng.integers(0, flat.shape[1], len(hit))
    for row, slot in zip(hit, slots, strict=True):
        new = rng.integers(num_experts)
        while new in flat[row]:
            new = rng.integers(num_experts)
        flat[row, slot] = new
    return base


def made(name: str, tokens: int, skew: float) -> Case:
    """Qwen3-30B-A3B's shape: 12 of its 48 layers, top-8 of 128, rows of 2048, no token ids."""
    rng, layers = np.random.default_rng(3), 12
    ids = np.empty((tokens, layers, 8), np.uint8)
    for layer in range(layers):
        scores = skew * rng.normal(size=128) + rng.gumbel(size=(tokens, 128))
        ids[:, layer] = np.argpartition(-scores, 8, axis=1)[:, :8]
    lens = tuple(min(2048, tokens - at) for at in range(0, tokens, 2048))
    return Case(name, ids, 128, lens, None, swapped(ids, 128))


def load_entropy(case: Case) -> float:
    """Of the mean layer, 1 for even loads."""
    values = []
    for layer in range(case.ids_RLK.shape[1]):
        share = np.bincount(case.ids_RLK[:, layer].ravel(), minlength=case.num_experts)
        share = share[share > 0] / share.sum()
        values.append(-(share * np.log2(share)).sum() / log2(case.num_experts))
    return float(np.mean(values))


def bernoulli_bits(ids_RK: np.ndarray, num_experts: int) -> float:
    """Bits a set of the conditional Bernoulli distribution that has the inclusion frequencies.

    The distribution of sets of K with the greatest entropy for given frequencies; its odds are
    found by iteration, with elementary symmetric functions forward and back (S. X. Chen, A. P.
    Dempster, J. S. Liu, Biometrika 81, 1994). The code length of the rows under it.
    """
    rows, top_k = ids_RK.shape
    share = np.clip(np.bincount(ids_RK.ravel(), minlength=num_experts) / rows, 1e-9, 1 - 1e-9)
    odds = share / (1 - share)
    for _ in range(100):
        odds /= np.exp(np.log(odds).mean())
        ahead, back = (np.zeros((num_experts + 1, top_k + 1)) for _ in range(2))
        ahead[0, 0] = back[num_experts, 0] = 1
        for e in range(num_experts):
            b = num_experts - 1 - e
            ahead[e + 1], back[b] = ahead[e], back[b + 1]
            ahead[e + 1, 1:] += odds[e] * ahead[e, :-1]
            back[b, 1:] += odds[b] * back[b + 1, :-1]
        total = ahead[num_experts, top_k]
        others = (ahead[:-1, :top_k] * back[1:, top_k - 1 :: -1][:, :top_k]).sum(1)
        included = odds * others / total
        if np.abs(included - share).max() < 1e-7:
            break
        odds *= share / included
    return float(np.log2(total) - (share * np.log2(odds)).sum())


def gap_bits(ids_RK: np.ndarray, num_experts: int) -> float:
    """Bits a set of sorted frequency ranks: the empirical entropy of each slot's gap, summed."""
    load = np.bincount(ids_RK.ravel(), minlength=num_experts)
    rank = np.empty(num_experts, np.int64)
    rank[np.argsort(-load, kind="stable")] = np.arange(num_experts)
    gaps = np.diff(np.sort(rank[ids_RK], axis=1), axis=1, prepend=-1)
    bits = 0.0
    for gap_R in gaps.T:
        share = np.bincount(gap_R) / len(gap_R)
        share = share[share > 0]
        bits -= float((share * np.log2(share)).sum())
    return bits


def bounds_of(case: Case) -> dict[str, float]:
    """Means over the layers, bits a set."""
    ids, experts = case.ids_RLK, case.num_experts
    layers = range(ids.shape[1])
    return {
        "log2 C(E, K)": log2(comb(experts, ids.shape[2])),
        "conditional Bernoulli": float(
            np.mean([bernoulli_bits(ids[:, i], experts) for i in layers])
        ),
        "gaps by slot": float(np.mean([gap_bits(ids[:, i], experts) for i in layers])),
    }


def groups_of(case: Case, group_bytes: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(first row, last row + 1, rows of each sample) of each row group."""
    row_bytes = case.ids_RLK[:1].nbytes
    lens: list[int] = []
    first = at = 0
    for rows in case.lens_S:
        lens.append(rows)
        at += rows
        if (at - first) * row_bytes >= group_bytes or at == len(case.ids_RLK):
            yield first, at, tuple(lens)
            first, lens = at, []


def blocks_of(case: Case, codec: Codec) -> list[Block]:
    """What a native file would hand to the codec."""
    found = []
    for lo, hi, lens in groups_of(case, codec.group_bytes):
        tokens = None if case.tokens_R is None else case.tokens_R[lo:hi]
        for layer in range(case.ids_RLK.shape[1]):
            base = None
            if case.base_RLK is not None:
                base = np.ascontiguousarray(case.base_RLK[lo:hi, layer])
            ids = np.ascontiguousarray(case.ids_RLK[lo:hi, layer])
            found.append(Block(ids, case.num_experts, lens, tokens, base))
    return found


def fastest(runs: int, call: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the fastest run, and what the last one gave."""
    best, answer = float("inf"), None
    for _ in range(runs):
        begin = time.perf_counter()
        answer = call()
        best = min(best, time.perf_counter() - begin)
    return best, answer


def measure(case: Case, codec: Codec, runs: int) -> Figure:
    """All blocks through a codec, on one thread and on two."""
    blocks = blocks_of(case, codec)
    size, sets = case.ids_RLK.size / 1e6, case.ids_RLK.size / case.ids_RLK.shape[2]
    codec.decode(codec.encode(blocks[0]), blocks[0].about)  # compiles
    encode_s, coded = fastest(runs, lambda: [codec.encode(b) for b in blocks])
    pairs = list(zip(coded, [b.about for b in blocks], strict=True))
    decode_s, decoded = fastest(runs, lambda: [codec.decode(*pair) for pair in pairs])
    for block, ids in zip(blocks, decoded, strict=True):
        source = block.ids_RK if codec.keeps_order else np.sort(block.ids_RK, axis=1)
        assert np.array_equal(ids, source), codec.name
    with ThreadPoolExecutor(2) as pool:
        encode_2, _ = fastest(runs, lambda: list(pool.map(codec.encode, blocks)))
        decode_2, _ = fastest(runs, lambda: list(pool.map(lambda pair: codec.decode(*pair), pairs)))
    bits = 8 * sum(len(c.shared) + sum(map(len, c.cells)) for c in coded) / sets
    return Figure(bits, size / encode_s, size / decode_s, size / encode_2, size / decode_2)


def by_savez(data: bytes) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """numpy's own."""
    ids = np.frombuffer(data, np.uint8)

    def write() -> bytes:
        file = io.BytesIO()
        np.savez_compressed(file, ids=ids)
        return file.getvalue()

    return write, lambda packed: np.load(io.BytesIO(packed))["ids"]


def by_parquet(data: bytes) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """A column of uint8, zstd pages."""
    table = pa.table({"ids": pa.array(np.frombuffer(data, np.uint8))})

    def write() -> bytes:
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd")
        return file.getvalue()

    return write, lambda packed: pq.read_table(io.BytesIO(packed), use_threads=False)


def by_zstd(level: int) -> Callable[[bytes], tuple[Callable[[], bytes], Callable[[bytes], object]]]:
    """zstd on the ids as they are."""

    def pair(data: bytes) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
        writer, reader = zstandard.ZstdCompressor(level), zstandard.ZstdDecompressor()
        return lambda: writer.compress(data), reader.decompress

    return pair


def by_blosc2(data: bytes) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """Bit shuffle and zstd, one thread."""
    blosc2 = importlib.import_module("blosc2")
    blosc2.set_nthreads(1)
    shuffle = blosc2.Filter.BITSHUFFLE
    return lambda: blosc2.compress(data, typesize=1, filter=shuffle), blosc2.decompress


def by_pcodec(data: bytes) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """uint16, which is the narrowest that it takes."""
    standalone = importlib.import_module("pcodec").standalone
    config = importlib.import_module("pcodec").ChunkConfig()
    wide = np.frombuffer(data, np.uint8).astype(np.uint16)
    return lambda: standalone.simple_compress(wide, config), standalone.simple_decompress


BASELINES = {
    "zstd-3": by_zstd(3),
    "zstd-19": by_zstd(19),
    "np.savez_compressed": by_savez,
    "Parquet + zstd": by_parquet,
    "blosc2 (bitshuffle)": by_blosc2,
    "pcodec (uint16)": by_pcodec,
}


def measure_baseline(case: Case, name: str, runs: int) -> Figure | None:
    """The ids as engines emit them, uint8, in one piece."""
    try:
        write, read = BASELINES[name](case.ids_RLK.tobytes())
    except ImportError:
        return None
    slow = 1 if name in ("zstd-19", "np.savez_compressed") else runs
    encode_s, packed = fastest(slow, write)
    decode_s, _ = fastest(runs, lambda: read(packed))
    size, sets = case.ids_RLK.size / 1e6, case.ids_RLK.size / case.ids_RLK.shape[2]
    return Figure(8 * len(packed) / sets, size / encode_s, size / decode_s)


def show(case: Case, runs: int) -> tuple[dict[str, float], dict[str, Figure]]:
    """Print a table of one case."""
    rows, layers, top_k = case.ids_RLK.shape
    bounds, figures = bounds_of(case), {}
    print(
        f"\n{case.name}: {len(case.lens_S)} samples, {rows:,} tokens, {layers} layers, "
        f"top-{top_k} of {case.num_experts}, load entropy {load_entropy(case):.3f}"
    )
    print(
        f"{'':<22}{'bits/set':>9}{'B/token':>9}{'x int32':>8}{'enc M/s':>9}{'dec M/s':>9}"
        f"{'enc x2':>8}{'dec x2':>8}"
    )
    for name, bits in bounds.items():
        print(f"{name:<22}{bits:>9.2f}{bits * layers / 8:>9.1f}{32 * top_k / bits:>8.2f}   bound")
    for name in (*BASELINES, *CODECS):
        if name in BASELINES:
            figure = measure_baseline(case, name, runs)
        else:
            codec = codec_named(name)
            given = {
                "distinct": True,
                "tokens": case.tokens_R is not None,
                "base": case.base_RLK is not None,
            }
            if not all(given[need] for need in codec.needs):
                continue
            figure = measure(case, codec, runs)
        if figure is None:
            print(f"{name:<22}  not installed")
            continue
        figures[name] = figure
        speeds = "".join(
            f"{v:>{w}.1f}" if v == v else " " * w
            for v, w in zip(figure[1:], (9, 9, 8, 8), strict=True)
        )
        print(
            f"{name:<22}{figure.bits:>9.2f}{figure.bits * layers / 8:>9.1f}"
            f"{32 * top_k / figure.bits:>8.2f}{speeds}",
            flush=True,
        )
    return bounds, figures


def judge(name: str, got: float, least: float, most: float) -> None:
    """One target, met or not."""
    met = least <= got <= most
    want = f">= {least:g}" if most == float("inf") else f"<= {most:.4g}"
    print(f"{'met' if met else 'NOT MET':<8} {name}: {got:.4g}, wanted {want}")


def targets(case: Case, bounds: dict[str, float], figures: dict[str, Figure]) -> None:
    """The targets, where this case is what they are stated for."""
    inf, label = float("inf"), case.name
    even = load_entropy(case) > 0.999
    packed, by_set = figures["packed"], figures["set"]
    width = (case.num_experts - 1).bit_length() * case.ids_RLK.shape[2]
    judge(f"{label}: packed, bits/set", packed.bits, 0, width + 8 * len(case.lens_S) / 1e3)
    judge(f"{label}: packed, encode M/s", packed.encode, 500, inf)
    judge(f"{label}: packed, decode M/s", packed.decode, 1000, inf)
    if even:
        judge(f"{label}: set, of log2 C(E, K)", by_set.bits / bounds["log2 C(E, K)"], 0, 1.02)
    for name in ("conditional Bernoulli", "gaps by slot"):
        judge(f"{label}: set, of {name}", by_set.bits / bounds[name], 0, 1.04)
    judge(f"{label}: set, encode M/s", by_set.encode, 60, inf)
    judge(f"{label}: set, decode M/s", by_set.decode, 150, inf)
    if "context" in figures:
        judge(f"{label}: context, of set", figures["context"].bits / by_set.bits, 0, 0.5)
        judge(f"{label}: context, encode M/s", figures["context"].encode, 2, inf)
        judge(f"{label}: context, decode M/s", figures["context"].decode, 2, inf)
    if "delta" in figures and case.base_RLK is not None:
        judge_delta(case, figures["delta"])


def judge_delta(case: Case, figure: Figure) -> None:
    """6 bits an id that a swap names and 0.1 a row that stays."""
    ids, base = np.sort(case.ids_RLK, axis=2), np.sort(case.base_RLK, axis=2)
    rate = float((ids != base).any(axis=2).mean())
    shared = (case.ids_RLK[..., :, None] == case.base_RLK[..., None, :]).any(-1).sum(-1)
    swaps = float((case.ids_RLK.shape[2] - shared).mean())
    judge(
        f"{case.name}: delta at {rate:.1%} of rows, bits/row",
        figure.bits,
        0,
        12 * swaps + 0.1 * (1 - rate),
    )
    judge(f"{case.name}: delta, encode M/s", figure.encode, 150, float("inf"))
    judge(f"{case.name}: delta, decode M/s", figure.decode, 150, float("inf"))


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--e128", type=Path, help="samples.npz of a model with 128 experts top-8")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=65536, help="of the made routes")
    options = parser.parse_args(arguments)
    tiny = FIXTURES / "tiny_rl"
    cases = [
        from_dump("tiny_rl v1 on v0", tiny / "routes_v1.fp32.npz", tiny / "routes_v0.fp32.npz"),
        from_dump("vLLM bf16", tiny / "vllm.bf16/samples.jsonl"),
        made("Qwen3-30B-A3B's skew", options.tokens, 1.22),
        made("even", options.tokens, 0.0),
    ]
    if options.e128:
        cases.insert(0, from_npz("e128", options.e128, 128))
    results = [(case, *show(case, options.runs)) for case in cases]
    print()
    for result in results:
        targets(*result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
