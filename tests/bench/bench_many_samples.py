"""Memory and time of a diff and a check of very many samples, from the command line to its end.

    python tests/bench/bench_many_samples.py [--samples 1000000] [--jobs 1] [--only diff,check]

Two native files of small samples: 4 to 6 tokens, 2 MoE layers, top-2 of 16, four samples of each
prompt, routes that follow their tokens. NEW is in another order within windows, lacks one sample
in 1,000, and has other experts in a row of one sample in 97; in both files one sample in 101 has a
row of one expert twice. What the commands print is held against what was made. Memory is the
highest of the whole tree of processes, summed from /proc every 50 ms (pages that processes share
count in each), and time is of the processor, of all of them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from routectl.dump import DumpMeta
from routectl.formats.native.row_groups import native_form

LAYERS, EXPERTS, TOP_K, PROMPT, VOCABULARY = (0, 1), 16, 2, 2, 64
GROUP, WINDOW = 4096, 1000
LACKING, MOVED, TWICE = 1000, 97, 101


def tokens_of(index_S, place):
    """The token ids at a place of some samples: those of the prompt are shared by four."""
    seed = np.where(place < PROMPT, 1000 * (index_S // 4), 1000 * index_S + 7) + place
    mixed = seed.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(40)) % np.uint64(VOCABULARY)).astype(np.int32)


def lists_of(flat_SN, sizes_S):
    """Rows of a padded array as Arrow lists of these sizes."""
    offsets = np.concatenate([[0], np.cumsum(sizes_S)]).astype(np.int32)
    there = np.arange(flat_SN.shape[1]) < sizes_S[:, None]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat_SN[there]))


def cells_of(ids_STK, rows_S):
    """Rows of a padded array of ids as Arrow binaries of so many rows."""
    there = np.arange(ids_STK.shape[1]) < rows_S[:, None]
    ends = np.concatenate([[0], np.cumsum(rows_S * TOP_K)]).astype(np.int32)
    data = np.ascontiguousarray(ids_STK[there])
    return pa.Array.from_buffers(
        pa.binary(), len(rows_S), [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(data)]
    )


def moved_of(index_S):
    """Which samples have a row of other experts in NEW."""
    return (index_S % MOVED == 5) & (index_S % TWICE != 50)


def table_of(index_S, schema, *, is_new):
    """A row group of the samples of these numbers."""
    response_S = 2 + index_S % 3
    rows_S = PROMPT + response_S - 1
    tokens_SN = np.stack([tokens_of(index_S, n) for n in range(PROMPT + 4)], axis=1)
    routes = np.random.default_rng(0).permuted(
        np.tile(np.arange(EXPERTS, dtype=np.uint8), (VOCABULARY, len(LAYERS), 1)), axis=2
    )[:, :, :TOP_K]
    ids_STLK = routes[tokens_SN[:, :-1]]
    ids_STLK[index_S % TWICE == 50, 1, 1] = 3
    if is_new:
        moved_S = moved_of(index_S)
        beside = ids_STLK[moved_S, 1, 0, :1] + np.arange(1, 1 + TOP_K)
        ids_STLK[moved_S, 1, 0] = beside % EXPERTS
    size = len(index_S)
    columns = {
        "sample_id": pa.array([f"{i // 4:012d}/{i % 4:06d}" for i in index_S.tolist()]),
        "group_id": pa.array([f"{i // 4:012d}" for i in index_S.tolist()]),
        "prompt_ids": lists_of(tokens_SN[:, :PROMPT], np.full(size, PROMPT)),
        "response_ids": lists_of(tokens_SN[:, PROMPT:], response_S),
        "prompt_length": pa.array(np.full(size, PROMPT, np.int32)),
        "response_length": pa.array(response_S.astype(np.int32)),
        "weight_spans": pa.array([[]] * size, schema.field("weight_spans").type),
        "start": pa.array(np.zeros(size, np.int32)),
        "start_inferred": pa.array(np.zeros(size, np.bool_)),
        "num_rows": pa.array(rows_S.astype(np.int32)),
        **{f"layer_{n:03d}": cells_of(ids_STLK[:, :, n], rows_S) for n in LAYERS},
    }
    arrays = [columns.get(f.name, pa.nulls(size, f.type)).cast(f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_dump(path, samples, *, is_new):
    """A native file of so many samples."""
    form = native_form(DumpMeta("made", "made", LAYERS, EXPERTS, TOP_K), None)
    with path.open("wb") as stream, form.writer(stream) as writer:
        for first in range(0, samples, WINDOW * GROUP):
            index_S = np.arange(first, min(first + WINDOW * GROUP, samples))
            if is_new:
                order = np.random.default_rng(first).random(len(index_S))
                index_S = index_S[np.lexsort((order, index_S // WINDOW))]
                index_S = index_S[index_S % LACKING != LACKING - 1]
            for begin in range(0, len(index_S), GROUP):
                part_S = index_S[begin : begin + GROUP]
                writer.write_table(table_of(part_S, form.schema, is_new=is_new), GROUP)


def tree_kb(root):
    """The resident memory of a process and all below it, in kB."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0] or 0)
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (OSError, ValueError, IndexError):
            continue
    return total


