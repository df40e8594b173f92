"""What the compared command lines need beside the fixtures: made of them by json and numpy alone.

``make_inputs(folder, fixtures)`` writes the same bytes each time, whatever tree is compared:
checkpoints unpacked, dumps of few samples, the same with faults, prompts, plans, configs, and files
that nothing should read. Shape suffixes: T rows, W layers as written, K top_k.
"""

import base64
import io
import json
import lzma
import os
import pickle
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["FAULTS", "HOSTILE", "make_inputs"]

TINY = "tiny_rl/vllm.bf16/samples.jsonl"
DEEPSEEK = "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
START = "recordings/vllm-0.32.0/qwen3_moe.bf16.start/samples.jsonl"
FEW = {"tiny": (TINY, "tiny_rl", 8), "deepseek": (DEEPSEEK, "deepseek_v3", 8)}
FEW["start"] = (START, "qwen3_moe", 8)
ROUTES = "routed_experts_b64npy"


def _ids(record: dict) -> np.ndarray:
    return np.load(io.BytesIO(base64.b64decode(record[ROUTES])), allow_pickle=False)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=array.dtype == object)
    return stream.getvalue()


def _with_ids(record: dict, ids_TWK: np.ndarray) -> dict:
    text = base64.b64encode(_npy(ids_TWK)).decode("ascii")
    shape = (
        {"routed_experts_shape": list(ids_TWK.shape)} if "routed_experts_shape" in record else {}
    )
    return {**record, **shape, ROUTES: text}


def _half(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A fault of the middle half of the rows."""

    def spoil(ids_TWK: np.ndarray) -> np.ndarray:
        ids_TWK = ids_TWK.copy()
        rows = slice(len(ids_TWK) // 4, 3 * len(ids_TWK) // 4)
        ids_TWK[rows] = change(ids_TWK[rows])
        return ids_TWK

    return spoil


def _layer(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A fault of the fourth layer as written."""

    def spoil(ids_TWK: np.ndarray) -> np.ndarray:
        ids_TWK = ids_TWK.copy()
        ids_TWK[:, 3] = change(ids_TWK[:, 3])
        return ids_TWK

    return spoil


def _random(ids: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).random((*ids.shape[:-1], 32))
    return np.argsort(noise, axis=-1)[..., : ids.shape[-1]].astype(ids.dtype)


def _zigzag(ids: np.ndarray) -> np.ndarray:
    size = len(ids) // 4 * 4
    first, second, third, fourth = np.split(ids[:size], 4)
    return np.concatenate([first, fourth, second, third, ids[size:]])


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda ids: ids,
    "late": lambda ids: np.roll(ids, 1, axis=0),
    "early": lambda ids: np.roll(ids, -2, axis=0),
    "missing_front": lambda ids: np.concatenate([np.zeros_like(ids[:5]), ids[5:]]),
    "missing_end": lambda ids: np.concatenate([ids[:-4], np.zeros_like(ids[-4:])]),
    "missing_last": lambda ids: np.concatenate([ids[:-1], np.zeros_like(ids[-1:])]),
    "missing_between": _half(np.zeros_like),
    "first_experts": _half(lambda ids: np.broadcast_to(np.arange(4, dtype=ids.dtype), ids.shape)),
    "constant": _half(lambda ids: np.broadcast_to(ids[0, 0], ids.shape)),
    "identical": _half(lambda ids: np.broadcast_to(ids[0], ids.shape)),
    "random": _half(_random),
    "random_layer": _layer(_random),
    "unwritten_layer": _layer(np.zeros_like),
    "constant_layer": _layer(lambda ids: np.broadcast_to(ids[0], ids.shape)),
    "layers_shifted": lambda ids: np.roll(ids, 1, axis=1),
    "layers_permuted": lambda ids: ids[:, [0, 2, 1, 4, 3, *range(5, ids.shape[1])]],
    "renumbered": lambda ids: np.random.default_rng(1).permutation(32).astype(ids.dtype)[ids],
    "renumbered_layer": _layer(lambda ids: (31 - ids).astype(ids.dtype)),
    "out_of_range": _half(lambda ids: ids + np.asarray(40, ids.dtype)),
    "twice": _half(lambda ids: np.repeat(ids[..., :1], ids.shape[-1], axis=-1)),
    "transposed": lambda ids: ids.transpose(1, 0, 2).reshape(ids.shape),
    "repeated_block": lambda ids: np.concatenate([ids[:20], ids[:20], ids[40:]]),
    "too_many": lambda ids: np.concatenate([ids, ids[-3:]]),
    "too_few": lambda ids: ids[:-3],
    "every_token": lambda ids: np.concatenate([ids, ids[-1:]]),
    "reversed_slots": lambda ids: ids[..., ::-1],
    "zigzag": _zigzag,
    "wide": lambda ids: ids.astype(np.int64),
    "flat": lambda ids: ids.reshape(len(ids), -1),
    "no_rows": lambda ids: ids[:0],
}


