"""Small real files of every form, with one value of theirs left out or replaced by another.

Whatever it is replaced by, each command that reads the form ends with 0 or 1, or with 2 and one
line: never with a traceback, and soon. Seeds are fixed.
"""

import copy
import json
import lzma
import random
import shutil
import struct
import time

import msgspec
import numpy as np
import pytest
import torch

from support.recordings import FIXTURES
from support.shell import run

DUMP = FIXTURES / "golden/deepseek_v3.parquet"
TINY = FIXTURES / "tiny_rl/vllm.bf16"
GONE = object()
PLAIN = [
    *(None, True, -1, 0, 7, 0.5, 2**31, 2**63, 10**400, 1e308, float("nan"), float("-inf"), ""),
    *("x" * 10_000, "../x", "/etc/passwd", "\0", "\ud800", [], [[]], [None], [-1], ["a"], {}),
    *({"a": {}}, {"": [1.5]}),
]
LOOP = []
LOOP.append(LOOP)
TWICE = [1]
for _ in range(40):
    TWICE = [TWICE, TWICE]
TENSORS = [
    *(torch.zeros(2, 3), torch.arange(5), torch.zeros(0), torch.ones(3).bfloat16()),
    *(torch.tensor(1.5), torch.tensor([True]), torch.zeros(1).expand(10**6), torch.zeros(10**9, 0)),
    *(torch.tensor([2**40]), torch.tensor([-1.0, float("nan")]), torch.zeros(1, 2, 3, 4)),
    *(np.zeros((2, 2)), np.array([1, "a"], object), np.array(["x" * 100]), np.zeros(3, "c16")),
    *(np.float64("nan"), np.int64(3), np.str_("a"), torch.Size([3]), torch.float32, 1 + 2j, b"x"),
    *((1, 2), [torch.zeros(2)], LOOP, TWICE),
]


def places(value, at=()):
    """Where values are in a document; of a list, the first two."""
    keys = value if isinstance(value, dict) else ()
    for key in range(min(2, len(value))) if isinstance(value, list) else keys:
        yield (*at, key)
        yield from places(value[key], (*at, key))


def changed(value, at, new):
    """The document with another value there, or none."""
    if not at:
        return new
    copied = copy.copy(value)
    if len(at) == 1 and new is GONE:
        del copied[at[0]]
    else:
        copied[at[0]] = changed(value[at[0]], at[1:], new)
    return copied


def mutants(document, values, most):
    """So many of the changed documents, the same each time."""
    every = [(at, new) for at in places(document) for new in (GONE, *values)]
    every += [((), new) for new in values]
    random.Random(1).shuffle(every)
    for at, new in every[:most]:
        yield at, changed(document, at, new)


def held(capsys, at, *line):
    """A command ends with 0 or 1, or with 2 and one line and perhaps a hint; within 5 s."""
    began = time.process_time()
    done = run(capsys, *line)
    code, err = done.code, done.err
    assert code in (0, 1, 2), (at, line, err)
    assert "bug in routectl" not in err, (at, line, err[-2000:])
    if code == 2:
        said = [one for one in err.splitlines() if not one.startswith(("hint: ", "note: "))]
        assert said[-1].startswith("routectl: "), (at, line, err)
    assert time.process_time() - began < 5, (at, line)


def as_json(path):
    """A writer of JSON documents."""
    return lambda document: path.write_text(json.dumps(document), "utf-8")


def as_torch(path):
    """A writer of torch files."""
    return lambda document: torch.save(document, path)


def models(folder):
    """Configs of a dump's model, and what meta.json beside it says."""
    lines = (TINY / "samples.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "a.jsonl").write_text("".join(lines[:3]), "utf-8")
    meta = {"hf_config": json.loads((FIXTURES / "configs/qwen3_moe.json").read_text())}
    show = ("show", folder / "a.jsonl")
    for name in ("deepseek_v3", "qwen3_moe"):
        config = json.loads((FIXTURES / f"configs/{name}.json").read_text())
        model = folder / f"{name}.json"
        yield config, as_json(model), PLAIN, [(*show, "--model", model)]
    yield meta, as_json(folder / "meta.json"), PLAIN, [show]


QUANTIZED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["x"],
    "sparsity_config": {"format": "dense"},
    "weight_block_size": [128, 128],
    "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8, "group_size": 32}}},
}


