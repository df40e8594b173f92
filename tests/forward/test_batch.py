"""Padded batches: the rows of sequences that run together, against hooks and against each alone.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl import Routes
from routectl.forward.batches import pad_together
from routectl.forward.job import make_jobs
from routectl.forward.options import RunOptions
from support import families
from support.forwards import checkpoint_of, forward, hooked, load, samples

pytestmark = pytest.mark.models

NAMES = [name for name in families.FAMILIES if "." not in name]
LENGTHS = (7, 30, 19)  # padding longer than the windows of 16 of the tiny models
KINDS = ("qwen3_moe", "deepseek_v3", "phimoe", "deepseek_v4", "qwen3_next", "zaya")


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


@pytest.fixture
def family(request, monkeypatch):
    """A family's name; with many index heads where it has an indexer.

    Two heads, through a relu, often both give exactly 0: which of the equal positions an indexer
    keeps is then up to the length of the row that it sorts, in a batch or not.
    """
    if "index_n_heads" in families.FAMILIES[request.param].settings:
        wider = families._variant(request.param, index_n_heads=16)
        monkeypatch.setitem(families.FAMILIES, request.param, wider)
    return request.param


def changed(ones, others):
    """Rows whose sets differ between two runs, of live routes where they were forced."""
    count = 0
    for one, other in zip(ones, others, strict=True):
        assert (one.index, one.mode) == (other.index, other.mode)
        a, b = (r.ids_TLK if r.live_TLK is None else r.live_TLK for r in (one, other))
        count += int((np.sort(a) != np.sort(b)).any(-1).sum())
    return count


@pytest.mark.parametrize("family", NAMES, indirect=True)
def test_rows_are_those_of_hooks_and_of_each_sequence_alone(family, tmp_path):
    """Ids and margins are, bit for bit, those of hooks on the model called with the same batch and
    mask, plain and streamed; in float32 no row differs from the sequence alone.
    """
    folder, inputs = checkpoint_of(family, tmp_path), samples(*LENGTHS)
    alone, _ = forward(folder, inputs)
    truth = hooked(load(folder, torch.float32, family), inputs, padded=True)
    for streaming in ("plain", "stream"):
        found, prepared = forward(folder, inputs, streaming=streaming, batch=3)
        assert prepared.provenance["batch"] == 3
        assert changed(alone, found) == 0
        for got, one, (ids_TLK, margins_TL, _) in zip(found, alone, truth, strict=True):
            assert np.array_equal(got.ids_TLK, ids_TLK)
            assert np.array_equal(got.margins_TL, margins_TL)
            assert np.allclose(got.margins_TL, one.margins_TL, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_rows_are_those_of_hooks(name, tmp_path):
    """In bf16, where a batch does change rows, they are those of hooks on the same batch."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(*LENGTHS)
    truth = hooked(load(folder, torch.bfloat16, name), inputs, padded=True)
    found, _ = forward(folder, inputs, dtype="bfloat16", streaming="stream", batch=3)
    for got, (ids_TLK, margins_TL, _) in zip(found, truth, strict=True):
        assert np.array_equal(got.ids_TLK, ids_TLK)
        assert np.array_equal(got.margins_TL, margins_TL)


def with_routes(inputs, results, prepared):
    """The samples with random routes but for the last token and one more row."""
    at, rng = prepared.routers[0], np.random.default_rng(3)
    for sample, result in zip(inputs, results, strict=True):
        shape = (len(result.ids_TLK) - 1, len(prepared.layers), at.num_choices)
        ids_TLE = rng.permuted(np.broadcast_to(np.arange(shape[2], dtype=np.uint8), shape), axis=2)
        missing_TL = np.zeros(shape[:2], np.bool_)
        missing_TL[1, -1] = True
        ids_TLK = np.ascontiguousarray(ids_TLE[..., : at.top_k])
        yield replace(sample, routes=Routes(ids_TLK, prepared.layers, shape[2], 0, missing_TL))


