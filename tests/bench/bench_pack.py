"""How fast replay tensors are packed, beside verl, a loop of torch slices and a plain copy.

    python tests/bench/bench_pack.py [--sequences N] [--runs R] [--native | --live]

64 sequences of up to 16k tokens, routes shaped like Qwen3-30B-A3B's (48 layers, top-8 of 128),
tp 2, cp 4, pp 2: every run makes the tensors of all 16 ranks. verl's function is that of the
installed 0.9.1 (``pip install --no-deps verl==0.9.1``); it is called once a CP rank, and what it
gives is then cut for SP and stages, as verl does. The torch loops read the routes that pack reads;
the last reads routes that were widened to the output's dtype beforehand, as verl's tensor is.
Every way is checked to give the same tensors. ``--live`` is what a step waits for: one rank's
tensors of a micro-batch of 8 x 4,096 tokens, beside np.take by the same map of rows.
Shape suffixes: T tokens, L layers, K top_k, R rows of a rank.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from routectl import Packing, Pipeline, Rank, Routes, TensorSpec, pack
from routectl.dump import Dump, DumpMeta, Sample, key_of
from routectl.formats.native.container import open_native, write_native
from routectl.trainers.micro_batches import RankPlace, pack_thd

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import foreign

L, K, E = 48, 8, 128
TP, CP, PP = 2, 4, 2
THREADS = 2
LONGEST = 16_384
SPEC = TensorSpec(dtype="int16", padding="zero")


def lengths(sequences: int) -> list[int]:
    """Lengths spread evenly over 1 token up to 16k, shuffled."""
    spread = np.linspace(1, LONGEST, sequences).astype(int)
    return np.random.default_rng(5).permutation(spread).tolist()


def routes_of(lens: list[int]) -> list[Routes]:
    """Random routes, N - 1 rows a sequence."""
    rng = np.random.default_rng(1)
    layers = tuple(range(L))
    return [Routes(rng.integers(0, E, (n - 1, L, K), np.uint8), layers, E) for n in lens]


RANKS = [Rank(c, t, p) for p in range(PP) for c in range(CP) for t in range(TP)]


def packing_of(lens: list[int]) -> Packing:
    """verl's layout, two even stages."""
    return Packing(lens, "verl", TP, CP, pipeline=Pipeline(L, PP))


def by_routectl(routes: list[Routes], packing: Packing, outs: list | None = None) -> list:
    """One call a rank."""
    return [
        pack(
            routes, packing, rank, spec=SPEC, out=outs[i] if outs else None, threads=THREADS
        ).ids_LRK
        for i, rank in enumerate(RANKS)
    ]


