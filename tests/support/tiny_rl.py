"""The trained model at v0, v1 and v2: checkpoints unpacked, and what its routers do recomputed."""

import json
import runpy
from types import MappingProxyType

import pytest

from routectl.cli.main import main
from routectl.formats import open_dump
from support.recordings import FIXTURES

__all__ = [
    "COMPARISONS",
    "ENGINE",
    "TINY",
    "TRUTH",
    "VERSIONS",
    "assert_recorded",
    "tiny_checkpoints",
    "tiny_dumps",
]

TINY = FIXTURES / "tiny_rl"
ENGINE = TINY / "vllm.bf16" / "samples.jsonl"
VERSIONS = ("v0", "v1", "v2")
TRUTH = json.loads((TINY / "truth.json").read_text("utf-8"))
COMPARISONS = {  # of routes, in truth.json: old, new
    "mismatch: engine bf16 at v0 / transformers fp32 at v0": ("engine", "v0"),
    "staleness fp32: v0 / v1": ("v0", "v1"),
    "staleness fp32: v0 / v2": ("v0", "v2"),
    "total fp32: engine at v0 / v1": ("engine", "v1"),
    "total fp32: engine at v0 / v2": ("engine", "v2"),
}


def assert_recorded(result, truth):
    """A diff's rows, tokens and swaps, in total and per layer, are those of truth.json."""
    assert (result.rows, result.rows_mismatched) == (truth["rows"], truth["rows_mismatched"])
    swaps_LS = result.counts.swaps_LS
    assert swaps_LS[:, 1:].sum(axis=1).tolist() == truth["per_layer_mismatched"]
    found = (result.num_tokens, result.tokens_mismatched)
    assert found == (truth["tokens"], truth["tokens_mismatched"])
    by_swap = {str(n): rows for n, rows in enumerate(swaps_LS.sum(axis=0).tolist()) if rows}
    assert by_swap == truth["swaps"]


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory):
    """Hugging Face folders by version, their digests checked."""
    unpack = runpy.run_path(str(FIXTURES / "tiny_rl_checkpoints.py"))["unpack"]
    return MappingProxyType(unpack(tmp_path_factory.mktemp("tiny_rl")))


@pytest.fixture(scope="session")
def tiny_dumps(tiny_checkpoints, tmp_path_factory):
    """What recompute writes for the engine's tokens, by version: float32, and all it can give."""
    folder = tmp_path_factory.mktemp("tiny_rl.recomputed")
    dumps = {}
    for version, checkpoint in tiny_checkpoints.items():
        path = folder / f"{version}.parquet"
        line = [
            "recompute",
            checkpoint,
            ENGINE,
            "--save",
            path,
            "--dtype",
            "float32",
            "--threads",
            "1",
        ]
        assert main([*map(str, line), "--logprobs", "--gate-logprobs"]) == 0
        dumps[version] = open_dump(path)
    return MappingProxyType(dumps)