@pytest.mark.parametrize("name", KINDS)
def test_forced_rows_are_those_of_each_sequence_alone(name, tmp_path):
    """Forced in a batch, as in mode both, each sequence has its own routes, and padding none."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(*LENGTHS)
    free, prepared = forward(folder, inputs)
    given = list(with_routes(inputs, free, prepared))
    for mode in ("forced", "both"):
        alone, _ = forward(folder, given, mode=mode)
        for streaming in ("plain", "stream"):
            found, _ = forward(folder, given, mode=mode, streaming=streaming, batch=3)
            assert changed(alone, found) == 0
            for one, other in zip(alone, found, strict=True):
                assert np.array_equal(np.sort(one.ids_TLK), np.sort(other.ids_TLK))
                assert (one.live_TLK is None) == (other.live_TLK is None)
                if one.live_TLK is not None:
                    assert np.array_equal(one.forced_TL, other.forced_TL)


@pytest.mark.parametrize("name", ["qwen3_moe", "gemma4"])
def test_logprobs_and_inputs_are_of_the_sequence(name, tmp_path):
    """Log-probabilities and router inputs are those of each sequence, to float32 rounding."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(*LENGTHS, 5)
    options = {"want_logprobs": True, "want_inputs": True}
    alone, prepared = forward(folder, inputs, **options)
    for streaming in ("plain", "stream"):
        found, _ = forward(folder, inputs, **options, streaming=streaming, batch=2)
        for one, other in zip(alone, found, strict=True):
            assert np.allclose(one.logprobs_G, other.logprobs_G, rtol=0, atol=2e-4)
            for layer in prepared.layers:
                assert torch.allclose(one.inputs[layer], other.inputs[layer], atol=2e-4)


def test_checked_tokens_are_of_the_first_sample(tmp_path):
    """Of the inputs that routers are checked on, as many are kept as without a batch."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    found, _ = forward(folder, samples(*LENGTHS), check_tokens=5, batch=3)
    assert [tuple(part.shape) for part in found[0].inputs.values()] == [(5, 32)] * 2
    assert [result.inputs for result in found[1:]] == [None, None]


@pytest.mark.parametrize("most", [1, 60, 1000])
def test_passes_hold_whole_batches(most, tmp_path):
    """Passes are cut between batches, padding counted, and change nothing."""
    folder, inputs = checkpoint_of("qwen3_moe", tmp_path), samples(7, 30, 19, 4)
    steps = []
    whole, _ = forward(folder, inputs, batch=2)
    cut, _ = forward(
        folder,
        inputs,
        streaming="stream",
        batch=2,
        max_tokens_per_pass=most,
        on_progress=steps.append,
    )
    for one, other in zip(whole, cut, strict=True):
        assert np.array_equal(one.margins_TL, other.margins_TL)
    assert [step.tokens for step in steps[2::3]] == ([98] if most == 1000 else [60, 98])


def test_no_sequence_of_several_is_left_alone(tmp_path):
    """The last batch has one more where else it would have one; alone, nothing is padded."""
    sizes = {}
    for count in (1, 2, 4, 5, 6, 9, 10):
        inputs = samples(*range(3, 3 + count))
        for size in (1, 4):
            options = RunOptions(checkpoint=tmp_path, batch=size)
            jobs = (j for i, s in enumerate(inputs) for j in make_jobs(s, i, (), options, 128))
            batches = list(pad_together(jobs, size))
            sizes[size, count] = [len(batch.jobs) for batch in batches]
            indices = [job.index for batch in batches for job in batch.jobs]
            assert indices == list(range(count))
            assert all((batch.mask_BS is None) == (len(batch.jobs) == 1) for batch in batches)
    assert all(sizes[1, count] == [1] * count for count in (1, 2, 4, 5, 6, 9, 10))
    four = [sizes[4, count] for count in (1, 2, 4, 5, 6, 9, 10)]
    assert four == [[1], [2], [4], [5], [4, 2], [4, 5], [4, 4, 2]]


def test_a_batch_of_none_is_refused(tmp_path):
    """A batch has at least one sequence."""
    with pytest.raises(ValueError, match="batch must be at least 1: 0"):
        RunOptions(checkpoint=tmp_path, batch=0)
