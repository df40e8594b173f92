"""Sound cases to begin with: recordings cut to a few samples, and what routectl writes of them."""

import contextlib
import gzip
import io
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from routectl.cli.main import main
from routectl.codecs import CODECS, codec_named
from routectl.codecs.block import Block
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.formats.native.encoder import Coding
from routectl.formats.native.learning import learn_tokens
from routectl.formats.targets.table import target_named
from support.blocks import dictionary_of
from support.building import CONFIG, npy_bytes, some_ids
from support.recordings import DEEPSEEK, FIXTURES, SGLANG, VLLM, read_lines, request_of
from support.tiny_rl import TINY

__all__ = [
    "arrays",
    "bundle",
    "ci",
    "codec_cells",
    "configs",
    "dumps",
    "hf_folder",
    "layouts",
    "lines",
    "megatron_folder",
    "native",
    "pairs",
    "plans",
    "predictor",
    "prompts",
    "recordings",
    "replay_folder",
    "reports",
    "responses",
    "router_inputs",
    "router_trace",
    "streams",
    "zipped",
]

CONFIG_JSON = json.dumps(CONFIG).encode()


def _routectl(*words):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])
    assert code in (0, 1), said.getvalue()


def below(folder):
    """The files of a folder, by their paths in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@cache
def _made(make):
    """What a function wrote into an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        return below(Path(name))


def _few(folder):
    """Two samples of a model with one dense layer, as recorded; its config beside them."""
    rows = read_lines(DEEPSEEK / "samples.jsonl")[:2]
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "config.json").write_bytes((FIXTURES / "configs" / "deepseek_v3.json").read_bytes())


def responses():
    """Responses of both engines with their requests."""
    names = {
        SGLANG: ("generate_ids", "generate_start_mid", "chat_meta_info_n2", "completion_batch"),
        VLLM: ("completion_ids", "completion_echo", "chat_n2", "completion_start_mid"),
    }
    return [
        {
            f"x.{part}.json": (folder / f"{name}.{part}.json").read_bytes()
            for part in ("response", "request")
        }
        for folder, group in names.items()
        for name in group
    ]


def streams():
    """Streams of both engines with their requests."""
    places = ((SGLANG, "generate_stream"), (SGLANG, "chat_stream"), (VLLM, "completion_stream"))
    return [
        {
            "x.response.sse": (folder / f"{name}.response.sse").read_bytes(),
            "x.request.json": (folder / f"{name}.request.json").read_bytes(),
        }
        for folder, name in places
    ]


def lines():
    """JSON lines: recorded, and of both engines' forms as they are written."""
    return [_made(_few), *dumps("jsonl", "jsonl-sglang", "nemo-rl")]


def zipped():
    """The same, gzipped."""
    return [
        {"x.jsonl.gz" if n == "x.jsonl" else n: gzip.compress(b, mtime=0) if n == "x.jsonl" else b
         for n, b in case.items()}
        for case in lines()[:2]
    ]  # fmt: skip


def arrays(ending):
    """A .npy by hand; the written .npz or .safetensors."""
    if ending == "npy":
        ids = some_ids(5).astype(np.uint8)
        return [{"x.npy": npy_bytes(ids), "config.json": CONFIG_JSON}]
    return dumps(ending)


@cache
def _target(name):
    """What convert writes for a target; a bundle as a folder."""
    target = target_named(name)

    def make(folder):
        _few(folder)
        file, words = folder / f"x{target.suffix}", ("--missing", "arange", "--lossy")
        _routectl("convert", folder / "x.jsonl", "--save", file, "--to", name, *words, "--force")
        if target.suffix != ".jsonl":
            (folder / "x.jsonl").unlink()

    return _made(make)


def dumps(*names):
    """Cases of some targets."""
    return [_target(name) for name in names]


def straw():
    """An archive of rollouts: its index, its pack, the model's config."""
    folder = FIXTURES / "trainer_files/straw_queue-0.1.6"
    (pack,) = folder.rglob("*.pack")
    case = {str(pack.relative_to(folder)): pack.read_bytes()}
    case["x.straw.json"] = (folder / "rollout_0.straw.json").read_bytes()
    case["config.json"] = (FIXTURES / "configs/deepseek_v3.json").read_bytes()
    return [case]


def recordings():
    """Dumps of SGLang's recorder, of each mode, beside a map a step and the model's config."""
    folder = FIXTURES / "expert_distribution"
    beside = {"map.json": folder / "maps.json", "config.json": TINY / "config.json"}
    sides = {name: path.read_bytes() for name, path in beside.items()}
    modes = ("per_token.rebalanced", "per_pass", "stat")
    return [{"x.pt": (folder / f"{mode}.pt").read_bytes(), **sides} for mode in modes]