def _write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def _dumps(folder: Path, fixtures: Path) -> None:
    """Few samples of three recordings, and of two of them every fault; the configs beside them."""
    for name, (path, config, count) in FEW.items():
        lines = (fixtures / path).read_text("utf-8").splitlines()[-count:]
        records = [json.loads(line) for line in lines]
        source = fixtures / "tiny_rl" / "config.json"
        if config != "tiny_rl":
            source = fixtures / "configs" / f"{config}.json"
        for place in (folder / name, folder / f"{name}_faults"):
            place.mkdir()
            shutil.copyfile(source, place / "config.json")
        _write_lines(folder / name / "few.jsonl", records)
        if name == "start":
            continue
        for fault, spoil in FAULTS.items():
            rest = 0 if fault == "renumbered" else 4  # each fourth is sound; only all can be fixed
            spoilt = [
                r if rest and i % rest == 0 else _with_ids(r, spoil(_ids(r)))
                for i, r in enumerate(records)
            ]
            _write_lines(folder / f"{name}_faults" / f"{fault}.jsonl", spoilt)
        swapped = [
            _with_ids(r, np.resize(_ids(s), _ids(r).shape))
            for r, s in zip(records, [*records[1:], records[0]], strict=True)
        ]
        _write_lines(folder / f"{name}_faults" / "swapped.jsonl", swapped)
        bare = [{k: v for k, v in r.items() if not k.startswith("routed")} for r in records]
        _write_lines(folder / f"{name}_faults" / "without_routes.jsonl", bare)
        _write_lines(folder / f"{name}_faults" / "doubled.jsonl", [*records, records[0]])
        versions = [{**r, "weight_version": f"v{i % 3}"} for i, r in enumerate(records)]
        _write_lines(folder / f"{name}_faults" / "versions.jsonl", versions)


def _checkpoints(folder: Path, fixtures: Path) -> None:
    """tiny_rl at v0, v1 and v2, and deepseek_v3, as Hugging Face folders; one that is cut short."""
    unpack = runpy.run_path(str(fixtures / "tiny_rl_checkpoints.py"))["unpack"]
    unpack(folder / "weights")
    packed = fixtures / "checkpoints" / "deepseek_v3"
    place = folder / "weights" / "deepseek_v3"
    place.mkdir()
    shutil.copyfile(packed / "config.json", place / "config.json")
    weights = lzma.decompress((packed / "model.safetensors.xz").read_bytes())
    (place / "model.safetensors").write_bytes(weights)
    cut = folder / "weights" / "cut"
    cut.mkdir()
    shutil.copyfile(packed / "config.json", cut / "config.json")
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def _prompts(folder: Path, fixtures: Path) -> None:
    """The prompts of recorded requests, one a file, and files that are none."""
    for engine in ("sglang-0.5.23", "vllm-0.32.0"):
        for path in sorted((fixtures / "servers" / engine).rglob("*.request.json")):
            asked = json.loads(path.read_text("utf-8"))
            keys = ("input_ids", "text", "prompt", "messages")
            prompt = {"id": "a", "group": "g"} | {k: asked[k] for k in keys if k in asked}
            name = f"{engine.split('-')[0]}.{path.name.removesuffix('.request.json')}.jsonl"
            _write_lines(folder / "prompts" / name, [prompt])
    _write_lines(folder / "prompts" / "nameless.jsonl", [{"id": "a"}])
    _write_lines(folder / "prompts" / "twice.jsonl", [{"id": "a", "prompt": [1, 2]}] * 2)


