"""Replayed experts that later weights find implausible, and a filter would replace.

A slot is replaced where the score of its expert is less than some ratio of the score of the weakest
expert that the router itself selects. Source: ``router_replay_score_threshold_ratio`` and
``router_replay_replace_rate`` of prime-rl (pull request 2703), after Composer 2, arXiv 2603.24477.
Shape suffixes: T tokens, L MoE layers, K top_k, E columns of the logits, R ratios.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...routers.maths import gate_logprobs
from ...routers.recipe import Recipe
from ...routes import Bools, Ids
from .predict import RoutedVersion
from .scores import RATIOS, Replaced

__all__ = ["replaced_slots"]


@torch.no_grad()
def replaced_slots(
    recipe: Recipe,
    version: RoutedVersion,
    routes: tuple[Ids, Ids],
    layers_L: Sequence[int],
    rows_T: Bools,
) -> Replaced:
    """Hold replayed routes [T, L, K] against a version's scores; ``routes`` are these and its own.

    rows_T, bool, are the rows that count. Scores are those of the router's score function, without
    the bias of a selection; their sum cancels. Memory: a few times [T, E], one layer at a time.
    """
    replayed_TLK, own_TLK = (torch.from_numpy(ids[rows_T].astype(np.int64)) for ids in routes)
    kept_T = torch.from_numpy(rows_T)
    found = np.zeros((len(RATIOS), len(layers_L)), np.int64)
    for column, layer in enumerate(layers_L):
        logprobs_TE = gate_logprobs(recipe, version.logits(recipe, layer)).cpu()[kept_T]
        weakest_T = logprobs_TE.gather(1, own_TLK[:, column]).amin(dim=1)
        behind_TK = logprobs_TE.gather(1, replayed_TLK[:, column]) - weakest_T[:, None]
        for n, ratio in enumerate(RATIOS):
            found[n, column] = int((behind_TK < math.log(ratio)).sum())
    return Replaced(int(replayed_TLK.shape[0] * replayed_TLK.shape[2]), found)
