"""What is claimed of a GPU, measured on one: called by gpu.sh, which says how.

Correctness comes first, and anything wrong is exit 1. Then a markdown table for
docs/benchmarks.md: a streamed run of a large random checkpoint beside transformers' own, whether
reads, copies and computation overlap, what record and replay cost a training step, and routers
replayed on their inputs.
"""

import argparse
import io
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT = 8 * 60 - 20  # seconds for all of it
CAP_GB = 6.0
NOT_MEASURED = "cpu: not a measurement of a GPU"


@dataclass
class Report:
    """Lines of the table, what is wrong, and how much time is left."""

    device: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def say(self, words: str) -> None:
        """Progress, on stderr."""
        print(f"[{time.monotonic() - self.begin:5.0f} s] {words}", file=sys.stderr, flush=True)

    def add(self, what: str, figure: str, beside: str = "") -> None:
        """A line of the table."""
        self.rows.append((what, figure, beside))
        self.say(f"{what}: {figure} {beside}".rstrip())

    def hold(self, claim: str, holds: bool, figure: str = "") -> None:
        """A claim of correctness."""
        self.add(claim, figure or ("yes" if holds else "NO"), "" if holds else "**WRONG**")
        if not holds:
            self.wrong.append(claim)

    @property
    def left(self) -> float:
        """Seconds."""
        return LIMIT - (time.monotonic() - self.begin)

    def table(self) -> str:
        """As markdown."""
        head = ["| what | figure | beside |", "|---|---|---|"]
        return "\n".join(head + [f"| {' | '.join(row)} |" for row in self.rows])


