"""Routers in plain torch: hidden states to logits, logits to experts, weights and margins.

One function a step, driven by the facts of a Recipe; no family is named here. The steps are those
of the routers of transformers 5.21 to 5.24 and of Megatron-Core 0.16.1, in their order of
operations, so that equal logits give equal bits (tests/routers/test_maths.py,
tests/routers/test_megatron.py).

Shape suffixes: T tokens, D hidden size, E columns of the logits (routed experts, and zero or skip
experts after them), G groups, S experts of a group, K top_k, V token ids.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import UnsupportedError
from .recipe import Recipe

__all__ = [
    "Selection",
    "gate_logprobs",
    "gate_weights",
    "held_matrix",
    "route",
    "router_logits",
    "select",
    "selection_scores",
    "top_k",
]


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a router selects for T tokens.

    scores_TE       what was selected on, biased and masked, in the dtype it was computed in.
    ids_TK          int64, by descending score, equal scores by ascending id.
    weights_TK      of those ids; a recipe with weight_dtype "model" leaves the last cast undone.
    margin_T        float32 (float64 for float64 scores): the K-th minus the (K+1)-th score, 0 only
                    where they are equal, inf where no other expert can be selected.
    group_margin_T  the same between the last kept and the best dropped group; None without groups.
    """

    scores_TE: Tensor
    ids_TK: Tensor
    weights_TK: Tensor
    margin_T: Tensor
    group_margin_T: Tensor | None

    @property
    def tie_T(self) -> Tensor:  # noqa: N802
        """Bool, True where the selection hangs on the order of equal scores."""
        tie_T = self.margin_T == 0
        return tie_T if self.group_margin_T is None else tie_T | (self.group_margin_T == 0)


def held_matrix(recipe: Recipe, weight_ED: Tensor, model: torch.dtype) -> Tensor:
    """A router's stored matrix, or linear bias, as a model of dtype ``model`` holds it.

    Source: transformers 5.21 to 5.24, ``_keep_in_fp32_modules_strict``, which 5.24 has on more
    routers; a matrix that is stored in float32 is rounded by all others.
    """
    return weight_ED.to(model) if recipe.matrix_dtype == "model" else weight_ED


def router_logits(
    recipe: Recipe, hidden_TD: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None
) -> Tensor:
    """Logits [T, E] of hidden states, in the dtype that the recipe's source returns them in.

    ``weight_ED`` and the linear ``bias_E`` are as stored; hidden states are in the model's dtype.
    Raises UnsupportedError where a product alone does not give the logits, ValueError where the
    bias is missing or one too many.
    Source: transformers 5.24.0, ``forward`` of the routers; Megatron-Core 0.16.1,
    ``router_gating_linear``.
    """
    if recipe.logits_gap:
        raise UnsupportedError(f"no logits of {recipe.family}: {recipe.logits_gap}")
    if (bias_E is not None) != recipe.linear_bias:
        raise ValueError(f"linear bias: got {bias_E is not None}, expected {recipe.linear_bias}")
    weight_ED = held_matrix(recipe, weight_ED, hidden_TD.dtype)
    model, wide = hidden_TD.dtype, {"float64": torch.float64}
    wide |= dict.fromkeys(("float32", "float32_then_model"), torch.float32)
    dtype = wide.get(recipe.logits_dtype, weight_ED.dtype)
    bias_E = None if bias_E is None else held_matrix(recipe, bias_E, model).to(dtype)
    logits_TE = F.linear(hidden_TD.to(dtype), weight_ED.to(dtype), bias_E)
    if recipe.logits_dtype == "weight_then_float32":
        logits_TE = logits_TE.float()
    elif recipe.logits_dtype == "float32_then_model":
        logits_TE = logits_TE.to(model)
    if recipe.multiplier != 1:
        logits_TE = logits_TE * recipe.multiplier
    if recipe.softcap:
        logits_TE = torch.tanh(logits_TE / recipe.softcap) * recipe.softcap
    return logits_TE


def route(
    recipe: Recipe,
    logits_TE: Tensor,
    *,
    expert_bias_E: Tensor | None = None,
    token_ids_T: Tensor | None = None,
    table_VK: Tensor | None = None,
    expert_scale_E: Tensor | None = None,
) -> Selection:
    """The experts, weights and margins that a recipe gives for logits.

    ``expert_bias_E`` and ``expert_scale_E`` are as stored; a recipe that selects by table needs
    ``token_ids_T`` and ``table_VK``. Raises ValueError where one of them is missing, one too many,
    or of another shape. NaN logits give NaN margins.
    Source: that of the recipe.
    """
    _check(recipe, logits_TE, expert_bias_E, expert_scale_E)
    if recipe.select_on == "table":
        if token_ids_T is None or table_VK is None:
            raise ValueError("a recipe that selects by table needs token_ids_T and table_VK")
        scores_TE, group_margin_T = _score(recipe, logits_TE), None
        ids_TK = _by_score(scores_TE, table_VK[token_ids_T].long())
        margin_T = torch.full(logits_TE.shape[:1], torch.inf, device=logits_TE.device)
    else:
        scores_TE, group_margin_T = selection_scores(recipe, logits_TE, expert_bias_E)
        ids_TK, margin_T = select(recipe, scores_TE)
    weights_TK = gate_weights(recipe, logits_TE, ids_TK, scores_TE, expert_scale_E)
    return Selection(scores_TE, ids_TK, weights_TK, margin_T, group_margin_T)


