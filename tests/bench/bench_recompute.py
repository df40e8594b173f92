"""Time and memory of a streamed run, beside transformers' own ways, on a random Qwen3-MoE.

    python tests/bench/bench_recompute.py [--layers N] [--runs R] [--threads N] [--ways a,b]
        [--lengths 32,32] [--dtype float32]

The model has layers of 200 MB in bf16 and is written once to --folder; files are warm. Each way is
a process of its own, started with the folder and the same eight sequences, and times what it does
after its imports: load and forward. Ways:

  plain    from_pretrained, then model(tokens).logits a sequence, routes kept by hooks
  lean     the same without logits: the body alone, as routectl's plain run does
  disk     from_pretrained with device_map to disk (accelerate), body alone
  routectl prepare and run_forward, streamed
  resident prepare and run_forward, plain

Memory is the peak of RssAnon, polled every 5 ms, less what was there before the load: pages of the
checkpoint's files can be dropped by the system at any time and are not counted. On the CPU some
250 MB of it, in every way, are oneDNN's cache of compiled products, one for each number of rows
that an expert gets; --dtype float32 does without. What the forward of lean takes above its loaded
weights shows both: activations and that cache. The routes of all ways are checked to be
the same.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

LENGTHS = (512, 384, 320, 256, 256, 192, 160, 128)
WAYS = ("plain", "lean", "disk", "routectl", "resident")
VOCAB = 32_768


def build(folder: Path, layers: int) -> None:
    """Write the checkpoint: 64 experts of 1024 x 512, in shards of 1 GB."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=1024,
        intermediate_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=64,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="1GB")


def tokens(lengths: Sequence[int]) -> list:
    """The sequences, as samples."""
    import numpy as np

    from routectl.dump import Sample

    rng = np.random.default_rng(0)
    ids = [rng.integers(3, VOCAB, length, dtype=np.int32) for length in lengths]
    return [Sample(None, prompt_ids=i[:4], response_ids=i[4:], prompt_length=4) for i in ids]


def by_transformers(folder: Path, samples: list, way: str, dtype: str) -> list:
    """Routes [T, L, K] of each sample, by hooks on the routers."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    settings = {}
    if way == "disk":
        held = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
        layers = json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"]
        away = {f"model.layers.{n}": "disk" for n in range(layers)}
        settings = {
            "device_map": {**held, **away, "lm_head": "cpu"},
            "offload_folder": str(Path(tempfile.mkdtemp()) / "offload"),
        }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **settings).eval()
    print(json.dumps({"loaded": resident()}))
    taken: list = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _m, _a, out: taken.append(out[2].numpy()))
    found = []
    with torch.no_grad():
        for sample in samples:
            taken.clear()
            ids = torch.from_numpy(sample.token_ids.astype(np.int64))[None]
            if way == "plain":
                model(input_ids=ids, use_cache=False)
            else:
                model.model(input_ids=ids, use_cache=False)
            found.append(np.stack(taken, 1).astype(np.uint8))
    print(json.dumps({"ran": resident()}))  # the allocator keeps what the forward took
    if way == "disk":
        written = Path(settings["offload_folder"]).rglob("*")
        print(json.dumps({"written": sum(p.stat().st_size for p in written)}))
    return found


def by_routectl(folder: Path, samples: list, way: str, dtype: str) -> list:
    """The same by routectl."""
    from routectl.forward import RunOptions, prepare, run_forward

    streaming = "stream" if way == "routectl" else "plain"
    prepared = prepare(RunOptions(checkpoint=folder, streaming=streaming, dtype=dtype))
    found = [result.ids_TLK for result in run_forward(prepared, samples)]
    largest = max(prepared.store.layer_bytes(n) for n in range(prepared.store.skeleton.num_layers))
    print(json.dumps({"largest_layer": largest, "model": prepared.store.total_bytes()}))
    return found


def resident() -> int:
    """Anonymous memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0]) * 1024