def run_tests(report: Report, threads: int) -> None:
    """The tests that ask for a device; on the CPU the same with the CPU in its place."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    if report.device == "cpu":
        command += ["tests/forward/test_gpu.py", "-m", "not gpu", "-k", "inputs or waits"]
    else:
        command += ["tests/forward", "tests/jobs/recompute", "-m", "gpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=report.left
    )
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()[-200:]]
    fine = done.returncode == 0 and "passed" in last[0]
    if not fine:
        print(done.stdout[-8000:], done.stderr[-2000:], file=sys.stderr)
    report.hold("tests of ids, margins, forced runs, record, replay", fine, last[0].strip("= "))


@dataclass(frozen=True)
class Way:
    """A way to run the checkpoint."""

    name: str
    words: str
    cap_gb: float | None = None


def run_way(report: Report, folder: Path, asked: argparse.Namespace, way: Way) -> dict:
    """What the process of a way says."""
    report.say(f"running {way.words}")
    save = folder.parent / f"{way.words.replace(' ', '-').replace(',', '')}.npy"
    command = ["--folder", str(folder)]
    command += ["--way", way.name, "--device", report.device, "--threads", str(asked.threads)]
    command += ["--sequences", str(asked.sequences), "--length", str(asked.length)]
    command += ["--save", str(save)]
    command += ["--cap-gb", str(way.cap_gb)] if way.cap_gb else []
    if report.device == "cpu":  # nothing is measured: no process of its own
        import gpu_recompute

        with redirect_stdout(io.StringIO()) as printed:
            gpu_recompute.main(command)
        return {**json.loads(printed.getvalue().splitlines()[-1]), "save": save}
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "0"}
    done = subprocess.run(
        [sys.executable, str(HERE / "gpu_recompute.py"), *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=max(report.left, 1),
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "save": save}


def recompute(report: Report, folder: Path, asked: argparse.Namespace) -> None:
    """A checkpoint of more than the cap: plain, streamed, and by transformers."""
    import numpy as np
    from gpu_recompute import LARGE, SMALL, disk_rate, forget, link_rate, write_checkpoint

    small = report.device == "cpu"
    begin = time.perf_counter()
    size, layers = write_checkpoint(
        folder, SMALL if small else LARGE, asked.gb * 1e9, report.device
    )
    report.add(
        "checkpoint, random Qwen3-MoE in bf16",
        f"{size / 1e9:.3g} GB, {layers} layers",
        f"written in {time.perf_counter() - begin:.0f} s",
    )
    disk = disk_rate(folder)
    link = link_rate(report.device, (8 << 20) if small else (1 << 30))
    forget(folder)
    cap = None if small else asked.cap_gb
    ways = {
        "cold": Way("stream", "streamed, cold files", cap),
        "stream": Way("stream", "streamed, warm files", cap),
        "plain": Way("plain", "plain, warm files"),
        "baseline": Way("transformers", "from_pretrained and forward, warm files"),
    }
    if small:
        del ways["stream"]  # nothing is measured: one streamed run is enough
    said = {name: run_way(report, folder, asked, way) for name, way in ways.items()}
    base = said["baseline"]
    count = asked.sequences * asked.length
    for name, way in ways.items():
        one = said[name]
        peak = "" if small else f", peak {one['peak_bytes'] / 1e9:.2f} GB of the device"
        report.add(
            f"recompute of {count} tokens, {way.words}",
            f"{one['seconds']:.2f} s{peak}",
            ""
            if name == "baseline"
            else f"{one['seconds'] / base['seconds']:.2f} x from_pretrained",
        )
    if not small:
        peak = max(said[name]["peak_bytes"] for name in ("cold", "stream"))
        report.hold(f"streamed within {asked.cap_gb:g} GB", peak <= asked.cap_gb * 1e9)
    ids = {name: np.load(one["save"]) for name, one in said.items()}
    for name in ways.keys() & {"cold", "stream"}:
        report.hold(f"{ways[name].words}: routes of plain", np.array_equal(ids[name], ids["plain"]))
    differ = float((ids["plain"] != ids["baseline"]).any(axis=2).mean())
    report.hold("plain: routes of from_pretrained", differ <= 0.02, f"{differ:.3%} of rows differ")
    overlap(report, size, disk, link, said)


def overlap(report: Report, size: int, disk: float, link: dict, said: dict) -> None:
    """Whether reads, copies and computation of the streamed run overlap."""
    report.add("reading those files, cold, one thread", f"{disk / 1e9:.2f} GB/s")
    for name, rate in link.items():
        report.add(f"copies to the device, {name} memory", f"{rate / 1e9:.2f} GB/s")
    compute = said["plain"].get("compute_s", 0.0)
    parts = {"copy": size / link["pageable"], "compute": compute}
    for name in [name for name in ("stream", "cold") if name in said]:
        if name == "cold":
            parts = {"read": size / disk, **parts}
        wall, total, longest = said[name]["seconds"], sum(parts.values()), max(parts.values())
        words = " + ".join(f"{part} {spent:.2f}" for part, spent in parts.items())
        report.add(
            f"streamed, {'cold' if name == 'cold' else 'warm'}: bytes a second",
            f"{size / wall / 1e9:.2f} GB/s in {wall:.2f} s",
            f"{words} = {total:.2f} s one after the other, {longest:.2f} s if all overlapped",
        )


def training(report: Report, asked: argparse.Namespace) -> None:
    """What record and replay cost a training step, with and without checkpoints."""
    import torch
    from bench_record import SIZES
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from routectl.forward.live import record, replay

    small = report.device == "cpu"
    sizes = {**SIZES, "hidden_size": 128, "num_hidden_layers": 2} if small else SIZES
    rows, length, runs = (2, 32, 2) if small else (8, 512, 9)
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes)).to(report.device).train()
    model.enable_input_require_grads()
    ids = torch.randint(0, 1024, (rows, length), device=report.device)

    def step() -> float:
        begin = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()
        if not small:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with record(model) as recorder:
        step()
    routes = recorder.routes()
    for words in ("", ", checkpointed"):
        if words:
            named = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            enable = next(name for name in named if hasattr(model, name))  # before 5.23
            getattr(model, enable)({"use_reentrant": False})
        blocks = {"plain": nullcontext, "record": lambda: record(model)}
        blocks["replay"] = lambda: replay(model, routes)
        times: dict[str, list[float]] = {name: [] for name in blocks}
        for _ in range(runs + 1):
            for name, block in blocks.items():
                with block():
                    times[name].append(step())
        middle = {name: statistics.median(spent[1:]) for name, spent in times.items()}
        for name in ("record", "replay"):
            report.add(
                f"{name} of a training step{words}, {rows} x {length} tokens",
                f"{middle[name] / middle['plain'] - 1:+.2%}",
                f"{middle[name]:.4f} s, without {middle['plain']:.4f} s",
            )


def router_inputs(report: Report) -> None:
    """Routers replayed on their inputs, beside the products alone."""
    import torch
    from bench_router_inputs import SHAPES, product
    from gpu_recompute import wait

    from routectl.ops.predict.replay_inputs import LayerRouter, replay_inputs
    from routectl.routers.from_config import recipe_from_config

    small = report.device == "cpu"
    tokens, runs = (256, 2) if small else (65_536, 7)
    for name, config, size in SHAPES:
        recipe = recipe_from_config(config, name)
        generator = torch.Generator(report.device).manual_seed(0)

        def random(*shape: int, of=generator) -> "torch.Tensor":
            return torch.randn(shape, generator=of, device=report.device)

        states = random(tokens, size).bfloat16()
        bias = random(recipe.columns) * 0.1
        router = LayerRouter(
            (random(recipe.columns, size) * size**-0.5 * 2).bfloat16(),
            bias.bfloat16() if recipe.linear_bias else None,
            bias if recipe.expert_bias else None,
        )

        def timed(function: Callable, *args: object) -> float:
            begin = time.perf_counter()
            function(*args)
            wait(report.device)
            return time.perf_counter() - begin

        pairs = [
            (
                timed(product, recipe, router, states),
                timed(replay_inputs, recipe, {0: router}, {0: states}),
            )
            for _ in range(runs + 1)
        ][1:]
        base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        report.add(
            f"router inputs, {name}, {tokens} tokens in bf16",
            f"{ours / base:.2f} x the product alone",
            f"{ours:.4f} s, {base:.4f} s",
        )


@contextmanager
def scratch(asked: argparse.Namespace) -> Iterator[Path]:
    """A folder that is gone at the end, of Ctrl-C and SIGTERM too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="routectl-gpu-", dir=asked.dir) as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.1 * asked.gb * 1e9:
            sys.exit(f"{folder}: {free / 1e9:.1f} GB free, {1.1 * asked.gb:.1f} needed: use --dir")
        yield Path(folder)