def weighed():
    """ART's bundle of version 1, with weights."""
    folder = FIXTURES / "trainer_files/openpipe_art-0.5.18"
    return [{f"x/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}]


def _native(folder):
    _few(folder)
    dump = open_dump(folder / "x.jsonl")
    write_native(dump, dump.meta, folder / "base.parquet", force=False)
    learnt = learn_tokens(dump, own=True)
    coding = Coding("token", dictionary=learnt, stores=True)
    write_native(dump, dump.meta, folder / "token.parquet", force=False, coding=coding)
    for codec in [name for name in CODECS if name != "token"]:
        more = ("--base", folder / "base.parquet") if codec == "delta" else ()
        _routectl(
            "convert",
            folder / "x.jsonl",
            "--save",
            folder / f"{codec}.parquet",
            "--codec",
            codec,
            *more,
        )
    margins = open_dump(TINY / "routes_v0.margins.parquet").select(samples=range(2))
    write_native(margins, margins.meta, folder / "margins.parquet", force=False)


def native():
    """A native file of each codec, one against a base, one with margins."""
    files = _made(_native)
    cases = [{"x.parquet": files[f"{name}.parquet"]} for name in (*CODECS, "margins")]
    cases[CODECS.index("delta")]["base.parquet"] = files["base.parquet"]
    return cases


def pairs():
    """Two dumps of the same samples: as recorded, with margins, and what a trainer saved."""
    files, dense = _made(_native), _made(_few)
    margins, plain = files["margins.parquet"], files["plain.parquet"]
    saved = _target("verl")
    return [
        {"x.parquet": plain, "y.jsonl": dense["x.jsonl"], "config.json": dense["config.json"]},
        {"x.parquet": margins, "y.parquet": margins},
        {"x.parquet": plain, "y.pt": saved["x.pt"], "config.json": saved["config.json"]},
    ]


def prompts():
    """Every way of giving a prompt, and what may be told of one."""
    told = (
        {"input_ids": request_of(SGLANG, "generate_ids")["input_ids"], "id": "a", "group": "g"},
        {"prompt": "Why?", "uid": "b", "sampling": {"temperature": 0.5, "stop": ["\n"]}},
        {"messages": [{"role": "user", "content": "Why?"}], "sampling": {"seed": 1}},
    )
    return [{"x.jsonl": json.dumps(one).encode() + b"\n"} for one in told]


def _replay(folder):
    _few(folder)
    dump = open_dump(folder / "x.jsonl")
    write_native(dump, dump.meta, folder / "x.parquet", force=False)
    _routectl("pack", folder / "x.parquet", "--save", folder / "r", "--cp", "2", "--tp", "2")
    (folder / "plan.json").write_text('{"micro_batches": [[[0], [1]], [[], []]]}', "utf-8")
    shards = [{"data_parallel_rank": 0, "partition": [1, 0], "micro_batch_indices": [[0], [1]]}]
    (folder / "shards.json").write_text(json.dumps({"dp_shards": shards}), "utf-8")
    lists = {"_microbatches": [[[1, 0]], [[]]], "global_idx": [0, 1]}
    (folder / "lists.json").write_text(json.dumps(lists), "utf-8")
    held = [{"micro_batch_indices": [[[0, 1], [1, 2]]], "elem_counts_per_gb": [2]}]
    sorted_in = {"batch_sorted_indices": [1, 0], "shards": held}
    (folder / "sorted.json").write_text(json.dumps(sorted_in), "utf-8")


def replay_folder():
    """A replay folder, and the dump that it was packed from."""
    files = _made(_replay)
    return [{n: b for n, b in files.items() if n.startswith("r/") or n == "x.parquet"}]


def plans():
    """Every form of a plan, with the dump."""
    files = _made(_replay)
    return [{"x.parquet": files["x.parquet"], "plan.json": files[n]} for n in
            ("plan.json", "shards.json", "lists.json", "sorted.json")]  # fmt: skip


def bundle():
    """An ART bundle."""
    return dumps("art")


HIDDEN, LAYERS, EXPERTS = 8, (0, 1, 2), 8  # of CONFIG


def _hf(folder):
    """A Qwen3-MoE of two shards, by names and shapes alone; the routers are random."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    config = {**CONFIG, "model_type": "qwen3_moe", "hidden_size": HIDDEN, "vocab_size": 16}
    config |= {"norm_topk_prob": True, "moe_intermediate_size": 4, "decoder_sparse_step": 1}
    config |= {"mlp_only_layers": [], "num_attention_heads": 2, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    shards = ({"model.embed_tokens.weight": np.zeros((16, HIDDEN), np.float32)}, {})
    for layer in LAYERS:
        name = f"model.layers.{layer}.mlp.gate.weight"
        shards[layer % 2][name] = rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32)
        expert = f"model.layers.{layer}.mlp.experts.0.up_proj.weight"
        shards[layer % 2][expert] = np.zeros((4, HIDDEN), np.float32)
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    where = {tensor: names[i] for i, shard in enumerate(shards) for tensor in shard}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def hf_folder():
    """A Hugging Face folder of two shards and an index."""
    return [{f"c/{name}": body for name, body in _made(_hf).items()}]


def megatron_folder():
    """A torch_dist checkpoint that Megatron-Core saved; its weights are cut off."""
    files = below(FIXTURES / "checkpoints" / "megatron-0.15.3")
    return [{n: b for n, b in files.items() if n != "truth.safetensors"}]


def configs():
    """The models' config.json, beside one array."""
    ids = npy_bytes(some_ids(5).astype(np.uint8))
    names = ("qwen3_moe", "deepseek_v3", "qwen3_moe_soft")
    texts = [(FIXTURES / "configs" / f"{name}.json").read_bytes() for name in names]
    return [{"config.json": text, "x.npy": ids} for text in (CONFIG_JSON, *texts)]


def _inputs(folder):
    """Router inputs of two sequences, and a predictor's file for their layers."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    hidden = {f"layer.{n}": rng.standard_normal((12, HIDDEN)).astype(np.float32) for n in LAYERS}
    hidden |= {"cu_seqlens": np.array([0, 5, 12]), "token_ids": np.arange(12)}
    save_file(hidden, folder / "i.safetensors", metadata={"origin": "routectl.router_inputs/1"})
    tensors = {f"layer.{n}.predictor": np.ones((HIDDEN, EXPERTS), np.float32) for n in LAYERS}
    tensors["fitted_prefixes"] = np.arange(5)
    measured = dict.fromkeys(("kl_frozen", "kl", "choose_kl_frozen", "choose_kl"), 0.5)
    about = {
        "schema": "routectl.predictor/1",
        "family": "qwen3_moe",
        "old": "v0",
        "later": ["v1"],
        "routers": {"v0": "a", "v1": "b"},
        "tokens": 12,
        "sequences": 2,
        "held": 1,
        "layers": [{"layer": n, "ridge": 0.1, **measured} for n in LAYERS],
    }
    save_file(tensors, folder / "p.safetensors", metadata={"routectl": json.dumps(about)})


def router_inputs():
    """Router inputs and the checkpoint that they are given to."""
    return [{"i.safetensors": _made(_inputs)["i.safetensors"], **hf_folder()[0]}]


def router_trace():
    """A router trace with all sidecars, and what is beside it."""
    files = below(FIXTURES / "megatron-core-0.19.2" / "v0")
    return [{f"t/{n}": b for n, b in files.items() if n != "truth.npz"}]


def predictor():
    """A predictor's file, with router inputs and a checkpoint."""
    return [{**_made(_inputs), **hf_folder()[0]}]


def reports():
    """Saved reports of every verb."""
    names = ("diff.detail", "check", "show.detail", "staleness", "series", "checkpoint")
    return [{"x.json": (FIXTURES / "golden" / f"{name}.json").read_bytes()} for name in names]


CHECKS = b"""
[checks.sound]
verb = "check"
dump = "x.jsonl"
fail-on = "error"

[checks.mismatch]
verb = "diff"
old = "x.jsonl"
new = "x.*"
fail-over = ["mismatch:5%", "mismatch:+1%", "mismatch@*:3%"]
fail-under = ["coverage:99%"]
"""


def ci():
    """A config with its baseline and its dump."""
    numbers = {"sound": {"findings/error": 0.0}, "mismatch": {"diff/mismatch": 0.0}}
    baseline = json.dumps({"schema": "routectl.baseline/1", "checks": numbers}).encode()
    return [{**_made(_few), "ci.toml": CHECKS, "ci.baseline.json": baseline}]


def layouts():
    """A layout of our own keys, and configs of trainers, each as the one layout file."""
    folder = FIXTURES / "trainer_configs"
    names = ("layout.toml", "verl.yaml", "megatron.json", "slime.sh", "roll.yaml", "verl.sh")
    return [{f"x{Path(name).suffix}": (folder / name).read_bytes()} for name in names]


def codec_cells():
    """The bytes of each codec for one block, with what its decoder is told."""
    ids_RK = some_ids(60, layers=1, top_k=4, experts=32)[:, 0].astype(np.uint8)
    tokens_R = np.arange(60, dtype=np.int32) % 7
    found = []
    for name in CODECS:
        codec = codec_named(name)
        base = np.roll(ids_RK, 1, axis=0) if "base" in codec.needs else None
        layer, more = None, {}
        if "dictionary" in codec.needs:
            learnt = dictionary_of(ids_RK, 32, tokens_R)
            layer, more = learnt.layer(0), {"dictionary.raw": learnt.data}
        block = Block(np.ascontiguousarray(ids_RK), 32, (20, 0, 40), tokens_R, base, layer)
        coded = codec.encode(block)
        cells = {f"cell{i}.raw": cell for i, cell in enumerate(coded.cells)}
        about = {"codec": name, "experts": 32, "top_k": 4, "lens": [20, 0, 40]}
        about_json = json.dumps(about).encode()
        found.append({"about.json": about_json, "shared.raw": coded.shared, **cells, **more})
    return found