def child(asked: argparse.Namespace) -> None:
    """One way, timed and watched; prints JSON lines."""
    import numpy as np
    import torch
    import transformers
    from transformers import AutoModelForCausalLM  # noqa: F401

    torch.set_num_threads(asked.threads)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    samples, peak, done = tokens(lengths_of(asked)), [0], threading.Event()
    before = resident()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, busy = time.perf_counter(), time.process_time()
    run = by_routectl if asked.child in ("routectl", "resident") else by_transformers
    found = run(asked.folder, samples, asked.child, asked.dtype)
    spent = time.perf_counter() - begin, time.process_time() - busy
    done.set()
    watcher.join()
    joined = np.concatenate([np.sort(ids, 2).ravel() for ids in found])
    digest = hashlib.sha256(joined.tobytes()).hexdigest()
    keys = ("seconds", "cpu_seconds", "peak", "before", "digest")
    print(json.dumps(dict(zip(keys, (*spent, peak[0], before, digest), strict=True))))


def lengths_of(asked: argparse.Namespace) -> list[int]:
    """The lengths of the sequences."""
    return [int(length) for length in asked.lengths.split(",")]


def measure(way: str, folder: Path, asked: argparse.Namespace) -> dict:
    """What a process of this way says."""
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder)]
    for name in ("threads", "lengths", "dtype"):
        command += [f"--{name}", str(getattr(asked, name))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(asked.threads),
        "TOKENIZERS_PARALLELISM": "0",
    }
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    said: dict = {}
    for line in done.stdout.splitlines():
        said.update(json.loads(line))
    return said


def bench(folder: Path, asked: argparse.Namespace) -> None:
    """Print a line a way, and the ratios."""
    ways, runs, lengths = asked.ways.split(","), asked.runs, lengths_of(asked)
    for path in folder.glob("*.safetensors"):  # warm
        path.read_bytes()
    all_runs: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            all_runs[way].append(measure(way, folder, asked))
    digests = {run["digest"] for said in all_runs.values() for run in said}
    print(f"{sum(lengths)} tokens, {len(lengths)} sequences, {asked.dtype}, ", end="")
    print(f"{asked.threads} threads, medians of {runs}")
    print(f"{'way':<10}{'seconds':>9}{'cpu s':>9}{'peak MB':>9}{'above start':>13}")
    middle: dict[str, dict] = {}
    for way, said in all_runs.items():
        names = ["seconds", "cpu_seconds", "peak", "before"]
        names += [name for name in ("loaded", "ran") if name in said[0]]
        at = {name: statistics.median(run[name] for run in said) for name in names}
        middle[way] = {**said[0], **at}
        above = (at["peak"] - at["before"]) / 1e6
        print(
            f"{way:<10}{at['seconds']:9.2f}{at['cpu_seconds']:9.2f}"
            f"{at['peak'] / 1e6:9.0f}{above:13.0f}"
        )
    ours = middle.get("routectl")
    if ours is None:
        return
    print(f"model {ours['model'] / 1e9:.2f} GB, largest layer {ours['largest_layer'] / 1e6:.0f} MB")
    more = (ours["peak"] - ours["before"] - ours["largest_layer"]) / 1e6
    print(f"  peak above start, less one layer: {more:.0f} MB (target 300 and activations)")
    if "lean" in middle:
        forward = (middle["lean"]["ran"] - middle["lean"]["loaded"]) / 1e6
        print(f"  lean's forward, above its loaded weights: {forward:.0f} MB")
    for way in set(ways) - {"routectl"}:
        memory, seconds = (
            ours["peak"] / middle[way]["peak"],
            ours["seconds"] / middle[way]["seconds"],
        )
        print(f"  routectl / {way}: peak {memory:.2f}, time {seconds:.2f}")
    if "disk" in middle:
        print(f"  disk wrote {middle['disk']['written'] / 1e9:.2f} GB; routectl nothing")
    print(f"  routes the same in all ways: {len(digests) == 1}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", default="plain,lean,disk,routectl,resident")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="of sequences")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be written")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "checkpoint"
        if not (folder / "config.json").exists():
            build(folder, options.layers)
        bench(folder, options)


if __name__ == "__main__":
    main()