def weights(folder):
    """A checkpoint's config, quantization, index, header and adapter."""
    source = FIXTURES / "checkpoints/deepseek_v3"
    raw = lzma.decompress((source / "model.safetensors.xz").read_bytes())
    file, show = folder / "model.safetensors", [("show", folder)]
    file.write_bytes(raw)
    config = json.loads((source / "config.json").read_text())
    put = as_json(folder / "config.json")
    yield config, put, PLAIN, show
    yield QUANTIZED, lambda doc: put({**config, "quantization_config": doc}), PLAIN, show
    put(config)
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"][:5]
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, file.name)}
    yield index, as_json(folder / "model.safetensors.index.json"), PLAIN, show
    (folder / "model.safetensors.index.json").unlink()

    def headed(document):
        text = json.dumps(document).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])

    yield {name: header[name] for name in names}, headed, PLAIN, show
    adapter = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "x"}
    yield adapter, as_json(folder / "adapter_config.json"), PLAIN, show


ARGS = {
    "num_layers": 2, "pipeline_model_parallel_size": 1, "pipeline_model_parallel_layout": None,
    "num_experts": 4, "moe_router_topk": 2, "moe_layer_freq": [0, 1], "hidden_size": 8,
}  # fmt: skip


def megatron(folder):
    """metadata.json and common.pt of a torch_dist folder, and a rank's file of the legacy form."""
    dist, legacy = folder / "iter_0000007", folder / "iter_0000001"
    shutil.copytree(FIXTURES / "checkpoints/megatron-0.15.3/iter_0000007", dist)
    about = json.loads((dist / "metadata.json").read_text())
    yield about, as_json(dist / "metadata.json"), PLAIN, [("show", dist)]
    as_json(dist / "metadata.json")(about)
    both = [*PLAIN, *TENSORS]
    yield {"args": ARGS, "iteration": 7}, as_torch(dist / "common.pt"), both, [("show", dist)]
    (legacy / "mp_rank_00").mkdir(parents=True)
    state = {
        **{f"decoder.layers.{n}.mlp.router.weight": torch.zeros(4, 8) for n in (0, 1)},
        "decoder.layers.1.mlp.experts.linear_fc1.weight0": torch.zeros(4, 8),
        "embedding.word_embeddings.weight": torch.zeros(10, 8),
    }
    document = {"args": ARGS, "iteration": 1, "model": state}
    put = as_torch(legacy / "mp_rank_00/model_optim_rng.pt")
    yield document, put, both, [("show", legacy)]


def replay(folder):
    """Manifests of pack, plans of every form, and the manifest of ART's bundle."""
    from routectl.cli.main import main

    packed, plan, bundle = folder / "packed", folder / "plan.json", folder / "art"
    made = [
        ["pack", DUMP, "--save", packed, "--framework", "slime", "--tp", "2"],
        ["convert", DUMP, "--save", bundle, "--to", "art", "--lossy"],
    ]
    assert [main(list(map(str, line))) for line in made] == [0, 0]
    both = [("verify", packed, "--against", DUMP)]
    both += [("unpack", packed, "--save", folder / "u.parquet", "--force")]
    for file, lines in (
        (packed / "manifest.json", both),
        (bundle / "manifest.json", [("show", bundle)]),
    ):
        yield json.loads(file.read_text()), as_json(file), PLAIN, lines
    line = ("pack", DUMP, "--save", folder / "out", "--force", "--plan", plan)
    steps = {"micro_batches": [[[0]], {"samples": [[1]], "cp": 1}]}
    ranks = [{"data_parallel_rank": 0, "partition": [0, 1], "micro_batch_indices": [[0], [1]]}]
    lists = {"batch_idx_list": [[[0], [1]]], "global_idx": [1, 0]}
    shard = {"micro_batch_indices": [[[0, 1], [1, 2]]], "elem_counts_per_gb": [2]}
    sorted_in = {"batch_sorted_indices": [1, 0], "shards": [shard]}
    for document in (steps, {"dp_shards": ranks}, lists, sorted_in):
        yield document, as_json(plan), PLAIN, [line]


