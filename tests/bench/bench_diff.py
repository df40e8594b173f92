"""How fast two routes are compared: the kernel against what people write today, and end to end.

    python tests/bench/bench_diff.py [--tokens N] [--runs R] [--end-to-end | --permuted]

Routes are shaped like Qwen3-30B-A3B's: 48 layers, top-8 of 128, uint8. Baselines are measured in
the same run, interleaved with the kernel, and checked to give the same figures.
Shape suffixes: T tokens, L layers, K top_k, E experts, R rows (T x L).
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.kernels.rows import diff_rows
from routectl.margins import Margins, margins_to_float16
from routectl.ops.diff.flips import flips_of, tally_margins
from routectl.routes import Routes

L, K, E = 48, 8, 128
THREADS = 2
TABLE = 1 << 16  # different rows to draw from
Ids = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@functools.cache
def table() -> Ids:
    """Rows of K + 1 distinct ids; the last of them is not in the row that the others make."""
    noise = np.random.default_rng(0).random((TABLE, E))
    return np.argpartition(noise, K, axis=1)[:, : K + 1].astype(np.uint8)


def routes(rng: np.random.Generator, tokens: int, rate: float, permute: bool) -> tuple[Ids, Ids]:
    """Old and new ids [T, L, K]; a share ``rate`` of the rows has one id replaced."""
    pick_R = rng.integers(0, TABLE, tokens * L, dtype=np.uint16)
    old_RK = table()[:, :K][pick_R]
    new_RK = old_RK.copy()
    hit_N = np.flatnonzero(rng.random(tokens * L) < rate)
    new_RK[hit_N, rng.integers(0, K, len(hit_N))] = table()[pick_R[hit_N], K]
    if permute:
        moves = np.array([rng.permutation(K) for _ in range(64)])
        for i, move in enumerate(moves):
            new_RK[i::64] = new_RK[i::64][:, np.roll(np.arange(K), 3) if i == 0 else move]
    return old_RK.reshape(tokens, L, K), new_RK.reshape(tokens, L, K)


def chunks(tokens: int, step: int) -> Iterator[slice]:
    """Runs of tokens."""
    return (slice(lo, lo + step) for lo in range(0, tokens, step))


def kernel(old: Ids, new: Ids, threads: int = THREADS) -> tuple[float, float]:
    """Mismatch rate and overlap by routectl; the layers, loads and tokens come along."""
    counts = diff_rows(old, new, E, threads=threads)
    swaps_S = counts.swaps_LS.sum(axis=0)
    rows = int(swaps_S.sum())
    return float(swaps_S[1:].sum() / rows), float(swaps_S @ (K - np.arange(K + 1)) / (K * rows))


def with_margins(old: Ids, new: Ids, old_TL: Margins | None, new_TL: Margins | None) -> int:
    """What a diff of margined routes does: mark the mismatched rows, then count margins."""
    rows = diff_rows(old, new, E, threads=THREADS, mark=True)
    counts = tally_margins(None, old_TL, new_TL, rows, None)
    assert counts is not None
    return flips_of(counts, 1e-3).clear


def margins_like(tokens: int) -> Margins:
    """Margins [T, L] spread over decades, as softmax routers have them."""
    rng = np.random.default_rng(2)
    drawn = np.exp(rng.normal(-6, 2, (tokens, L))).astype(np.float32)
    return margins_to_float16(drawn)


def bench_margins(tokens: int, runs: int) -> None:
    """Print one line a case: without margins, with margins of one side, of both."""
    print(f"{'margins':<15}{'none s':>9}{'one side':>9}{'both':>9}{'one/none':>9}{'both/none':>10}")
    margin_TL = margins_like(tokens)
    for name, rate in (("1 %", 0.01), ("10 %", 0.1)):
        old, new = routes(np.random.default_rng(7), tokens, rate, False)
        sides: tuple[tuple[Margins | None, Margins | None], ...] = (
            (None, margin_TL),
            (margin_TL, margin_TL),
        )
        calls: list[Callable[[], object]] = [lambda a=old, b=new: kernel(a, b)]
        calls += [lambda a=old, b=new, m=m: with_margins(a, b, *m) for m in sides]
        for call in calls:
            call()
        seconds = [[timed(call)[0] for call in calls] for _ in range(runs)]
        none, one, both = (statistics.median(times) for times in zip(*seconds, strict=True))
        print(
            f"{name:<15}{none:>9.4f}{one:>9.4f}{both:>9.4f}{one / none:>9.2f}{both / none:>10.2f}",
            flush=True,
        )


def by_numpy(old: Ids, new: Ids, step: int) -> tuple[float, float]:
    """Sort both sides along K for the mismatch, compare all with all for the overlap."""
    mismatched, shared = 0, 0
    for part in chunks(len(old), step):
        a, b = old[part], new[part]
        mismatched += np.count_nonzero((np.sort(a, axis=-1) != np.sort(b, axis=-1)).any(-1))
        shared += np.count_nonzero((a[..., :, None] == b[..., None, :]).any(-1))
    return mismatched / (len(old) * L), shared / old.size


def by_torch(old: Ids, new: Ids, step: int) -> tuple[float, float]:
    """One-hot of the old ids by scatter, looked up at the new ids by gather."""
    mismatched, shared = 0, 0
    a, b = torch.from_numpy(old).view(-1, K), torch.from_numpy(new).view(-1, K)
    for part in chunks(len(a), step):
        taken_RE = torch.zeros(len(a[part]), E, dtype=torch.bool)
        taken_RE.scatter_(1, a[part].long(), True)
        found_RK = taken_RE.gather(1, b[part].long())
        mismatched += len(found_RK) - int(found_RK.all(-1).sum())
        shared += int(found_RK.sum())
    return mismatched / len(a), shared / a.numel()


def permuted(rng: np.random.Generator, size: int, experts: int, top_k: int) -> tuple[Ids, Ids]:
    """Ids [T, L, K] of ``size`` bytes, and the same in other slots, 1 % of rows with another id."""
    dtype = np.uint8 if experts <= 256 else np.uint16
    noise = rng.random((1 << 13, experts), np.float32)
    rows_RK = np.argpartition(noise, top_k, axis=1)[:, : top_k + 1].astype(dtype)
    pick_R = rng.integers(0, len(rows_RK), size // rows_RK[0, 1:].nbytes // L * L)
    old_RK = rows_RK[:, :top_k][pick_R]
    new_RK = rng.permuted(old_RK, axis=1)
    hit_N = np.flatnonzero(rng.random(len(pick_R)) < 0.01)
    new_RK[hit_N, 0] = rows_RK[pick_R[hit_N], top_k]
    return old_RK.reshape(-1, L, top_k), new_RK.reshape(-1, L, top_k)


def bench_permuted(size: int, runs: int) -> None:
    """Print one line a size of E and K: the kernel against one pass, all slots permuted."""
    print(f"all slots permuted, 1 % mismatched, {size / 1e6:.0f} MB a side")
    print(f"{'E':>5}{'K':>4}{'kernel s':>10}{'equal s':>9}{'k/equal':>9}{'1 thread':>9}")
    for experts in (64, 128, 256, 384, 512):
        for top_k in (4, 8, 16):
            old, new = permuted(np.random.default_rng(experts), size, experts, top_k)
            calls: tuple[Callable[[], object], ...] = (
                lambda a=old, b=new, e=experts: diff_rows(a, b, e, threads=THREADS),
                lambda a=old, b=new: np.array_equal(a, b),
                lambda a=old, b=new, e=experts: diff_rows(a, b, e),
            )
            found = [[timed(call)[0] for call in calls] for _ in range(2 * runs + 1)][1:]
            k, floor, single = (statistics.median(times) for times in zip(*found, strict=True))
            print(
                f"{experts:>5}{top_k:>4}{k:>10.4f}{floor:>9.4f}{k / floor:>9.2f}"
                f"{single / floor:>9.2f}",
                flush=True,
            )
    print("target: k/equal <= 3")


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds and the answer."""
    begin = time.perf_counter()
    answer = call()
    return time.perf_counter() - begin, answer


