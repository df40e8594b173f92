"""Physical expert ids made of logical ones, by a slow oracle in plain Python."""

import json

import numpy as np
from hypothesis import strategies as st

from support.recordings import FIXTURES

__all__ = [
    "RECORDED",
    "TRUE_ROUTES",
    "a_map",
    "logical_of",
    "physical_of",
    "saved",
    "some_map",
    "truths",
]

RECORDED = FIXTURES / "expert_distribution"
TRUE_ROUTES = FIXTURES / "tiny_rl" / "routes_v0.fp32.npz"


def truths(count=4):
    """Token ids and routes [N - 1, L, K] of the sequences that were recorded, as transformers'."""
    found = []
    with np.load(TRUE_ROUTES) as arrays:
        for i in range(count):
            parts = [arrays[f"{i:03}.{name}"] for name in ("prompt_token_ids", "token_ids")]
            found.append((np.concatenate(parts), arrays[f"{i:03}.routed_experts"]))
    return found


def a_map(seed, layers, experts, physical):
    """A map [layers][physical] with each of the experts at least once in a layer."""
    rng = np.random.default_rng(seed)
    return [
        rng.permutation(
            np.concatenate([np.arange(experts), rng.integers(0, experts, physical - experts)])
        ).tolist()
        for _ in range(layers)
    ]


@st.composite
def some_map(draw, layers, experts):
    """A map of a model, with up to 5 copies more than it has experts."""
    physical = experts + draw(st.integers(0, 5))
    return a_map(draw(st.integers(0, 1 << 30)), layers, experts, physical)


def physical_of(ids_TLK, map_LP, seed=0):
    """Each logical id as some copy of it: what an engine that balances load records."""
    rng = np.random.default_rng(seed)
    found = []
    for row_LK in np.asarray(ids_TLK).tolist():
        found.append([])
        for ids_K, map_P in zip(row_LK, map_LP, strict=True):
            copies = [[p for p, e in enumerate(map_P) if e == expert] for expert in ids_K]
            found[-1].append([int(rng.choice(them)) for them in copies])
    return found


def logical_of(ids_TLK, map_LP):
    """The oracle: each physical id looked up by itself."""
    return [
        [[map_P[e] for e in ids_K] for ids_K, map_P in zip(row_LK, map_LP, strict=True)]
        for row_LK in ids_TLK
    ]


def saved(path, map_):
    """A map as JSON, as SGLang's --init-expert-location takes it."""
    path.write_text(json.dumps({"physical_to_logical_map": map_}), "utf-8")
    return path
