"""Routes from the inputs of routers: hidden states and the routers' own tensors, no model.

Shape suffixes: T tokens of all samples end to end, L MoE layers, K top_k, D hidden size, E columns
of the logits, V token ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FormatError, MismatchError, UnsupportedError
from ...routers.maths import held_matrix, route, router_logits, select, selection_scores
from ...routers.recipe import Recipe
from ...routers.top_k import top_k_rows
from ...routes import Routes, ids_dtype

__all__ = ["InputRoutes", "LayerRouter", "check_router", "replay_inputs"]

CHUNK_BYTES = 8 << 20  # of one chunk's hidden states in float32; larger ones leave the cache


@dataclass(frozen=True, slots=True, eq=False)
class LayerRouter:
    """One layer's router, as stored, on the device that is to compute.

    weight_ED       the router's matrix.
    linear_bias_E   the bias of its product, or None.
    expert_bias_E   the bias of the selection, or None.
    table_VK        the experts of each token id, of a layer that selects by table, or None.
    expert_scale_E  the factor per expert on the weights, or None.
    predictor_DE    float32, what is added to the logits of a hidden state h as h W (PR2's W_p), in
                    float32, before they are rounded to their own dtype again; or None.
    """

    weight_ED: Tensor
    linear_bias_E: Tensor | None = None
    expert_bias_E: Tensor | None = None
    table_VK: Tensor | None = None
    expert_scale_E: Tensor | None = None
    predictor_DE: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InputRoutes:
    """One sample's routes, and how near each was to another.

    routes           ids in score order; ids of zero and skip experts are E and up, and count in
                     ``routes.num_experts``.
    margin_TL        float32, the K-th minus the (K+1)-th selection score; 0 only for a tie.
    group_margin_TL  float32, the same between kept and dropped groups; None without groups.
    """

    routes: Routes
    margin_TL: NDArray[np.float32]
    group_margin_TL: NDArray[np.float32] | None


def replay_inputs(
    recipe: Recipe,
    routers: Mapping[int, LayerRouter],
    hidden: Mapping[int, Tensor],
    *,
    lens: Sequence[int] | None = None,
    token_ids_T: Tensor | None = None,
    starts: Sequence[int] | None = None,
) -> list[InputRoutes]:
    """The routes that a checkpoint's routers give for dumped router inputs, sample by sample.

    ``hidden`` maps 0-based layers to hidden states [T, D], as the routers were given them; a layer
    is fetched once and then let go, so a lazy mapping needs the memory of one. ``routers`` may hold
    more layers. ``lens`` are the samples' tokens (default: one sample of all T), ``starts`` the
    positions of their first rows (default 0). ``token_ids_T`` is needed by hash layers only.
    Beside one layer's inputs, chunks of some 30 MB and the result are held. A product rounds
    otherwise in chunks of other sizes (float32: the last bits), so margins near 0 mean near-ties.

    Raises MismatchError where layers, sizes or lengths do not fit, FormatError where a hidden state
    is not a number, UnsupportedError where a product alone does not give the logits. Source of the
    maths: that of the recipe.
    """
    if recipe.logits_gap:
        raise UnsupportedError(f"router inputs: no logits of {recipe.family}: {recipe.logits_gap}")
    layers_L = tuple(sorted(hidden))
    if not layers_L:
        raise MismatchError("router inputs: no layer: got none, expected at least one")
    if missing := [layer for layer in layers_L if layer not in routers]:
        raise MismatchError(f"router inputs: no router of layer {missing[0]}: got {_list(routers)}")
    filled: _Filled | None = None
    for column, layer in enumerate(layers_L):
        states_TD = hidden[layer]
        if filled is None:
            filled = _Filled(recipe, states_TD.shape[0], len(layers_L))
        check_router(recipe, routers[layer], states_TD, layer, filled.tokens)
        for rows, got in _selections(recipe.at(layer), routers[layer], states_TD, token_ids_T):
            if got.margin_T.isnan().any():
                row = rows.start + int(got.margin_T.isnan().nonzero()[0])
                raise FormatError(
                    f"router inputs: layer {layer}, row {row}: not finite: got NaN scores, "
                    "expected hidden states that are numbers"
                )
            filled.put(rows, column, got)
    assert filled is not None
    lens = [filled.tokens] if lens is None else lens
    starts = [0] * len(lens) if starts is None else starts
    if sum(lens) != filled.tokens or min(lens, default=0) < 1 or len(starts) != len(lens):
        raise MismatchError(
            f"router inputs: lengths do not fit: got {len(lens)} samples of {sum(lens)} tokens and "
            f"{len(starts)} starts, expected {filled.tokens} tokens"
        )
    return list(filled.samples(layers_L, lens, starts))


class _Filled:
    """The arrays of all samples end to end, filled chunk by chunk."""

    def __init__(self, recipe: Recipe, tokens: int, layers: int) -> None:
        self.tokens, self.columns = tokens, recipe.columns
        shape = (tokens, layers)
        self.ids_TLK = np.zeros((*shape, recipe.top_k), ids_dtype(recipe.columns))
        self.margin_TL = np.zeros(shape, np.float32)
        self.group_TL = np.zeros(shape, np.float32) if recipe.grouped else None

    def put(self, rows: slice, column: int, got: "_Rows") -> None:
        """Write a layer's selections of some tokens."""
        self.ids_TLK[rows, column] = got.ids_TK.cpu().numpy()
        self.margin_TL[rows, column] = got.margin_T.cpu().numpy()
        if self.group_TL is not None:
            inf = torch.full_like(got.margin_T, torch.inf)  # a hash layer has no groups
            group_T = inf if got.group_margin_T is None else got.group_margin_T
            self.group_TL[rows, column] = group_T.cpu().numpy()

    def samples(
        self, layers_L: tuple[int, ...], lens: Sequence[int], starts: Sequence[int]
    ) -> Iterator[InputRoutes]:
        """Each sample's part, a view."""
        begin = 0
        for length, start in zip(lens, starts, strict=True):
            rows = slice(begin, begin + length)
            group_TL = None if self.group_TL is None else self.group_TL[rows]
            routes = Routes(self.ids_TLK[rows], layers_L, self.columns, start)
            yield InputRoutes(routes, self.margin_TL[rows], group_TL)
            begin += length


def _selections(
    recipe: Recipe, router: LayerRouter, states_TD: Tensor, token_ids_T: Tensor | None
) -> Iterator[tuple[slice, "_Rows"]]:
    """What one layer selects, in chunks whose intermediates are of bounded size."""
    by_table = recipe.select_on == "table"
    if by_table and (token_ids_T is None or router.table_VK is None):
        raise MismatchError("router inputs: no token ids or no table: a hash layer selects by them")
    device = router.weight_ED.device
    router = _widened(recipe, router, states_TD.dtype)
    chunk = max(1, CHUNK_BYTES // (4 * max(states_TD.shape[1], 8 * recipe.columns)))
    for begin in range(0, states_TD.shape[0], chunk):
        rows = slice(begin, min(begin + chunk, states_TD.shape[0]))
        part_TD = states_TD[rows].to(device)
        logits_TE = router_logits(recipe, part_TD, router.weight_ED, router.linear_bias_E)
        if router.predictor_DE is not None:
            shift_TE = part_TD.float() @ router.predictor_DE
            logits_TE = (logits_TE.float() + shift_TE).to(logits_TE.dtype)
        if by_table and token_ids_T is not None:
            ids_T = token_ids_T[rows].to(device)
            got = route(recipe, logits_TE, token_ids_T=ids_T, table_VK=router.table_VK)
            nan_T = logits_TE.isnan().any(-1)
            yield rows, _Rows(got.ids_TK, got.margin_T.masked_fill(nan_T, torch.nan), None)
        else:
            yield rows, _select(recipe, logits_TE, router.expert_bias_E)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    ids_TK: Tensor
    margin_T: Tensor
    group_margin_T: Tensor | None


def _select(recipe: Recipe, logits_TE: Tensor, expert_bias_E: Tensor | None) -> _Rows:
    """The selection without its weights; on a CPU by the kernel, which gives the same."""
    bias_E = expert_bias_E if recipe.expert_bias else None
    scores_TE, group_margin_T = selection_scores(recipe, logits_TE, bias_E)
    wide = scores_TE.dtype == torch.float64
    plain = recipe.tie == "lowest" and not recipe.each_group
    if scores_TE.device.type != "cpu" or wide or not plain:
        return _Rows(*select(recipe, scores_TE), group_margin_T)
    scores = scores_TE.detach().float().contiguous().numpy()
    ids_TK, margin_T = top_k_rows(scores, recipe.top_k)
    return _Rows(torch.from_numpy(ids_TK), torch.from_numpy(margin_T), group_margin_T)


def _widened(recipe: Recipe, router: LayerRouter, model: torch.dtype) -> LayerRouter:
    """The router with its matrix in the dtype of the product, converted once for all chunks."""
    weight_ED = held_matrix(recipe, router.weight_ED, model)
    wide = torch.float32 if recipe.logits_dtype.startswith("float32") else None
    wide = torch.float64 if recipe.logits_dtype == "float64" else wide
    return replace(router, weight_ED=weight_ED if wide is None else weight_ED.to(wide))


def check_router(
    recipe: Recipe, router: LayerRouter, states_TD: Tensor, layer: int, tokens: int
) -> None:
    """Raise MismatchError where a layer's router, its hidden states and T do not fit together."""
    place = f"router inputs: layer {layer}"
    weight_ED = router.weight_ED
    if states_TD.ndim != 2 or states_TD.shape[1] != weight_ED.shape[-1]:
        got, expected = list(states_TD.shape), f"[T, {weight_ED.shape[-1]}]"
    elif states_TD.shape[0] != tokens or not tokens:
        got, expected = [states_TD.shape[0]], f"{max(tokens, 1)} tokens, as in the first layer"
    elif weight_ED.shape[0] != recipe.columns:
        got, expected = [weight_ED.shape[0]], f"{recipe.columns} rows of the router's weight"
    else:
        at = recipe.at(layer)
        shift, fits = router.predictor_DE, tuple(reversed(weight_ED.shape))
        if shift is not None and tuple(shift.shape) != fits:
            raise MismatchError(
                f"{place}: predictor does not fit: got {list(shift.shape)}, expected {list(fits)}"
            )
        _check_bias(f"{place}: linear bias", router.linear_bias_E, at.linear_bias, recipe.columns)
        if at.expert_bias:  # a hash layer may hold one that it does not use
            _check_bias(f"{place}: expert bias", router.expert_bias_E, True, recipe.columns)
        return
    raise MismatchError(f"{place}: sizes do not fit: got {got}, expected {expected}")


def _check_bias(place: str, bias_E: Tensor | None, wanted: bool, columns: int) -> None:
    """Refuse a bias that is missing, one too many, or of another size."""
    got = "none" if bias_E is None else str(list(bias_E.shape))
    expected = f"[{columns}]" if wanted else "none"
    if got != expected:
        raise MismatchError(f"{place} does not fit: got {got}, expected {expected}")


def _list(routers: Mapping[int, LayerRouter]) -> str:
    return f"layers {', '.join(map(str, sorted(routers)))}" if routers else "no routers"