def fastest_step(call: Callable[[int], object], steps: tuple[int, ...]) -> int:
    """The chunk with which a baseline is fastest."""
    call(steps[0])
    return min(steps, key=lambda step: min(timed(lambda: call(step))[0] for _ in range(2)))


def first_calls() -> list[float]:
    """Seconds of the first call in a fresh process, without and with compiled code in the cache."""
    script = (
        "import time, numpy as np; from routectl.kernels.rows import diff_rows; "
        f"a = np.zeros((1, {L}, {K}), np.uint8); begin = time.perf_counter(); "
        f"diff_rows(a, a, {E}); print(time.perf_counter() - begin)"
    )
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "NUMBA_CACHE_DIR": cache}
        argv = [sys.executable, "-c", script]
        return [float(subprocess.check_output(argv, env=env)) for _ in range(2)]


def bench_kernel(tokens: int, runs: int) -> None:
    """Print one line a case."""
    torch.set_num_threads(THREADS)
    print(
        f"{tokens:,} tokens x {L} layers, top-{K} of {E}: {tokens * L * K / 1e6:.0f} MB of ids a "
        f"side, {THREADS} threads, medians of {runs} interleaved runs"
    )
    print(
        "first call of the kernel: {:.2f} s compiled, {:.2f} s from the cache".format(
            *first_calls()
        )
    )
    small_old, small_new = routes(np.random.default_rng(1), tokens // 10, 0.01, False)
    kernel(small_old, small_new)
    numpy_step = fastest_step(lambda s: by_numpy(small_old, small_new, s), (4, 16, 64, 256))
    torch_step = fastest_step(
        lambda s: by_torch(small_old, small_new, s), (1 << 12, 1 << 14, 1 << 16)
    )
    print(f"chunks: numpy {numpy_step} tokens, torch {torch_step} rows")
    print(
        f"{'case':<15}{'kernel s':>9}{'1 thread':>9}{'numpy s':>9}{'torch s':>9}{'equal s':>9}"
        f"{'numpy/k':>9}{'torch/k':>9}{'k/equal':>9}"
    )
    cases = (
        ("0 %", 0.0, False),
        ("1 %", 0.01, False),
        ("10 %", 0.1, False),
        ("1 %, permuted", 0.01, True),
    )
    for name, rate, permute in cases:
        old, new = routes(np.random.default_rng(7), tokens, rate, permute)
        calls: dict[str, Callable[[], object]] = {
            "kernel": lambda a=old, b=new: kernel(a, b),
            "single": lambda a=old, b=new: kernel(a, b, 1),
            "numpy": lambda a=old, b=new: by_numpy(a, b, numpy_step),
            "torch": lambda a=old, b=new: by_torch(a, b, torch_step),
        }
        floor = lambda a=old, b=new: np.array_equal(a, b)  # noqa: E731
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        answers: dict[str, object] = {}
        for _ in range(runs):
            for side, call in calls.items():
                spent, answers[side] = timed(call)
                seconds[side].append(spent)
        assert np.allclose(answers["kernel"], answers["numpy"], rtol=0, atol=1e-12)
        assert np.allclose(answers["kernel"], answers["torch"], rtol=0, atol=1e-12)
        # The floor against the kernel alone: between the baselines its temporary array goes cold.
        pairs = [(timed(calls["kernel"])[0], timed(floor)[0]) for _ in range(3 * runs)]
        k, single, a, b = (statistics.median(times) for times in seconds.values())
        warm, c = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"{name:<15}{k:>9.4f}{single:>9.4f}{a:>9.3f}{b:>9.3f}{c:>9.4f}"
            f"{a / k:>9.1f}{b / k:>9.1f}{warm / c:>9.2f}",
            flush=True,
        )
    bench_permuted(tokens * L * K // 2, runs)
    bench_margins(tokens, 3 * runs)
    print("targets at 1 %: numpy/k >= 15, torch/k >= 5, k/equal <= 3")


def write_side(path: Path, tokens: int, rate: float) -> None:
    """A native file of samples of 1,000 tokens; both sides have the same tokens."""
    meta = DumpMeta("-", "native", tuple(range(L)), E, K, engine="bench")

    def samples() -> Iterator[Sample]:
        for i in range(tokens // 1000):
            rng = np.random.default_rng(i)
            token_ids = rng.integers(0, 150_000, 1001, dtype=np.int32)
            old, new = routes(rng, 1000, rate, False)
            yield Sample(
                Routes(new if rate else old, meta.layers_L, E),
                f"sample-{i:05d}",
                prompt_ids=token_ids[:256],
                response_ids=token_ids[256:],
                prompt_length=256,
                response_length=745,
            )

    write_native(samples(), meta, path, force=False)


def child(argv: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak memory in MB and stdout of one process that this one starts."""
    script = (
        "import resource, subprocess, sys, time; begin = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print(time.perf_counter() - begin, peak); "
        "print(done.stdout); sys.exit(done.returncode > 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], stdout=subprocess.PIPE, text=True, check=True
    )
    first, _, rest = done.stdout.partition("\n")
    wall, kib = first.split()
    return float(wall), float(kib) * 1024 / 1e6, rest


def bench_end_to_end(tokens: int, runs: int) -> None:
    """Print wall time and peak memory of ``routectl diff`` of two files, at three sizes."""
    command = [sys.executable, "-m", "routectl", "diff", "--json"]
    print(
        f"{' '.join(command[1:])} OLD NEW, a fresh process each, medians of {runs} runs after one"
    )
    print(f"{'tokens':>10}{'ids MB':>9}{'file MB':>9}{'wall s':>9}{'peak MB':>9}{'s/M tok':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for size in (tokens // 4, tokens // 2, tokens):
            sides = [Path(folder) / f"{name}.{size}.parquet" for name in ("old", "new")]
            for path, rate in zip(sides, (0.0, 0.01), strict=True):
                write_side(path, size, rate)
            found = [child([*command, *map(str, sides)]) for _ in range(runs + 1)][1:]
            report = json.loads(found[0][2])
            assert report["samples"]["compared"] == size // 1000, report["samples"]
            assert abs(report["mismatch_rate"] - 0.01) < 1e-3, report["mismatch_rate"]
            wall = statistics.median(f[0] for f in found)
            peak = max(f[1] for f in found)
            file_mb = sum(path.stat().st_size for path in sides) / 2e6
            print(
                f"{size:>10,}{size * L * K / 1e6:>9.0f}{file_mb:>9.0f}{wall:>9.2f}{peak:>9.0f}"
                f"{wall / size * 1e6:>9.2f}",
                flush=True,
            )
    print("targets at 1,000,000 tokens: wall < 10 s, peak < 1000 MB")


def main() -> None:
    """Read the arguments and run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, help="200,000, or 1,000,000 end to end")
    parser.add_argument("--runs", type=int, help="5, or 3 end to end")
    parser.add_argument("--permuted", action="store_true", help="the kernel's sizes of E and K")
    parser.add_argument("--end-to-end", action="store_true", help="two native files, whole command")
    args = parser.parse_args()
    if args.end_to_end:
        bench_end_to_end(args.tokens or 1_000_000, args.runs or 3)
    elif args.permuted:
        bench_permuted((args.tokens or 200_000) * L * K // 2, args.runs or 5)
    else:
        bench_kernel(args.tokens or 200_000, args.runs or 5)


if __name__ == "__main__":
    main()