def selection_scores(
    recipe: Recipe, logits_TE: Tensor, expert_bias_E: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """What top-k sees: scores or logits, biased, dropped groups masked; and the groups' margin.

    Source: that of the recipe. The margin is None without groups.
    """
    scores_TE = _score(recipe, logits_TE) if recipe.select_on == "scores" else logits_TE
    if recipe.expert_bias:
        assert expert_bias_E is not None
        rounded = recipe.bias_dtype == "bfloat16"
        scores_TE = scores_TE + (expert_bias_E.bfloat16() if rounded else expert_bias_E)
    return _keep_groups(recipe, scores_TE) if recipe.grouped else (scores_TE, None)


def select(recipe: Recipe, scores_TE: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [T, K] by descending selection score and the boundary margin [T], as ``top_k``.

    Where every group gives some experts, the margin is that of the group with the smallest one.
    """
    if not recipe.each_group:
        return top_k(scores_TE, recipe.top_k, recipe.tie)
    size, k = recipe.columns // recipe.n_group, recipe.top_k // recipe.n_group
    ids_RK, margin_R = top_k(scores_TE.reshape(-1, size), k, recipe.tie)
    first_G1 = torch.arange(0, recipe.columns, size, device=scores_TE.device).unsqueeze(-1)
    ids_TK = (ids_RK.reshape(-1, recipe.n_group, k) + first_G1).flatten(-2)
    return _by_score(scores_TE, ids_TK), margin_R.reshape(-1, recipe.n_group).amin(-1)


def top_k(scores_TE: Tensor, k: int, tie: str = "lowest") -> tuple[Tensor, Tensor]:
    """Ids [T, k] by descending score, equal ones by ascending id, and the boundary margin [T].

    ``tie="highest"`` takes the highest ids of equal scores instead. torch.topk leaves both open;
    rows where the boundary is a tie are sorted whole, those with ties above it by their k ids.
    """
    if tie == "highest":
        ids_TK, margin_T = top_k(scores_TE.flip(-1), k)
        return scores_TE.shape[-1] - 1 - ids_TK, margin_T
    values_TK, ids_TK = scores_TE.topk(min(k + 1, scores_TE.shape[-1]), dim=-1)
    equal_TK, ids_TK = values_TK[:, 1:] == values_TK[:, :-1], ids_TK[:, :k]
    boundary_T = equal_TK[:, k - 1 :].any(-1)
    above_T = equal_TK[:, : k - 1].any(-1) & ~boundary_T
    if above_T.any():
        ids_TK[above_T] = _by_score(scores_TE[above_T], ids_TK[above_T])
    if boundary_T.any():
        order_TE = scores_TE[boundary_T].sort(dim=-1, descending=True, stable=True).indices
        ids_TK[boundary_T] = order_TE[:, :k]
    return ids_TK, _margin(values_TK, k)


def gate_weights(
    recipe: Recipe,
    logits_TE: Tensor,
    ids_TK: Tensor,
    scores_TE: Tensor | None = None,
    expert_scale_E: Tensor | None = None,
) -> Tensor:
    """The weights [T, K] of given ids, selected or forced, in the order of the ids.

    ``scores_TE`` are the selection scores where the source takes its weights from them; without
    them (forced ids) no mask applies, as in Megatron-Core's RouterReplay.
    Source: that of the recipe; for forced ids Megatron-Core 0.16.1, ``get_replay_topk``.
    """
    if recipe.score == "sparsemixer":
        return _sparsemixer(recipe, logits_TE, ids_TK)
    late = recipe.select_on == "logits"
    if recipe.weights_of == "selection" and scores_TE is not None:
        weights_TK = scores_TE.gather(-1, ids_TK)
    else:
        weights_TK = (logits_TE if late else _score(recipe, logits_TE)).gather(-1, ids_TK)
    weights_TK = _score(recipe, weights_TK) if late else weights_TK
    if recipe.normalise:
        total_T1 = weights_TK.sum(dim=-1, keepdim=True) + recipe.norm_eps
        weights_TK = weights_TK / total_T1.clamp(min=recipe.norm_min)
    if recipe.mean:
        weights_TK = weights_TK / recipe.top_k
    if recipe.skip_experts:
        weights_TK = weights_TK.masked_fill(ids_TK >= recipe.num_experts, 0)
    if expert_scale_E is not None:
        weights_TK = weights_TK * expert_scale_E[ids_TK]
    weights_TK = weights_TK * recipe.scale
    return weights_TK.to(logits_TE.dtype) if recipe.weight_dtype == "logits" else weights_TK


def gate_logprobs(recipe: Recipe, logits_TE: Tensor) -> Tensor:
    """float32 [T, E], the log of each column's share in the sum of the scores of all columns.

    For softmax, sparsemixer and routers that select by logits that is the log-softmax over all
    columns, however few are selected or within the jitter; for sigmoid and sqrtsoftplus the
    scores divided by their sum. Neither the bias of the selection nor groups have a part in it.
    Source: the router scores of RSPO (arXiv 2510.23027), which are of softmax routers; log of
    scores that add up to 1 is how they extend to others.
    """
    values_TE = logits_TE.float()
    if recipe.score == "sigmoid":
        values_TE = F.logsigmoid(values_TE)
    elif recipe.score == "sqrtsoftplus":
        low_TE = values_TE < -20  # softplus is e^x there, and would underflow further down
        values_TE = torch.where(low_TE, values_TE, F.softplus(values_TE).log()) / 2
    return values_TE.log_softmax(-1)


def _score(recipe: Recipe, logits: Tensor) -> Tensor:
    """The score function over the last axis."""
    values = logits if recipe.score_dtype == "logits" else logits.float()
    if recipe.score == "softmax":
        scores = values.softmax(-1)
    elif recipe.score == "sigmoid":
        scores = values.sigmoid()
    else:
        scores = F.softplus(values).sqrt()
    return scores.to(logits.dtype) if recipe.score_dtype == "rounded" else scores


def _keep_groups(recipe: Recipe, scores_TE: Tensor) -> tuple[Tensor, Tensor]:
    """Scores with dropped groups masked, and the margin between kept and dropped groups."""
    scores_TGS = scores_TE.reshape(scores_TE.shape[0], recipe.n_group, -1)
    if recipe.group_distinct:
        best_TG1 = scores_TGS.amax(-1, keepdim=True)
        others_TGS = scores_TGS.masked_fill(scores_TGS >= best_TG1, -torch.inf)
        group_TG = best_TG1.squeeze(-1) + others_TGS.amax(-1)
    else:
        group_TG = scores_TGS.topk(recipe.group_best, dim=-1).values.sum(-1)
    kept_TK, margin_T = top_k(group_TG, recipe.topk_group, recipe.tie)
    dropped_TG = torch.ones_like(group_TG, dtype=torch.bool).scatter(-1, kept_TK, False)
    filler = 0.0 if recipe.group_mask == "zero" else -torch.inf
    return scores_TGS.masked_fill(dropped_TG.unsqueeze(-1), filler).flatten(-2), margin_T


def _sparsemixer(recipe: Recipe, logits_TE: Tensor, ids_TK: Tensor) -> Tensor:
    """Each expert's softmax among those that are left and within 2 x jitter of the best of them.

    Source: transformers 5.23.0, models/phimoe, ``sparsemixer`` in eval mode.
    """
    left_TE, weights = logits_TE, []
    for ids_T1 in torch.tensor_split(ids_TK, recipe.top_k, dim=-1):
        best_T1 = left_TE.amax(-1, keepdim=True)
        far_TE = (best_T1 - logits_TE) / logits_TE.abs().clamp(min=best_T1) > 2 * recipe.jitter
        near_TE = left_TE.masked_fill(far_TE, -torch.inf)
        weights.append(near_TE.softmax(-1).gather(-1, ids_T1))
        left_TE = left_TE.scatter(-1, ids_T1, -torch.inf)
    return torch.cat(weights, dim=-1)


def _by_score(scores_TE: Tensor, ids_TK: Tensor) -> Tensor:
    """Ids by descending score, equal ones by ascending id."""
    ids_TK = ids_TK.sort(dim=-1).values
    order_TK = scores_TE.gather(-1, ids_TK).sort(dim=-1, descending=True, stable=True).indices
    return ids_TK.gather(-1, order_TK)


def _margin(values_TK: Tensor, k: int) -> Tensor:
    """The k-th minus the next of descending values; equal infinities have margin 0."""
    values_TK = values_TK if values_TK.dtype == torch.float64 else values_TK.float()
    if values_TK.shape[-1] == k:
        return torch.full_like(values_TK[:, 0], torch.inf)
    last_T, next_T = values_TK[:, k - 1], values_TK[:, k]
    return torch.where(last_T == next_T, 0.0, last_T - next_T)


def _check(
    recipe: Recipe, logits_TE: Tensor, expert_bias_E: Tensor | None, expert_scale_E: Tensor | None
) -> None:
    """Refuse what does not fit the recipe."""
    if logits_TE.ndim != 2 or logits_TE.shape[1] != recipe.columns:
        raise ValueError(f"logits_TE must be [T, {recipe.columns}], got {tuple(logits_TE.shape)}")
    for name, given, wanted in (
        ("expert_bias_E", expert_bias_E, recipe.expert_bias),
        ("expert_scale_E", expert_scale_E, recipe.expert_scale),
    ):
        if (given is not None) != wanted:
            raise ValueError(f"{name}: got {given is not None}, expected {wanted}")
        if given is not None and given.shape != (recipe.columns,):
            raise ValueError(f"{name} must be [{recipe.columns}], got {tuple(given.shape)}")
