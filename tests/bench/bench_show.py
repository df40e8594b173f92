"""How long ``routectl show CHECKPOINT`` takes on headers of DeepSeek-V3's size.

python tests/bench/bench_show.py [--runs R]

163 shards, 91,985 tensors, 685 GB by their headers; the files are sparse and take 15 MB. Baselines:
``routectl show --help``, which is what any command costs, and reading the same headers and index
with json alone.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

D, E, EXPERT, DENSE, VOCABULARY = 7168, 256, 2048, 18432, 129280
LAYERS, FIRST_MOE, SHARDS = 62, 3, 163  # the last layer is MTP
ATTENTION = {
    "q_a_proj": (1536, D),
    "q_b_proj": (24576, 1536),
    "kv_a_proj_with_mqa": (576, D),
    "kv_b_proj": (32768, 512),
    "o_proj": (D, 16384),
}
NORMS = {
    "input_layernorm": D,
    "post_attention_layernorm": D,
    "self_attn.q_a_layernorm": 1536,
    "self_attn.kv_a_layernorm": 512,
}
CONFIG = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": LAYERS - 1,
    "n_routed_experts": E,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": FIRST_MOE,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
}
ITEM = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
READ = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
json.loads((folder / "model.safetensors.index.json").read_bytes())
for path in folder.glob("*.safetensors"):
    with path.open("rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")))
"""


def tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names with dtypes and shapes, as DeepSeek-V3's checkpoint has them."""
    found = {
        f"{name}.weight": ("BF16", (VOCABULARY, D)) for name in ("model.embed_tokens", "lm_head")
    }
    for layer in range(LAYERS):
        at, matrices = f"model.layers.{layer}.", {}
        found |= {f"{at}{name}.weight": ("BF16", (width,)) for name, width in NORMS.items()}
        matrices |= {f"self_attn.{name}": shape for name, shape in ATTENTION.items()}
        width, blocks = DENSE, ["mlp."]
        if layer >= FIRST_MOE:
            width = EXPERT
            blocks = ["mlp.shared_experts.", *(f"mlp.experts.{n}." for n in range(E))]
            found[f"{at}mlp.gate.weight"] = ("BF16", (E, D))
            found[f"{at}mlp.gate.e_score_correction_bias"] = ("F32", (E,))
        for block in blocks:
            shapes = {"gate_proj": (width, D), "up_proj": (width, D), "down_proj": (D, width)}
            matrices |= {f"{block}{name}": shape for name, shape in shapes.items()}
        for name, (rows, columns) in matrices.items():
            scales = (math.ceil(rows / 128), math.ceil(columns / 128))
            found[f"{at}{name}.weight"] = ("F8_E4M3", (rows, columns))
            found[f"{at}{name}.weight_scale_inv"] = ("F32", scales)
    return found


def build(folder: Path) -> int:
    """Write the folder; returns its tensors."""
    known = tensors()
    names, places = list(known), {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:06d}.safetensors"
        header, at = {}, 0
        for name in names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]:
            dtype, shape = known[name]
            end = at + ITEM[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            places[name], at = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return len(names)


def seconds(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU time of one process."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians of interleaved runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        count = build(Path(folder))
        sides = {
            "routectl show": [python, "-m", "routectl", "show", folder],
            "routectl show --help": [python, "-m", "routectl", "show", "--help"],
            "json alone": [python, "-c", READ, folder],
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for run in range(runs + 1):
            for name, argv in sides.items():
                spent = seconds(argv)
                if run:  # the first fills the caches
                    times[name].append(spent)
    print(f"{count:,} tensors in {SHARDS} shards; {runs} interleaved runs: median (best)")
    for name, spent in times.items():
        words = [
            f"{statistics.median(one):.3f} s ({min(one):.3f})" for one in zip(*spent, strict=True)
        ]
        print(f"{name:<22}wall {words[0]}  CPU {words[1]}")


if __name__ == "__main__":
    main()
