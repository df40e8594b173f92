"""What real servers and runs left in fixtures/, read and decoded by hand: json, base64 and numpy.

Nothing here calls a door. Shape suffixes: T rows, W layers as written.
"""

import base64
import gzip
import io
import json
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
QWEN = FIXTURES / "configs" / "qwen3_moe.json"
VLLM = FIXTURES / "servers" / "vllm-0.32.0" / "qwen3_moe.bf16"
SGLANG = FIXTURES / "servers" / "sglang-0.5.23" / "qwen3_moe.bf16"
DEEPSEEK = FIXTURES / "recordings" / "vllm-0.32.0" / "deepseek_v3.bf16.grpo"
DEEPSEEK_CONFIG = FIXTURES / "configs" / "deepseek_v3.json"


def read_text(path):
    """The text of a file, plain or gzipped."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def read_lines(path):
    """The JSON documents of a JSONL file, plain or gzipped."""
    return [json.loads(line) for line in read_text(path).split("\n") if line]


def response_of(folder, name):
    """A recorded response body, parsed."""
    return json.loads((folder / f"{name}.response.json").read_text("utf-8"))


def request_of(folder, name):
    """The recorded request of a response, parsed."""
    return json.loads((folder / f"{name}.request.json").read_text("utf-8"))


def decode(payload, layers=6, top_k=4):
    """A recorded payload as an array [T, W, K]: .npy bytes, else raw int32."""
    data = base64.b64decode(payload, validate=True)
    if data.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    return np.frombuffer(data, "<i4").reshape(-1, layers, top_k)


def deepseek_record(index=5):
    """A recorded sample of the model with one dense layer, and its routes [T, 5, 4]."""
    line = read_lines(DEEPSEEK / "samples.jsonl")[index]
    return line, decode(line["routed_experts_b64npy"])
