"""Recorded engine routes reproduced from their checkpoints, by plain and streamed runs.

deepseek_v3's weights are in the fixtures; those of qwen3_moe are too large for them: its tests skip
unless ROUTECTL_CHECKPOINTS names a folder that has them.
"""

import numpy as np
import pytest
import torch

from routectl import open_dump
from support.forwards import forward, load, real_checkpoint
from support.recordings import FIXTURES

pytestmark = pytest.mark.models

EAGER = {"attention": "eager", "experts": "eager"}
FLOAT32 = {
    "deepseek_v3": ("vllm-0.32.0",),
    "qwen3_moe": ("vllm-0.32.0", "sglang-0.5.23"),
}
RATES = {  # of mismatched rows, bf16 engine against float32 transformers, and rows compared
    ("vllm-0.32.0", "deepseek_v3"): (0.1786, 22_444),
    ("vllm-0.32.0", "qwen3_moe"): (0.1016, 35_424),
    ("sglang-0.5.23", "qwen3_moe"): (0.1317, 33_570),
    ("vllm-0.32.0", "qwen3_moe_soft"): (0.0732, 45_120),
    ("sglang-0.5.23", "qwen3_moe_soft"): (0.0658, 45_144),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that gives a checkpoint's folder, or skips."""
    found = {}

    def folder_of(name):
        if name not in found:
            found[name] = real_checkpoint(name, tmp_path_factory)
        if found[name] is None:
            pytest.skip(f"{name} is not in ROUTECTL_CHECKPOINTS")
        return found[name]

    return folder_of


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


def recorded(engine, model, dtype):
    """The samples of a recording that have routes."""
    dump = open_dump(FIXTURES / "recordings" / engine / f"{model}.{dtype}.grpo").held()
    return [sample for sample in dump if sample.routes is not None]


def mismatches(samples, results):
    """Rows whose sets differ, and rows: an engine's rows are those of all tokens but the last."""
    wrong = rows = 0
    for sample, result in zip(samples, results, strict=True):
        routes = sample.routes
        theirs_TLK = np.sort(routes.ids_TLK, 2)
        ours_TLK = np.sort(result.ids_TLK[routes.start : routes.stop], 2)
        wrong += int((theirs_TLK != ours_TLK).any(2).sum())
        rows += ours_TLK.shape[0] * ours_TLK.shape[1]
    return wrong, rows


@pytest.mark.parametrize("streaming", ["plain", "stream"])
@pytest.mark.parametrize(
    ("model", "engine"), [(model, engine) for model, all_ in FLOAT32.items() for engine in all_]
)
def test_float32_dumps_are_reproduced_to_the_last_row(model, engine, streaming, checkpoints):
    """A float32 engine took the same sets in every row; log-probabilities agree."""
    folder, samples = checkpoints(model), recorded(engine, model, "fp32")
    results, _ = forward(
        folder, samples, dtype="float32", streaming=streaming, want_logprobs=True, **EAGER
    )
    wrong, rows = mismatches(samples, results)
    assert (wrong, rows > 20_000) == (0, True)
    for sample, result in zip(samples, results, strict=True):
        assert np.abs(result.logprobs_G - sample.logprobs).max() < 5e-3


@pytest.mark.parametrize(("engine", "model"), RATES)
def test_bfloat16_dumps_give_the_recorded_rates(engine, model, checkpoints):
    """Rows of a bf16 engine that differ from float32 routes: the rate of an independent script."""
    folder, samples = checkpoints(model), recorded(engine, model, "bf16")
    results, _ = forward(folder, samples, dtype="float32", streaming="plain", **EAGER)
    wrong, rows = mismatches(samples, results)
    rate, all_rows = RATES[engine, model]
    assert rows == all_rows
    assert round(wrong / rows, 4) == rate


def logprobs_of(model, sample):
    """Log-probabilities of a sample's response, as transformers' own model has them here."""
    ids_T = torch.from_numpy(sample.token_ids.astype(np.int64))
    with torch.no_grad():
        logits_TV = model(ids_T[None]).logits[0]
    made = slice(sample.prompt_length - 1, len(ids_T) - 1)
    chosen_TV = logits_TV[made].float().log_softmax(-1)
    return chosen_TV.gather(1, ids_T[sample.prompt_length :, None])[:, 0].numpy()


def test_routes_are_those_that_transformers_recorded(checkpoints):
    """Ids of the fixture that an independent script made of the same tokens, row by row.

    Log-probabilities are held against transformers on this processor, and against the recording to
    what this processor's float32 differs by from the recording's: transformers says how much.
    """
    folder, samples = checkpoints("deepseek_v3"), recorded("vllm-0.32.0", "deepseek_v3", "fp32")
    results, _ = forward(
        folder, samples, dtype="float32", streaming="stream", want_logprobs=True, **EAGER
    )
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = load(folder, torch.float32, "deepseek_v3", **eager)
    with np.load(FIXTURES / "hf" / "vllm.deepseek_v3.fp32.npz") as file:
        for number, result in enumerate(results):
            ids_TLK = file[f"{number:03}.routed_experts"]
            assert np.array_equal(np.sort(result.ids_TLK, 2), np.sort(ids_TLK, 2))
            here_G = logprobs_of(model, samples[number])
            # Either is up to 2.9e-5 from transformers' float64, by rounding (5.23 and 5.24).
            assert np.abs(result.logprobs_G - here_G).max() < 5e-6
            logprobs_G = file[f"{number:03}.logprobs"]
            processor = np.abs(here_G - logprobs_G).max()
            assert np.abs(result.logprobs_G - logprobs_G).max() < 1e-5 + processor


def test_margins_of_both_kinds_explain_the_first_layer(checkpoints):
    """Where vLLM in bf16 was fed the same tokens, its groups of experts flip at wide boundary
    margins, as bugs do; with group margins all 192 mismatched rows are within some bf16 steps.
    """
    folder, samples = checkpoints("deepseek_v3"), recorded("vllm-0.32.0", "deepseek_v3", "bf16")
    results, _ = forward(folder, samples, dtype="float32", streaming="plain", **EAGER)
    boundary, least = [], []
    for sample, result in zip(samples, results, strict=True):
        held = slice(sample.routes.start, sample.routes.stop)
        theirs_TK, ours_TK = sample.routes.ids_TLK[:, 0], result.ids_TLK[held, 0]
        wrong_T = (np.sort(theirs_TK) != np.sort(ours_TK)).any(1)
        both = result.margins_TL[held, 0][wrong_T], result.group_margins_TL[held, 0][wrong_T]
        boundary.extend(both[0].tolist())
        least.extend(np.minimum(*both).tolist())
    assert len(least) == 192
    assert (np.array(boundary) > 0.02).sum() > 50
    assert max(boundary) > 0.2
    assert max(least) < 0.02
