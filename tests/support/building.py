"""Small dumps for the tests of the doors, built by hand: json, base64 and numpy only.

Nothing here calls a door. Shape suffixes: T rows, W layers as written, L MoE layers, K top_k.
"""

import base64
import io
import json

import numpy as np

from routectl.errors import RoutectlError
from routectl.model import ModelFacts

FACTS = ModelFacts(num_layers=3, layers=(0, 1, 2), num_experts=8, top_k=2, model_type=None)
CONFIG = {"model_type": "tiny", "num_hidden_layers": 3, "num_experts": 8, "num_experts_per_tok": 2}
# JSON that no field takes in every place where there is one
WRONG = (None, True, -1, 2**31, 10**30, 0.5, "", "x", [], {}, [[]], ["x"], {"a": 1})


def npy_bytes(array):
    """The array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def raw_npy(shape, descr="|u1", data=b""):
    """A .npy file with a header of one's own, true or not."""
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    header = repr(fields).encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def as_npy(array):
    """The array as vLLM sends it: base64 of a .npy file."""
    return base64.b64encode(npy_bytes(array)).decode("ascii")


def as_raw(array):
    """The array as SGLang sends it: base64 of int32 bytes."""
    return base64.b64encode(np.ascontiguousarray(array, "<i4").tobytes()).decode("ascii")


def some_ids(rows, layers=3, top_k=2, experts=8, seed=0):
    """Random routes int64 [T, W, K]: distinct ids in a row, so that none looks like a filler."""
    rng = np.random.default_rng(seed)
    noise = rng.random((rows, layers, experts))
    return np.argsort(noise, axis=2)[:, :, :top_k]


def record(ids_TWK, prompt=3, **more):
    """A flat record whose N - 1 rows are ``ids_TWK``, in vLLM's encoding; ``more`` overrides."""
    response = len(ids_TWK) + 1 - prompt
    return {
        "prompt_token_ids": list(range(10, 10 + prompt)),
        "token_ids": list(range(50, 50 + response)),
        "routed_experts": as_npy(ids_TWK),
        **more,
    }


def write_json(path, document, *, config=CONFIG, request=None):
    """The document as a file, with the model's config.json and the request beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), "utf-8")
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config), "utf-8")
    if request is not None:
        stem = path.name.removesuffix(".json").removesuffix(".response")
        path.with_name(f"{stem}.request.json").write_text(json.dumps(request), "utf-8")
    return path


def write_lines(path, documents, *, config=CONFIG):
    """The documents as a JSONL file, with the model's config.json beside it."""
    path.write_text("".join(json.dumps(d) + "\n" for d in documents), "utf-8")
    (path.parent / "config.json").write_text(json.dumps(config), "utf-8")
    return path


def check_line(error, path, kind=RoutectlError):
    """The message of an error is one line of bounded length that starts with the path."""
    assert isinstance(error, kind)
    message = str(error)
    assert message.startswith(str(path)), message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 400 + len(str(path)), message
    return message[len(str(path)) :]
