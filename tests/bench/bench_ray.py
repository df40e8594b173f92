"""What a Ray cluster costs beside processes of this machine, on the same processors.

    python tests/bench/bench_ray.py [--mb N] [--processors P] [--runs R]

Two native dumps of N MB of ids each are compared and one is converted, by --jobs P and by a Ray
cluster of P processors on this machine, in turn, in one process each time but for the cluster,
whose start is told apart. Medians of R runs; results must be equal.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import routectl
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.jobs.cluster.connection import connect_cluster
from routectl.jobs.shards.crew import Crew
from routectl.routes import Routes

L, K, E, T = 48, 8, 128, 4096


def write_side(path, megabytes, rate):
    """A native file of so many MB of ids, samples of T tokens; a share of the rows has an id of
    its own.
    """
    rng = np.random.default_rng(0)
    table = rng.random((1 << 16, E)).argpartition(K, axis=1)[:, : K + 1].astype(np.uint8)
    layers = tuple(range(L))

    def samples():
        for number in range(max(1, megabytes * 1_000_000 // (T * L * K))):
            rows_R = table[rng.integers(0, len(table), T * L)]
            ids_RK = rows_R[:, :K].copy()
            changed_R = rng.random(T * L) < rate
            ids_RK[changed_R, 0] = rows_R[changed_R, K]
            ids = rng.integers(0, 30_000, T + 1).astype(np.int32)
            yield Sample(
                Routes(ids_RK.reshape(T, L, K), layers, E),
                sample_id=f"s{number}",
                prompt_ids=ids[:1],
                response_ids=ids[1:],
                prompt_length=1,
                response_length=T,
            )

    write_native(samples(), DumpMeta("-", "native", layers, E, K), path, force=False)
    return str(path)


def measured(request):
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    found = routectl.run(request)
    return time.perf_counter() - begun, found


def main():
    """Print a line a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--processors", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    root = str(Path(__file__).parent.parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    begun = time.perf_counter()
    connect_cluster("local", asked.processors)
    print(f"a start of Ray: {time.perf_counter() - begun:.1f} s, {asked.processors} processors")
    crews = {"--jobs": Crew(jobs=asked.processors), "--ray": Crew(ray="local")}
    with tempfile.TemporaryDirectory() as folder:
        old = write_side(Path(folder) / "old.parquet", asked.mb, 0.0)
        new = write_side(Path(folder) / "new.parquet", asked.mb, 0.01)
        saved = Path(folder) / "saved.parquet"
        makes = {
            "diff": lambda crew: routectl.DiffRequest(old=old, new=new, crew=crew),
            "convert": lambda crew: routectl.ConvertRequest(
                src=old, save=saved, codec="set", force=True, crew=crew
            ),
        }
        print(f"{'':<10}{'--jobs':>10}{'--ray':>10}{'more':>8}   {asked.mb} MB of ids a dump")
        for name, made in makes.items():
            times: dict[str, list[float]] = {how: [] for how in crews}
            came = {}
            for _ in range(asked.runs + 1):  # the first of each loads what all need
                for how, crew in crews.items():
                    spent, found = measured(made(crew))
                    times[how].append(spent)
                    came[how] = saved.read_bytes() if name == "convert" else found
            if came["--jobs"] != came["--ray"]:
                sys.exit(f"{name}: the results differ")
            jobs, ray = (statistics.median(times[how][1:]) for how in crews)
            print(f"{name:<10}{jobs:>8.2f} s{ray:>8.2f} s{ray / jobs - 1:>8.0%}", flush=True)


if __name__ == "__main__":
    main()
