"""One line for each noun, in the house's words, without an array."""

import pickle

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
    """-1 is the last sample; beyond them is one line, an IndexError, of parts and keys too."""
    dump = routectl.open_dump(ENGINE)
    assert dump[-1].sample_id == dump[95].sample_id
    assert dump.select(samples=[-1])[0].sample_id == dump[95].sample_id
    for beyond in (96, -97):
        said = f"got index {beyond}: there are 96 samples, counted from 0"
        for ask in (dump.__getitem__, dump.keys.__getitem__, lambda at: dump.select(samples=[at])):
            with pytest.raises(IndexError, match=said) as caught:
                ask(beyond)
            assert isinstance(caught.value, routectl.RoutectlError)


def test_a_dump_is_indexed_by_an_id_too(tmp_path):
    """An id that one sample has gives it; of another the nearest is said, in a KeyError."""
    dump = routectl.open_dump(ENGINE).select(samples=[0, 1, 2, 2])
    name = dump[1].sample_id
    part = dump.select(samples=[-1, name, "0/0", 1])
    assert [one.sample_id for one in part] == ["0/2", name, "0/0", name]
    assert dump[name].prompt_ids.tolist() == dump[1].prompt_ids.tolist()
    routectl.write(dump.select(samples=[0, 1]), tmp_path / "a.parquet")
    assert routectl.open_dump(tmp_path / "a.parquet")[name].sample_id == name
    for wrong, said in (
        (f"{name}x", f"no sample of 4 has the id '{name}x': did you mean {name}?"),
        ("nothing", "no sample of 4 has the id 'nothing': ids are such as '0/0'"),
        (dump[2].sample_id, "2 samples have the id '0/2': at index 2, 3"),
    ):
        for ask in (dump.__getitem__, lambda one: dump.select(samples=[0, one])):
            with pytest.raises(KeyError) as caught:
                ask(wrong)
            assert isinstance(caught.value, routectl.RoutectlError)
            assert str(caught.value) == said
        assert str(pickle.loads(pickle.dumps(caught.value))) == said


def test_a_result_says_how_many_it_has():
    """What is beyond the entries of an answer is said with their number, of a sum's too."""
    answer = routectl.diff(ENGINE, ENGINE)
    for one in (answer, answer + answer, pickle.loads(pickle.dumps(answer))):
        assert [*one.layers][-1] == one.layers[-1]
        with pytest.raises(IndexError, match="got index 9: there are 6 layers, counted from 0"):
            one.layers[9]
    with pytest.raises(routectl.RoutectlError, match="got index 7: there are 0 findings"):
        routectl.check(ENGINE).findings[7]


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


def test_what_is_no_such_thing_is_a_type_error():
    """Arguments exchanged, a text for a list, paths without names: a line says what goes there."""
    dump = routectl.open_dump(ENGINE)
    for ask, said in (
        (lambda: routectl.verify(dump, "folder"), r"the path of a folder: verify\(FOLDER, DUMP\)"),
        (lambda: routectl.staleness(dump, [ENGINE]), "expected versions by name"),
        (lambda: routectl.staleness(dump, str(ENGINE)), "expected versions by name"),
        (lambda: dump.select(samples="0/0"), "got '0/0', expected a list of indices or ids"),
    ):
        with pytest.raises(TypeError, match=said):
            ask()