def by_verl(nested: torch.Tensor) -> list[torch.Tensor]:
    """preprocess_thd_engine of all layers on each CP rank, then SP, then each stage's layers."""
    util = foreign.verl_util()
    local = []
    for cp_rank in range(CP):
        with foreign.on_rank(TP, CP, cp_rank):
            local.append(util.preprocess_thd_engine(nested)[0][0])
    tensors = []
    for rank in RANKS:
        rows = len(local[rank.cp]) // TP
        part_RLK = local[rank.cp][rank.tp * rows : (rank.tp + 1) * rows]
        stage = slice(rank.pp * L // PP, (rank.pp + 1) * L // PP)
        tensors.append(part_RLK[:, stage].permute(1, 0, 2).contiguous())
    return tensors


def by_slices(
    samples: list[torch.Tensor], packing: Packing, *, layers_at_once: int = L // PP
) -> list[torch.Tensor]:
    """Each run of tokens put in its place by torch slices, so many layers at once."""
    tensors = []
    for rank in RANKS:
        out = torch.zeros(L // PP, packing.num_rows(rank.tp), K, dtype=torch.int16)
        for first in range(0, L // PP, layers_at_once):
            layers = slice(rank.pp * L // PP + first, rank.pp * L // PP + first + layers_at_once)
            for row, _, sample, at, size in packing.runs(rank.cp, rank.tp):
                part_TLK = samples[sample][at : at + size, layers]
                rows = slice(row, row + len(part_TLK))
                out[first : first + layers_at_once, rows] = part_TLK.transpose(0, 1)
        tensors.append(out)
    return tensors


def timed(call: Callable[[], object]) -> float:
    """Seconds; what the call gave is let go of."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bench(sequences: int, runs: int) -> None:
    """Print medians and ratios."""
    torch.set_num_threads(THREADS)
    lens = lengths(sequences)
    packing, routes = packing_of(lens), routes_of(lens)
    outs = by_routectl(routes, packing)
    size = sum(out.nbytes for out in outs)
    shape = f"{sequences} sequences, {sum(lens):,} tokens, {L} layers x {K}"
    print(f"{shape}; tp {TP} cp {CP} pp {PP}: {size / 1e6:.0f} MB of int16 tensors")
    print(f"{THREADS} threads, medians of {runs} interleaved runs")
    full = [torch.zeros(n, L, K, dtype=torch.int16) for n in lens]
    for tensor, held in zip(full, routes, strict=True):
        tensor[: held.num_tokens] = torch.from_numpy(held.ids_TLK)
    same = [torch.from_numpy(held.ids_TLK) for held in routes]
    nested = torch.nested.as_nested_tensor(full, layout=torch.jagged)
    sources = [out.copy() for out in outs]
    calls: dict[str, Callable[[], object]] = {
        "pack, new": lambda: by_routectl(routes, packing),
        "pack, out=": lambda: by_routectl(routes, packing, outs),
        "torch slices, layer by layer": lambda: by_slices(same, packing, layers_at_once=1),
        "torch slices, a stage at once": lambda: by_slices(same, packing),
        "... of routes widened before": lambda: by_slices(full, packing),
        "copy, new": lambda: [source.copy() for source in sources],
        "copy, to": lambda: [np.copyto(o, s) for o, s in zip(outs, sources, strict=True)],
    }
    if foreign.HAVE_VERL:
        calls["verl"] = lambda: by_verl(nested)
        for ours, theirs in zip(outs, by_verl(nested), strict=True):
            assert np.array_equal(ours, theirs.numpy())
    for samples in (same, full):
        for ours, theirs in zip(outs, by_slices(samples, packing), strict=True):
            assert np.array_equal(ours, theirs.numpy())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name, spent in middle.items():
        print(f"  {name:<30}{spent:8.3f} s  {size / spent / 1e9:6.2f} GB/s")
    ratios = {
        "verl / pack, new (target 5)": middle.get("verl", float("nan")) / middle["pack, new"],
        **{
            f"{name} / pack, new (target 5)": spent / middle["pack, new"]
            for name, spent in middle.items()
            if "slices" in name
        },
        "pack, new / copy, new (target 1.5)": middle["pack, new"] / middle["copy, new"],
        "pack, out= / copy, to (target 1.5)": middle["pack, out="] / middle["copy, to"],
    }
    for name, ratio in ratios.items():
        print(f"  {name:<60}{ratio:6.2f}")


def resident(field: str) -> int:
    """A figure of this process's memory, in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[field].split()[0]) * 1024


def measure_memory(sequences: int) -> None:
    """In a process of its own: how far packing all ranks raises the peak, over the output."""
    lens = lengths(sequences)
    packing, routes = packing_of(lens), routes_of(lens)
    pack(routes[:2], Packing(lens[:2], "verl"), spec=SPEC, threads=THREADS)  # compiled, warm
    Path("/proc/self/clear_refs").write_text("5")  # the highest is from now on
    before = resident("VmRSS")
    outs = by_routectl(routes, packing)
    size = sum(out.nbytes for out in outs)
    highest = resident("VmHWM") - before
    print(f"peak memory: output x {highest / size:.3f} (target 1.10)", flush=True)


def bench_native(sequences: int) -> None:
    """A native file: bytes read from it for one stage, and for all."""
    lens = lengths(sequences)
    meta = DumpMeta("-", "native", tuple(range(L)), E, K)
    samples = [
        Sample(held, f"s{i}", prompt_length=1, response_length=n - 1)
        for i, (held, n) in enumerate(zip(routes_of(lens), lens, strict=True))
    ]
    dump = Dump(meta, [key_of(s.sample_id, None, None) for s in samples], samples.__getitem__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.parquet"
        write_native(dump, meta, path, force=False)
        for layers in (meta.layers_L, meta.layers_L[: L // PP], meta.layers_L[:1]):
            read = read_bytes(lambda part=layers: list(open_native(path).select(layers=part)))
            share = read / path.stat().st_size
            print(f"native file: {len(layers)} of {L} layers read {share:.1%} of its bytes")


def read_bytes(call: Callable[[], object]) -> int:
    """Bytes that the process asked the system for during a call."""

    def so_far() -> int:
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])

    before = so_far()
    call()
    return so_far() - before


def bench_live(runs: int) -> None:
    """One rank of tp 2, cp 4: processor time of what a step waits for, and of np.take."""
    lens = [4096] * 8
    rank, first = Rank(1, 1), np.random.default_rng(1).integers(0, E, (8, 4095, L, 1))
    arrays = [*((first + 5 * np.arange(K)) % E).astype(np.uint8)]  # no expert twice in a row
    routes = [Routes(ids, tuple(range(L)), E) for ids in arrays]
    packings = {
        "thd": Packing(lens, "megatron", TP, CP),
        "bshd": Packing(lens, "megatron", TP, CP, form="bshd", seq_len=4096),
    }
    print(f"8 x 4,096 tokens, {L} layers x {K}, tp {TP} cp {CP}: medians of {runs} runs, ms of CPU")
    for form, packing in packings.items():
        place = RankPlace(TP, CP, 8, rank, L, tuple(range(L)), E, K)
        for dtype in ("uint8", "int64"):
            spec = TensorSpec(dtype=dtype, padding="spread", ep=8)
            source_LTK = np.concatenate(
                [np.pad(held.ids_TLK, ((0, 1), (0, 0), (0, 0))) for held in routes]
            ).transpose(1, 0, 2)
            source_LTK = np.ascontiguousarray(source_LTK, dtype)
            sample_R, position_R = packing.local_rows(1, 1).T
            rows_R = sample_R * 4096 + position_R
            calls = {
                "np.take": lambda s=source_LTK, r=rows_R: np.take(s, r, axis=1),
                "pack": lambda p=packing, s=spec: pack(routes, p, rank, spec=s),
            }
            if dtype == "uint8" and form == "thd":
                calls["from cu_seqlens"] = lambda p=place: pack_thd(routes, p, p.layers_L, lens)
                calls["of arrays"] = lambda p=place: pack_thd(arrays, p, p.layers_L, lens)
            real = pack(routes, packing, rank, spec=spec)
            taken = calls["np.take"]()
            assert np.array_equal(taken[:, real.mask], real.ids_LRK[:, real.mask])
            spent: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(runs):
                for name, call in calls.items():
                    before = time.thread_time()
                    call()
                    spent[name].append(1e3 * (time.thread_time() - before))
            middle = {name: statistics.median(times) for name, times in spent.items()}
            limit = 1.5 * middle["np.take"] + 2
            said = ", ".join(f"{name} {ms:.2f}" for name, ms in middle.items())
            print(f"  {form:<5}{dtype:<6} {said} (target of pack: 1.5 x np.take + 2 = {limit:.2f})")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--native", action="store_true", help="bytes read from a native file")
    parser.add_argument("--live", action="store_true", help="one rank's, as a step waits for it")
    options = parser.parse_args()
    if options.live:
        bench_live(options.runs)
    elif options.memory:
        measure_memory(options.sequences)
    elif options.native:
        bench_native(options.sequences)
    else:
        bench(options.sequences, options.runs)
        again = [sys.executable, __file__, "--memory", "--sequences", str(options.sequences)]
        subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