def _plans(folder: Path) -> None:
    """Plans of eight samples: whole, of two DP ranks, dp_shards, and refused ones."""
    plans = {
        "whole": {"micro_batches": [[[0, 1, 2]], [[3, 4]], [[5, 6, 7]]]},
        "dp2": {"micro_batches": [[[0, 3], [1]], [[2], [4, 5, 6, 7]]]},
        "some": {"micro_batches": [[[7]], [[1]]]},
        "twice": {"micro_batches": [[[0, 1]], [[1]]]},
        "beyond": {"micro_batches": [[[99]]]},
        "shards": [
            {"data_parallel_rank": 0, "partition": [0, 2, 4, 6], "micro_batch_indices": [[0, 1]]},
            {"data_parallel_rank": 1, "partition": [1, 3, 5, 7], "micro_batch_indices": [[2, 3]]},
        ],
        "foreign": {"plan": 1},
    }
    for name, plan in plans.items():
        (folder / "plans" / f"{name}.json").write_text(json.dumps(plan), "utf-8")


_TEXTS = {
    "empty.json": "",
    "half.json": '{"choices": [{"routed_experts": "k05VTVBZ',
    "deep.json": "[" * 5000,
    "list.json": "[1, 2, 3]",
    "number.json": "7",
    "nothing.json": "null",
    "text.txt": "loss 0.1\n" * 50,
    "broken.toml": "[checks\n",
    "unknown.toml": '[checks.a]\nverb = "judge"\n',
    "no_dump.toml": '[checks.a]\nverb = "check"\n',
    "wrong_type.toml": '[checks.a]\nverb = "check"\ndump = 3\n',
    "no_key.toml": '[checks.a]\nverb = "check"\ndump = "x"\ncolour = "red"\n',
    "bad_limit.toml": '[checks.a]\nverb = "diff"\nold = "a"\nnew = "b"\nfail-over = ["x:1"]\n',
    "no_file.toml": '[checks.a]\nverb = "check"\ndump = "none.jsonl"\n',
    "no_checks.toml": "[tool.other]\na = 1\n",
    "pyproject.toml": f'[tool.routectl.checks.a]\nverb = "check"\ndump = "fixtures/{TINY}"\n',
    "config.json": '{"model_type": "tiny", "num_hidden_layers": "six"}',
    "diff.json": '{"schema": "routectl.diff/1"}',
    "future.json": '{"schema": "routectl.diff/99"}',
}
_BYTES = {
    "zeros.bin": bytes(4096),
    "latin.json": b'{"a": "\xff\xfe"}',
    "magic.parquet": b"PAR1" + bytes(64) + b"PAR1",
    "magic.npz": b"PK\x03\x04" + bytes(64),
    "long.safetensors": (1 << 40).to_bytes(8, "little") + b"{}",
    "call.pkl": pickle.dumps(print, protocol=4),
    "plain.pkl": pickle.dumps({"a": [1, 2]}, protocol=4),
    "floats.npy": _npy(np.zeros((4, 6, 4))),
    "ids.npy": _npy(_random(np.zeros((12, 6, 4), np.uint8))),
    "flat.npy": _npy(np.zeros((4, 6), np.int32)),
    "objects.npy": _npy(np.array([{}, None], object)),
}
HOSTILE = (*_TEXTS, *_BYTES, "folder")


def _hostile(folder: Path) -> None:
    """Files that no command should take for a dump, a checkpoint, a report or a config."""
    for name, text in _TEXTS.items():
        (folder / name).write_text(text, "utf-8")
    for name, data in _BYTES.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()


def make_inputs(folder: Path, fixtures: Path) -> None:
    """Write all of it into a folder that is there and empty."""
    for name in ("prompts", "plans", "hostile"):
        (folder / name).mkdir()
    _dumps(folder, fixtures)
    _checkpoints(folder, fixtures)
    _prompts(folder, fixtures)
    _plans(folder)
    _hostile(folder / "hostile")
    for path in folder.rglob("*"):  # what is kept of weights is kept by their time of change
        os.utime(path, (0, 0), follow_symlinks=False)
