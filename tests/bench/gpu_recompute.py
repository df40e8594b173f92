"""A large random checkpoint, and ways to run it on a device; what reads and copies can do there.

    python tests/bench/gpu_recompute.py --folder DIR --way plain|stream|transformers ...

is one way in a process of its own, which prints a JSON line. Used by gpu.py.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch

VOCAB = 1024
LARGE = {  # of Qwen3-30B-A3B, a layer of 1.25 GB in bf16
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
}


def shapes_of(sizes: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer, as checkpoints of Qwen3-MoE have them."""
    hidden, inner, head = sizes["hidden_size"], sizes["moe_intermediate_size"], sizes["head_dim"]
    queries, keys = (head * sizes[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate.weight": (sizes["num_experts"], hidden),
    }
    for expert in range(sizes["num_experts"]):
        name = f"mlp.experts.{expert}"
        shapes |= {f"{name}.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{name}.down_proj.weight"] = (hidden, inner)
    return shapes


def write_checkpoint(folder: Path, sizes: dict, total: float, device: str) -> tuple[int, int]:
    """Write layers of random bf16 weights until there are ``total`` bytes, a file each; returns
    the bytes of all files and the number of layers."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        made = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        return (made * shape[-1] ** -0.5).cpu()

    where: dict[str, str] = {}
    written = layer = 0
    while written < total:
        prefix, name = f"model.layers.{layer}.", f"layer-{layer:03}.safetensors"
        tensors = {prefix + key: random(shape) for key, shape in shapes_of(sizes).items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
        written, layer = written + (folder / name).stat().st_size, layer + 1
    hidden = sizes["hidden_size"]
    ends = {
        "model.embed_tokens.weight": random((VOCAB, hidden)),
        "model.norm.weight": random((hidden,)),
        "lm_head.weight": random((VOCAB, hidden)),
    }
    save_file(ends, folder / "ends.safetensors", metadata={"format": "pt"})
    where |= dict.fromkeys(ends, "ends.safetensors")
    index = {"metadata": {"total_size": written}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    config = {
        **sizes,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": VOCAB,
        "num_hidden_layers": layer,
        "norm_topk_prob": True,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return sum(path.stat().st_size for path in folder.iterdir()), layer


def forget(folder: Path) -> None:
    """Written files go to the disk and out of the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequences(count: int, length: int) -> list[np.ndarray]:
    """Random token ids."""
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB, length, dtype=np.int32) for _ in range(count)]


def by_routectl(asked: argparse.Namespace, tokens: list[np.ndarray]) -> tuple[list, dict]:
    """Sets of experts of each sequence, and what is known of the run."""
    from routectl.dump import Sample
    from routectl.forward import RunOptions, prepare, run_forward

    begin = time.perf_counter()
    options = RunOptions(
        checkpoint=asked.folder, device=asked.device, streaming=asked.way, dtype="bfloat16"
    )
    prepared = prepare(options)
    samples = [
        Sample(None, prompt_ids=ids[:4], response_ids=ids[4:], prompt_length=4) for ids in tokens
    ]
    times, found = [], []
    for result in run_forward(prepared, samples):
        found.append(result.ids_TLK)
        times.append(time.perf_counter() - begin)
    facts = {"largest_layer": max(map(prepared.store.layer_bytes, range(len(prepared.layers))))}
    if asked.way == "plain" and len(times) > 2:  # the first sequence warms up
        facts["compute_s"] = (times[-1] - times[0]) * len(times) / (len(times) - 1)
    return found, facts


def by_transformers(asked: argparse.Namespace, tokens: list[np.ndarray]) -> tuple[list, dict]:
    """The same by from_pretrained and hooks on the routers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.bfloat16)
    model = model.eval().to(asked.device)
    taken: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _m, _a, out: taken.append(out[2]))
    found = []
    with torch.no_grad():
        for ids in tokens:
            taken.clear()
            row = torch.from_numpy(ids.astype(np.int64))[None].to(asked.device)
            model(input_ids=row, use_cache=False)
            found.append(torch.stack(taken, 1).cpu().numpy().astype(np.uint8))
    return found, {}


def link_rate(device: str, size: int) -> dict[str, float]:
    """Bytes a second of copies to the device, from pinned and from pageable memory."""
    found = {}
    for name in ("pinned", "pageable"):
        if device == "cpu" and name == "pinned":
            continue
        source = torch.empty(size, dtype=torch.uint8, pin_memory=name == "pinned").fill_(1)
        target = torch.empty(size, dtype=torch.uint8, device=device)
        best = 0.0
        for _ in range(4):
            wait(device)
            begin = time.perf_counter()
            target.copy_(source, non_blocking=True)
            wait(device)
            best = max(best, size / (time.perf_counter() - begin))
        found[name] = best
    return found


def disk_rate(folder: Path) -> float:
    """Bytes a second of reading two of its files, which are not in the page cache, one thread."""
    buffer = memoryview(bytearray(8 << 20))
    forget(folder)
    count, begin = 0, time.perf_counter()
    for path in sorted(folder.glob("layer-*.safetensors"))[:2]:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(buffer):
                count += read
    return count / (time.perf_counter() - begin)


def wait(device: str) -> None:
    """Until the device has done all that it was asked."""
    if device != "cpu":
        torch.cuda.synchronize()


def main(words: list[str] | None = None) -> None:
    """One way; ``words`` in place of the command line's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--way", choices=("plain", "stream", "transformers"), required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--cap-gb", type=float, help="of the device's memory")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--save", type=Path, required=True, help="the sets of experts, .npy")
    asked = parser.parse_args(words)
    import transformers
    from transformers.models.qwen3_moe import modeling_qwen3_moe  # noqa: F401

    from routectl.forward import run  # noqa: F401

    torch.set_num_threads(asked.threads)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    cuda = asked.device != "cpu"
    if cuda:
        ones = torch.ones(64, 64, device=asked.device)
        (ones @ ones).sum().item()  # the context and the library of products
        if asked.cap_gb:
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(asked.cap_gb * 1e9 / whole)
    tokens = sequences(asked.sequences, asked.length)
    begin = time.perf_counter()
    ran = by_transformers if asked.way == "transformers" else by_routectl
    found, facts = ran(asked, tokens)
    wait(asked.device)
    facts["seconds"] = time.perf_counter() - begin
    facts["peak_bytes"] = torch.cuda.max_memory_reserved() if cuda else 0
    np.save(asked.save, np.sort(np.concatenate(found), axis=2).astype(np.uint8))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