def measured(words):
    """What a command prints, with the seconds, the processor's, and the highest memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin, highest = time.perf_counter(), 0
    with tempfile.TemporaryFile() as output:
        line = [sys.executable, "-m", "routectl", *words, "--json", "--exit-zero"]
        process = subprocess.Popen(line, stdout=output)
        while process.poll() is None:
            highest = max(highest, tree_kb(process.pid))
            time.sleep(0.05)
        took = time.perf_counter() - begin
        output.seek(0)
        document = json.loads(output.read())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return document, took, cpu, highest / 1024


def expected(samples):
    """What a diff and a check must say of so many samples."""
    index_S = np.arange(samples)
    both_S = index_S % LACKING != LACKING - 1
    rows_S = (PROMPT + 1 + index_S % 3) * len(LAYERS)
    return {
        "diff": (
            int(both_S.sum()),
            int((~both_S).sum()),
            int(rows_S[both_S].sum()),
            int((moved_of(index_S) & both_S).sum()),
        ),
        "check": (samples, int(rows_S.sum()), int((index_S % TWICE == 50).sum())),
    }


def found_of(command, document):
    """What a command said, as ``expected`` has it."""
    if command == "diff":
        counts, rows = document["samples"], document["rows"]
        return counts["compared"], counts["only_old"], rows, document["rows_mismatched"]
    twice = [f for f in document["findings"] if f["code"] == "R102"]
    return document["dump"]["samples"], document["rows"], sum(f["samples"] for f in twice)


def main():
    """Read the arguments, make the dumps and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1])
    parser.add_argument("--only", default="diff,check")
    parser.add_argument("--folder", type=Path, help="where dumps are made, and kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        for samples in args.samples:
            folder = Path(made) if args.folder is None else args.folder
            paths = [folder / f"{name}.{samples}.parquet" for name in ("old", "new")]
            for path in paths:
                if not path.exists():
                    write_dump(path, samples, is_new=path.name.startswith("new"))
            size = sum(path.stat().st_size for path in paths)
            print(f"{samples:,} samples a side, {size / 1e6:,.0f} MB in two files", flush=True)
            for jobs in args.jobs:
                for command in args.only.split(","):
                    named = [str(path) for path in paths[: 2 if command == "diff" else 1]]
                    words = [command, *named, "--jobs", str(jobs)]
                    document, took, cpu, peak = measured(words)
                    right = found_of(command, document) == expected(samples)[command]
                    print(
                        f"  {command} --jobs {jobs}: {took:.0f} s, {cpu:.0f} s of the processor, "
                        f"{1e6 * cpu / samples:.0f} us a sample; highest {peak:,.0f} MB; counts "
                        f"{'as made' if right else f'WRONG: {found_of(command, document)}'}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
