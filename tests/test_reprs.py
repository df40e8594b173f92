"""One line for each noun, in the house's words, without an array."""

import numpy as np
import pytest
import torch

import routectl
from routectl.forward.live.recorder import Recorder
from routectl.forward.routers import RouterAt
from support.dumps import DumpMeta, make_routes, make_sample
from support.recordings import FIXTURES
from support.tiny_rl import ENGINE

ROW = [[0, 1], [2, 3], [4, 5]]


def test_a_dump():
    """The path, samples, layers, K, E, the engine and the form."""
    dump = routectl.open_dump(ENGINE)
    assert repr(dump) == (
        f"<Dump {ENGINE}: 96 samples, 6 MoE layers, K 4, E 32; vllm 0.32.0, jsonl>"
    )


def test_a_dump_is_indexed_from_its_end_too():
    """-1 is the last sample, and what is beyond is an IndexError."""
    dump = routectl.open_dump(ENGINE)
    assert dump[-1].sample_id == dump[95].sample_id
    for beyond in (96, -97):
        with pytest.raises(IndexError):
            dump[beyond]


def test_a_dump_has_no_slices():
    """A slice is a TypeError that says select(samples=...)."""
    with pytest.raises(TypeError, match=r"select\(samples=range\(0, 2\)\)"):
        routectl.open_dump(ENGINE)[0:2]


def test_keys_and_a_check(tmp_path):
    """Keys say how many they are; a check begins with its verdict's word; a manifest is short."""
    dump = routectl.open_dump(ENGINE)
    part = dump.select(samples=range(2))
    assert repr(part.keys) == "<Keys of 2 samples>"
    routectl.write(part, tmp_path / "a.parquet")
    stored = routectl.open_dump(tmp_path / "a.parquet")
    assert repr(stored.keys) == "<StoredKeys of 2 samples, in their files>"
    assert repr(routectl.check(part)).startswith(f"<CheckResult of {ENGINE}: CLEAN, error 0, ")


def test_routes():
    """Tokens, the first position, layers, K, E, and what is missing."""
    routes = make_routes([ROW] * 3, start=4)
    assert repr(routes) == "<Routes: 3 tokens from position 4, 3 MoE layers, K 2, E 6>"
    routes = make_routes([ROW] * 2, missing=[(0, 1)], margins=[[1, np.nan, 1], [1, 1, 1]])
    told = "<Routes: 2 tokens from position 0, 3 MoE layers, K 2, E 6, 1 rows missing, margins>"
    assert repr(routes) == told


def test_a_sample():
    """The name, its tokens, and its routes; what is not known is said."""
    sample = make_sample(make_routes([ROW] * 3), name="a\nb", prompt=[1, 2], response=[3, 4])
    assert repr(sample) == (
        "<Sample a\\nb: 4 tokens (2 prompt, 2 response); "
        "<Routes: 3 tokens from position 0, 3 MoE layers, K 2, E 6>>"
    )
    assert repr(routectl.Sample(None)) == "<Sample: of unknown length; no routes>"


def test_a_name_is_cut_and_visible():
    """A name of others is on the line, whatever is in it, and bounded."""
    meta = DumpMeta("x\x1b[31m" * 1000, "npz", (1,), 4, 2, engine="e\n" * 500)
    text = repr(routectl.Dump(meta, [], [].__getitem__))
    assert text.isprintable()
    assert len(text) < 500


def test_a_recorder():
    """Forwards, layers, K and E."""
    at = RouterAt(3, "layers.3.router", torch.nn.Linear(2, 8), 8, 8, 2, "topk")
    assert repr(Recorder((at,))) == "<Recorder: 0 forwards, 1 MoE layers, K 2, E 8>"


def test_packed():
    """Layers, rows and filler of tensors, and their shape."""
    routes = make_routes([ROW] * 3, layers=(0, 1, 2))
    packed = routectl.pack([routes], routectl.Packing([4]))
    assert repr(packed) == "<Packed: 3 MoE layers of 4 rows, 1 of them filler, ids (3, 4, 2)>"


def test_a_checkpoint_and_a_dataset():
    """A checkpoint's tensors and layers are counted; a dataset is that of its dump."""
    folder = FIXTURES / "checkpoints" / "megatron-0.15.3"
    checkpoint = routectl.open_checkpoint(folder)
    assert repr(checkpoint).startswith(f"<Checkpoint {folder}/iter_0000007: torch_dist, ")
    facts = repr(routectl.checkpoint_facts(checkpoint))
    assert facts.startswith(f"<CheckpointFacts of {folder}/iter_0000007: ")
    assert len(facts.splitlines()) == 1
    dump = routectl.open_dump(ENGINE)
    assert repr(routectl.RoutesDataset(ENGINE)) == f"<RoutesDataset of {dump!r}>"