def trainers(folder):
    """slime's samples and train data, a padded grid, a list of layers, prime-rl's micro-batches."""
    facts = ("--model", "1,2,4")
    file, both = folder / "a.pt", [*PLAIN, *TENSORS]
    lines = [("show", file, *facts), ("check", file, *facts)]
    lines += [("convert", file, "--save", folder / "o.parquet", "--force", *facts)]
    ids = torch.tensor([[[0, 1]], [[1, 2]], [[2, 3]], [[0, 3]]], dtype=torch.int32)
    sample = {
        "tokens": [1, 2, 3, 4, 5], "response_length": 2, "rollout_routed_experts": ids,
        "rollout_log_probs": [-1.0, -2.0], "loss_mask": [1, 1], "index": 0, "group_index": 0,
        "metadata": {"weight_spans": [["v", 0, 2]], "group_id": "g", "sample_id": "s"},
        "prefix_cache_info": {"cached_tokens": 1}, "weight_versions": ["1"], "status": "completed",
    }  # fmt: skip
    yield {"samples": [sample, {**sample, "index": 1}]}, as_torch(file), both, lines
    shard = {"data_parallel_rank": 0, "partition": [0], "micro_batch_indices": [[0]]}
    trained = {"tokens": [1, 2, 3], "response_lengths": 2, "loss_masks": [1, 1], "sample_index": 0}
    data = {"format_version": 2, "samples": [trained], "dp_shards": [shard]}
    plan = ("pack", DUMP, "--save", folder / "out", "--force", "--plan", file)
    yield data, as_torch(file), both, [lines[0], plan]
    grid = {
        "routed_experts": torch.zeros(2, 4, 1, 2, dtype=torch.int32),
        "input_ids": torch.ones(2, 4, dtype=torch.long), "prompts": torch.ones(2, 2),
        "attention_mask": torch.ones(2, 4), "response_mask": torch.ones(2, 2),
        "rollout_log_probs": torch.zeros(2, 2), "router_padding_mask": torch.zeros(2, 4),
    }  # fmt: skip
    yield grid, as_torch(file), both, lines
    layers = [[torch.zeros(4, 2, dtype=torch.int32), torch.zeros(3, 2, dtype=torch.int32)]]
    yield layers, as_torch(file), both, lines
    packed = folder / "rank_0.bin"
    numbers = [[1, 2, 3], [0, 1, 1], [0.0], [0.0, -1.0, -1.0], [0, 1, 2], [3], [1.0], ["a"], [3]]
    bins = [[*numbers, None, [bytes(24), [3, 1, 2], "int32"]]]
    put = lambda doc: packed.write_bytes(msgspec.msgpack.encode(doc))  # noqa: E731
    yield bins, put, PLAIN, [("show", f"{packed}::format=msgpack", *facts)]


FORMS = {form.__name__: form for form in (models, weights, megatron, replay, trainers)}


def tried(capsys, tmp_path, form, most):
    """Every mutant that a writer can write, by every command of its form."""
    for document, put, values, lines in FORMS[form](tmp_path):
        for at, mutant in mutants(document, values, most):
            try:
                put(mutant)
            except (TypeError, ValueError, OverflowError, RecursionError):
                continue
            for line in lines:
                held(capsys, at, *line)
        put(document)


@pytest.mark.parametrize("form", FORMS)
def test_some(capsys, tmp_path, form):
    """A few mutants of every form."""
    tried(capsys, tmp_path, form, 8)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many(capsys, tmp_path, form):
    """Many mutants of every form."""
    tried(capsys, tmp_path, form, 60)
