"""What a dictionary of tokens gains: bits against speed, by half of a dump, and by version.

    python tests/bench/bench_token.py --e128 SAMPLES.npz [--version NAME=DUMP ...] [--runs N]

A dictionary is learnt from every other sample, and the rest is coded with it: by zstd-19, ``set``,
``token`` (with that dictionary, and with one of its own that is counted in) and ``context``; then
with tokens shuffled, and with even routes. Of tiny_rl the dictionary is that of version 0, and its
other half is coded as later versions route it; ``--version`` adds dumps of the same samples.
Speeds are CPU time of one thread, the fastest of N runs; bounds are computed in numpy alone: sets
of K under the odds of the layer, and of the token blended with the layer's.
Shape suffixes: R rows, L layers, K top_k, E experts, V token ids.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench_codecs import Case, blocks_of, from_dump, from_npz

from routectl.codecs import codec_named
from routectl.codecs.dictionary import TokenDictionary
from routectl.codecs.dictionary_tables import TableSizes
from routectl.codecs.token_training import CLASSES, Training
from support.token_oracle import bound_bits

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Figure(NamedTuple):
    """Bits a set, and millions of ids a second."""

    bits: float
    encode: float
    decode: float


def half(case: Case, first: int, name: str) -> Case:
    """Every other sample, from the first or the second on."""
    ends = np.cumsum(case.lens_S)
    picked = range(first, len(ends), 2)
    rows = np.concatenate([np.arange(ends[i] - case.lens_S[i], ends[i]) for i in picked])
    lens = tuple(case.lens_S[i] for i in picked)
    return Case(name, case.ids_RLK[rows], case.num_experts, lens, case.tokens_R[rows])


def learnt(case: Case, own: bool = False) -> TokenDictionary:
    """The dictionary of a case, its samples one by one."""
    _, layers, top_k = case.ids_RLK.shape
    seen = np.bincount(case.tokens_R)
    tokens = np.flatnonzero(seen >= (12 if own else 2))
    training = Training(TableSizes(case.num_experts, top_k, CLASSES), tokens, layers, own=own)
    for take in (training.count, training.tabulate):
        end = 0
        for i, rows in enumerate(case.lens_S):
            part = slice(end, end + rows)
            end += rows
            take(i, case.ids_RLK[part], case.tokens_R[part], np.ones((rows, layers), bool))
        if take == training.count:
            training.rank()
    return training.dictionary(tuple(range(layers)))


def measure(case: Case, name: str, dictionary: TokenDictionary | None, runs: int) -> Figure:
    """All blocks through a codec; what comes back is compared."""
    codec = codec_named(name)
    blocks = blocks_of(case, codec)
    if dictionary is not None:
        layers = case.ids_RLK.shape[1]
        blocks = [
            type(b)(b.ids_RK, b.num_experts, b.lens_S, b.token_ids_R, None, dictionary.layer(i))
            for b, i in zip(blocks, [*range(layers)] * (len(blocks) // layers), strict=True)
        ]
    encode = decode = float("inf")
    for _ in range(runs + 1):  # the first one compiles
        begin = time.process_time()
        coded = [codec.encode(block) for block in blocks]
        middle = time.process_time()
        decoded = [codec.decode(c, b.about) for c, b in zip(coded, blocks, strict=True)]
        encode, decode = min(encode, middle - begin), min(decode, time.process_time() - middle)
    for block, ids in zip(blocks, decoded, strict=True):
        assert np.array_equal(ids, np.sort(block.ids_RK, axis=1)), name
    size = sum(len(c.shared) + sum(map(len, c.cells)) for c in coded)
    ids = case.ids_RLK.size
    return Figure(8 * size * case.ids_RLK.shape[2] / ids, ids / encode / 1e6, ids / decode / 1e6)


def by_zstd(case: Case) -> Figure:
    """zstd-19 on ascending ids."""
    data = np.sort(case.ids_RLK, axis=2).tobytes()
    begin = time.process_time()
    packed = zstandard.ZstdCompressor(19).compress(data)
    middle = time.process_time()
    zstandard.ZstdDecompressor().decompress(packed)
    end = time.process_time()
    ids = case.ids_RLK.size
    bits = 8 * len(packed) * case.ids_RLK.shape[2] / ids
    return Figure(bits, ids / (middle - begin) / 1e6, ids / (end - middle) / 1e6)


def mean_bound(learn: Case, coded: Case, prior: float | None) -> float:
    """``bound_bits``, a mean over layers."""
    layers = range(learn.ids_RLK.shape[1])
    parts = [[(case.ids_RLK[:, i], case.tokens_R) for case in (learn, coded)] for i in layers]
    return float(np.mean([bound_bits(*part, learn.num_experts, prior) for part in parts]))


def row(name: str, figure: Figure) -> None:
    """Print a line."""
    print(f"{name:<34}{figure.bits:>8.2f}{figure.encode:>10.1f}{figure.decode:>10.1f}", flush=True)


def frontier(whole: Case, runs: int) -> None:
    """One half with the dictionary of the other, then what a dictionary cannot help."""
    learn, rest = half(whole, 0, "first"), half(whole, 1, "second")
    dictionary, own = learnt(learn), learnt(rest, own=True)
    print(f"\n{whole.name}: {'':<20}bits/set   enc M/s   dec M/s")
    print(f"{'bound: the layer alone':<34}{mean_bound(learn, rest, None):>8.2f}")
    for prior in (1.0, 2.0):
        print(
            f"{f'bound: token, {prior:g} rows of layer':<34}{mean_bound(learn, rest, prior):>8.2f}"
        )
    row("zstd-19", by_zstd(rest))
    by_set = measure(rest, "set", None, runs)
    row("set", by_set)
    row("token", measure(rest, "token", dictionary, runs))
    by_own = measure(rest, "token", own, runs)
    sets = rest.ids_RLK.size / rest.ids_RLK.shape[2]
    more = 8 * len(own.data) * 4 / 3 / sets
    row("token, its own dictionary", by_own)
    row("  the same, dictionary counted", by_own._replace(bits=by_own.bits + more))
    row("context", measure(rest, "context", None, 1))
    rng = np.random.default_rng(1)
    shuffled = rest._replace(tokens_R=rng.permutation(rest.tokens_R))
    row("token, tokens shuffled", measure(shuffled, "token", dictionary, 1))
    scores = rng.random((len(rest.ids_RLK), rest.ids_RLK.shape[1], rest.num_experts))
    top_k = rest.ids_RLK.shape[2]
    even = rest._replace(ids_RLK=np.argsort(scores, axis=2)[..., :top_k].astype(np.uint8))
    row("set, even routes", measure(even, "set", None, 1))
    row("token, even routes", measure(even, "token", dictionary, 1))
    print(
        f"dictionary: {dictionary.num_tokens} tokens, {len(dictionary.data):,} bytes; "
        f"its own {own.num_tokens}, {len(own.data):,}"
    )


def by_version(versions: dict[str, Path], runs: int) -> None:
    """The dictionary of version 0's first half, on the second half as each version routes it."""
    print(f"\n{'tiny_rl, dictionary of v0':<34}{'token':>8}{'set':>10}{'its own':>10}")
    dictionary = None
    for name, path in versions.items():
        whole = from_dump(name, path)
        learn, rest = half(whole, 0, name), half(whole, 1, name)
        dictionary = dictionary or learnt(learn)
        figures = [
            measure(rest, "token", dictionary, runs).bits,
            measure(rest, "set", None, runs).bits,
            measure(rest, "token", learnt(learn), runs).bits,
        ]
        print(f"{name:<34}{figures[0]:>8.2f}{figures[1]:>10.2f}{figures[2]:>10.2f}", flush=True)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--e128", type=Path, help="samples.npz of a model with 128 experts top-8")
    parser.add_argument("--version", action="append", default=[], help="NAME=DUMP")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.e128:
        frontier(from_npz("e128", options.e128, 128), options.runs)
    tiny = FIXTURES / "tiny_rl"
    versions = {f"v{i}": tiny / f"routes_v{i}.fp32.npz" for i in (0, 1, 2)}
    for text in options.version:
        name, _, path = text.partition("=")
        versions[name] = Path(path)
    by_version(versions, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
