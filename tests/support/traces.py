"""Router traces that Megatron-Core 0.19.2 wrote, what is true of them, and their tokens."""

import json
import shutil

import numpy as np
import torch

from support.recordings import FIXTURES

__all__ = ["ANSWERS", "TRACES", "copied", "logits", "records", "rollout", "states", "truth"]

TRACES = FIXTURES / "megatron-core-0.19.2"
ANSWERS = TRACES / "answers"


def truth(name):
    """What the routers returned: sets of experts by (micro-batch, layer), one a row."""
    maps = np.load(TRACES / name / "truth.npz")
    return {
        tuple(map(int, key.split("."))): [set(np.flatnonzero(row).tolist()) for row in maps[key]]
        for key in maps.files
    }


def rollout(folder):
    """A dump of the requests whose tokens were traced, in the order of their rows."""
    path = folder / "rollout.jsonl"
    pairs = [
        {
            kind: json.loads((ANSWERS / f"{name}.{kind}.json").read_text())
            for kind in ("request", "response")
        }
        for name in ("completions", "chat")
    ]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    path.write_text(lines + (ANSWERS / "requests.jsonl").read_text())
    return path


def records(name):
    """The records of a trace."""
    lines = (TRACES / name / "router_trace_rank0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _sidecar(name, record, file, kind):
    data = (TRACES / name / file).read_bytes()
    begin, size = record[f"{kind}_offset"], record[f"{kind}_bytes"]
    raw = torch.frombuffer(bytearray(data[begin : begin + size]), dtype=torch.int16)
    return raw.view(torch.bfloat16).reshape(record[f"{kind}_shape"])


def logits(name, record):
    """The traced logits [T, E], bfloat16, as router_trace.py's own loader reads them."""
    return _sidecar(name, record, "logits_rank0.bin", "logit")


def states(name, record):
    """The traced hidden states [T, D], bfloat16."""
    return _sidecar(name, record, "hidden_states_rank0.bin", "hs")


def copied(name, folder):
    """A trace in a folder of its own, to be changed."""
    return shutil.copytree(TRACES / name, folder / name)