def arguments() -> argparse.Namespace:
    """Those of the command line; small ones with --cpu."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="all of it small, on the CPU")
    parser.add_argument("--dir", help="for the checkpoint; default $TMPDIR, or /tmp")
    parser.add_argument("--gb", type=float, default=11.0, help="of the checkpoint")
    parser.add_argument("--cap-gb", type=float, default=CAP_GB, help="of a streamed run's device")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    asked = parser.parse_args()
    if asked.cpu:
        asked.gb, asked.threads, asked.sequences, asked.length = 0.001, 1, 4, 24
    return asked


def main() -> int:
    """Run all of it and print the table; 1 where something is wrong."""
    asked = arguments()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(asked.threads)  # before torch and numba are loaded
    import torch

    if not asked.cpu and not torch.cuda.is_available():
        print("no CUDA device: --cpu runs all of it small on the CPU", file=sys.stderr)
        return 2
    torch.set_num_threads(asked.threads)
    report = Report("cpu" if asked.cpu else "cuda")
    where = platform.processor() or "cpu" if asked.cpu else torch.cuda.get_device_name()
    with scratch(asked) as folder:
        for step in (
            lambda: run_tests(report, asked.threads),
            lambda: recompute(report, folder / "checkpoint", asked),
            lambda: training(report, asked),
            lambda: router_inputs(report),
        ):
            try:
                step()
            except subprocess.TimeoutExpired:
                report.hold("all of it within 8 minutes", holds=False)
            except (subprocess.CalledProcessError, RuntimeError) as error:
                report.hold(f"no error: {str(error).splitlines()[0]}", holds=False)
    print(f"\n{where}, {asked.threads} threads, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    if asked.cpu:
        print(f"\n**{NOT_MEASURED}**")
    print(f"\n{report.table()}\n")
    for claim in report.wrong:
        print(f"WRONG: {claim}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
