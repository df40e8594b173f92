"""Figures that verl logs too, held against verl's own functions, run here on the same numbers."""

import functools
import logging
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest

from routectl.ops.diff.diff import diff
from routectl.ops.diff.logprobs import LOGPROB_METRICS, LogprobCounts
from routectl.ops.diff.measures import layer_measures
from support.dumps import make_dump, make_routes, make_sample
from support.foreign import HAVE_VERL, definitions

pytestmark = [
    pytest.mark.trainers,
    pytest.mark.skipif(not HAVE_VERL, reason="verl is not installed"),
]
torch = pytest.importorskip("torch")
LENGTHS = (7, 12, 3, 12)  # of responses


@pytest.fixture(name="logprobs", scope="module")
def logprobs_():
    """(rollout, trainer, mask): float64 [B, G] of responses of some lengths, padded."""
    draws = np.random.default_rng(20)
    mask = torch.tensor([[g < n for g in range(12)] for n in LENGTHS])
    rollout = torch.from_numpy(-draws.exponential(2.0, mask.shape))
    trainer = rollout + torch.from_numpy(draws.normal(0, 0.3, mask.shape))
    trainer[1, 3] = rollout[1, 3]  # an equal one
    trainer[0, 0] = rollout[0, 0] - 25.0  # beyond verl's bounds
    return rollout, torch.clamp(trainer, max=-1e-3), mask


def ours(logprobs):
    """Every figure of these tokens, by the name of its threshold."""
    rollout, trainer, mask = logprobs
    sums = LogprobCounts.of_tokens(rollout[mask].numpy(), trainer[mask].numpy())
    return {metric.name: metric.of(sums) for metric in LOGPROB_METRICS}


@functools.cache
def masked():
    """verl's masked mean and sum."""
    path, names = "utils/torch_functional.py", ("masked_sum", "masked_mean")
    return definitions("verl", path, names, {"torch": torch})


def test_chi2_and_kl_are_those_of_rollout_corr(logprobs):
    """k1, k3 and chi2 are kl, k3_kl and chi2_token of verl's compute_offpolicy_metrics."""
    path, given = "trainer/ppo/rollout_corr_helper.py", {"torch": torch, "verl_F": masked()}
    given |= {"Any": Any, "Optional": Optional, "SAFETY_BOUND": 20.0}  # its constant
    verl = definitions("verl", path, ("compute_offpolicy_metrics",), given)
    rollout, trainer, mask = logprobs
    theirs, found = verl.compute_offpolicy_metrics(trainer, rollout, mask), ours(logprobs)
    for name, key in (("k1", "kl"), ("k3", "k3_kl"), ("chi2", "chi2_token")):
        assert found[name] == pytest.approx(theirs[key], rel=1e-7), name


def test_stable_k3_is_low_var_kl(logprobs):
    """Stable k3 is the mean of verl's low_var_kl, whose bounds a token here is beyond."""
    path, given = "trainer/ppo/core_algos.py", {"torch": torch}
    verl = definitions("verl", path, ("kl_penalty_forward",), given)
    rollout, trainer, mask = logprobs
    low = torch.where(mask, verl.kl_penalty_forward(rollout, trainer, "low_var_kl"), 0.0)
    assert low.max() == 10
    assert ours(logprobs)["k3_stable"] == pytest.approx(float(low.sum() / mask.sum()))


def test_correlation_is_that_of_verls_debug_metrics(logprobs):
    """pearson_probs is rollout_actor_probs_pearson_corr: verl correlates probabilities."""
    names = ("pearson_correlation_coefficient", "calculate_log_prob_diff")
    names = (*names, "calculate_debug_metrics")
    given = {"torch": torch, "DataProto": None, "logger": logging.getLogger("verl")}
    verl = definitions("verl", "utils/debug/metrics.py", names, given)
    rollout, trainer, mask = logprobs
    batch = {"rollout_log_probs": rollout, "old_log_probs": trainer}
    batch |= {"response_mask": mask.long(), "responses": torch.zeros(mask.shape)}
    theirs = verl.calculate_debug_metrics(SimpleNamespace(batch=batch))
    expected = theirs["training/rollout_actor_probs_pearson_corr"]
    assert ours(logprobs)["pearson_probs"] == pytest.approx(expected, rel=1e-9)
    assert ours(logprobs)["pearson"] != pytest.approx(expected, rel=1e-3)


def test_violations_are_those_of_moe_lb_metrics():
    """max, min and mean violation of each layer are verl's rollout/moe/*_vio/layer_i."""
    name = "_compute_rollout_moe_load_balance_metrics_from_counts"
    given = {"torch": torch, "Any": Any}
    verl = definitions("verl", "trainer/ppo/metric_utils.py", (name,), given)
    ids = np.random.default_rng(3).permuted(np.tile(np.arange(4), (9, 3, 1)), axis=2)[:, :, :2]
    dump = make_dump([make_sample(make_routes(ids.tolist()), "a", [1, 2], [3])])
    counts = diff(dump, dump).counts
    theirs = getattr(verl, name)(torch.from_numpy(counts.load_old_LE))
    for i, one in enumerate(layer_measures(counts, dump.meta.layers_L)):
        for kind in ("max", "min", "avg"):
            expected = theirs[f"rollout/moe/{kind}_vio/layer_{i}"]
            assert getattr(one.vio_old, kind) == pytest.approx(expected, abs=1e-6)
