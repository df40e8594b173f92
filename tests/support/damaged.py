"""A damaged file of every container, made of a sound one: what the table of tests/cli reads.

What cannot be made is in ``fixtures/hostile``.
"""

import io
import zipfile

from fuzz import seeds

__all__ = ["DAMAGES", "DOORS", "damaged"]


def _other_zip(_):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("nothing/in.it", b"")
    return stream.getvalue()


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "no head": lambda data: bytes(min(16, len(data))) + data[16:],
    "no tail": lambda data: data[: -min(9, len(data))] + bytes(min(9, len(data))),
    "no text": lambda data: b"\xff\xfe\x80" * 40,
    "a zip": _other_zip,
    "a number": lambda data: b"7\n",
    "nothing": lambda data: b"null\n",
    "brackets": lambda data: b"[" * 5000 + b"]" * 5000,
}
RESPONSE, FOLDER = ("show", "HERE/x.response.json"), ("show", "HERE/c")
UNPACK = ("unpack", "HERE/r", "--save", "HERE/o.parquet")
AT = ("--at", "v0=HERE/c", "--at", "v1=HERE/c")
EVAL = ("predict", "judge", "HERE/i.safetensors", "--predictor", "FILE", *AT, "--frozen-inputs")
SHARD, LATEST = "c/model-00001-of-00002.safetensors", "latest_checkpointed_iteration.txt"
SHOW, MODEL = ("show", "FILE"), ("--model", "fixtures/configs/qwen3_moe.json")
RECOMPUTE = ("recompute", "HERE/c", "HERE/i.safetensors", "--save", "HERE/out.parquet")
VERIFY = ("verify", "HERE/r", "--against", "HERE/x.parquet")
PLAN = ("pack", "HERE/x.parquet", "--save", "HERE/r", "--plan", "FILE")
MAPPED = ("show", "HERE/x.pt", "--expert-map", "FILE")
LAYOUT = ("layout", "--lens", "9,17,3", "--layout", "decoder-layers=44", "--layout", "FILE")
ACCEPT = ("ci", "HERE/ci.toml", "--update-baseline")
CAPTURE = ("capture", "http://127.0.0.1:1", "--prompts", "FILE", "--save", "HERE/out.parquet")
RANK = "r/dp0-cp0-tp0-pp0/mb0000.safetensors"
ITER = "iter_0000007"
TRACE, STATE = "t/router_trace_rank0.jsonl", "t/router_state_rank0.pt"
_OF_STRAW = "453fa708a5c84f58ba8b93744ee7d8e5/38380dc42742438784570aeaf5a918a1"
PACK = f"straw-data/raw/45/{_OF_STRAW}.pack"
DOORS = {  # of each: its sound files, which of them is damaged, and who reads it
    "json": (lambda: seeds.responses()[0], "x.response.json", (*SHOW, *MODEL)),
    "request": (lambda: seeds.responses()[0], "x.request.json", (*RESPONSE, *MODEL)),
    "sse": (lambda: seeds.streams()[0], "x.response.sse", (*SHOW, *MODEL)),
    "jsonl": (lambda: seeds.lines()[0], "x.jsonl", SHOW),
    "config": (lambda: seeds.lines()[0], "config.json", ("show", "HERE/x.jsonl")),
    "gz": (lambda: seeds.zipped()[0], "x.jsonl.gz", SHOW),
    "npy": (lambda: seeds.arrays("npy")[0], "x.npy", SHOW),
    "npz": (lambda: seeds.arrays("npz")[0], "x.npz", SHOW),
    "safetensors": (lambda: seeds.arrays("safetensors")[0], "x.safetensors", SHOW),
    "slime": (lambda: seeds.dumps("slime")[0], "x.pt", SHOW),
    "skyrl": (lambda: seeds.dumps("skyrl")[0], "x.pt", SHOW),
    "verl-dp": (lambda: seeds.dumps("verl-dp")[0], "x.dp", SHOW),
    "skyrl-pkl": (lambda: seeds.dumps("skyrl-pkl")[0], "x.pkl", SHOW),
    "skyrl-0.4": (lambda: seeds.dumps("skyrl-0.4")[0], "x.pt", SHOW),
    "skyrl-0.4-pkl": (lambda: seeds.dumps("skyrl-0.4-pkl")[0], "x.pkl", SHOW),
    "prime-rl": (lambda: seeds.dumps("prime-rl")[0], "x.bin", SHOW),
    "recorder": (lambda: seeds.recordings()[0], "x.pt", SHOW),
    "counts": (lambda: seeds.recordings()[2], "x.pt", SHOW),
    "map": (lambda: seeds.recordings()[0], "map.json", MAPPED),
    "straw": (lambda: seeds.straw()[0], "x.straw.json", SHOW),
    "pack of straw": (lambda: seeds.straw()[0], PACK, ("show", "HERE/x.straw.json")),
    "weights": (lambda: seeds.weighed()[0], "x/step_000000.safetensors", ("show", "HERE/x")),
    "bundle": (lambda: seeds.dumps("art")[0], "x/manifest.json", ("show", "HERE/x")),
    "step": (lambda: seeds.dumps("art")[0], "x/step_000000.safetensors", ("show", "HERE/x")),
    "plain": (lambda: seeds.native()[0], "x.parquet", SHOW),
    "set": (lambda: seeds.native()[2], "x.parquet", SHOW),
    "base": (lambda: seeds.native()[4], "base.parquet", ("show", "HERE/x.parquet")),
    "manifest": (lambda: seeds.replay_folder()[0], "r/manifest.json", VERIFY),
    "rank": (lambda: seeds.replay_folder()[0], RANK, VERIFY),
    "samples": (lambda: seeds.replay_folder()[0], "r/samples.parquet", UNPACK),
    "plan": (lambda: seeds.plans()[0], "plan.json", PLAN),
    "layout": (lambda: seeds.layouts()[0], "x.toml", LAYOUT),
    "config of a trainer": (lambda: seeds.layouts()[1], "x.yaml", LAYOUT),
    "args of a trainer": (lambda: seeds.layouts()[2], "x.json", LAYOUT),
    "index": (lambda: seeds.hf_folder()[0], "c/model.safetensors.index.json", FOLDER),
    "shard": (lambda: seeds.hf_folder()[0], SHARD, FOLDER),
    "common": (lambda: seeds.megatron_folder()[0], f"{ITER}/common.pt", ("show", "HERE")),
    "metadata": (lambda: seeds.megatron_folder()[0], f"{ITER}/.metadata", ("show", "HERE")),
    "iteration": (lambda: seeds.megatron_folder()[0], LATEST, ("show", "HERE")),
    "inputs": (lambda: seeds.router_inputs()[0], "i.safetensors", RECOMPUTE),
    "trace": (lambda: seeds.router_trace()[0], TRACE, ("show", "HERE/t")),
    "router state": (lambda: seeds.router_trace()[0], STATE, ("show", "HERE/t")),
    "predictor": (lambda: seeds.predictor()[0], "p.safetensors", (*EVAL, "--threads", "1")),
    "report": (lambda: seeds.reports()[0], "x.json", ("report", "FILE")),
    "prompts": (lambda: seeds.prompts()[0], "x.jsonl", CAPTURE),
    "ci": (lambda: seeds.ci()[0], "ci.toml", ("ci", "FILE")),
    "baseline": (lambda: seeds.ci()[0], "ci.baseline.json", ACCEPT),
}


def damaged(door, damage, folder):
    """Write a door's files with one of them damaged; the command line that reads it."""
    make, name, words = DOORS[door]
    for file, body in make().items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DAMAGES[damage](body) if file == name else body)
    return [word.replace("FILE", str(folder / name)).replace("HERE", str(folder)) for word in words]
