"""PR2's predictor: where a router will send tokens after updates, from its inputs of today.

One matrix W_p [D, E] a layer, beginning at zero: rho = softmax(p_old + h_old W_p), close in KL to
the distribution of later routers on their own hidden states. Source: PR2, arXiv 2606.00395.
Shape suffixes: T tokens of all sequences, D hidden size, E columns of the logits.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import FormatError, MismatchError
from ...routers.maths import router_logits
from ...routers.recipe import Recipe
from .replay_inputs import LayerRouter, check_router
from .rows import RowSplit

__all__ = [
    "LayerFit",
    "RoutedVersion",
    "extrapolated",
    "fit_layer",
    "fit_predictor",
    "router_digest",
]

RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # from stiff to loose, each begun at the one before
STEPS = 100


@dataclass(frozen=True, slots=True, eq=False)
class RoutedVersion:
    """A version's routers by layer, and the hidden states [T, D] that they are given there.

    hidden may be lazy: a layer is fetched and let go. All versions are of the same T tokens.
    """

    name: str
    routers: Mapping[int, LayerRouter]
    hidden: Mapping[int, Tensor]

    def logits(self, recipe: Recipe, layer: int) -> Tensor:
        """Router logits [T, E] in float32, on the device of the router."""
        router = self.routers[layer]
        states_TD = self.hidden[layer].to(router.weight_ED.device)
        logits_TE = router_logits(recipe, states_TD, router.weight_ED, router.linear_bias_E)
        if not logits_TE.isfinite().all():
            raise FormatError(
                f"router inputs of {self.name}: layer {layer}: not finite: got NaN or infinite "
                "logits, expected hidden states that are numbers"
            )
        return logits_TE.float()


@dataclass(frozen=True, slots=True, eq=False)
class LayerFit:
    """One layer's predictor, and what it does to the mean KL of later routers, in nats.

    weight_DE   float32 [D, E], on the CPU; zero where no ridge helped rows that were not fitted on.
    ridge       the penalty that was chosen; None for the zero predictor.
    kl_frozen, kl                of frozen and of predicted routers, on the fitted rows.
    choose_kl_frozen, choose_kl  the same on the rows by which the ridge was chosen, before those
                                 were fitted on, too.
    """

    weight_DE: Tensor
    ridge: float | None
    kl_frozen: float
    kl: float
    choose_kl_frozen: float
    choose_kl: float


def router_digest(routers: Mapping[int, LayerRouter]) -> str:
    """BLAKE2b-128, in hex, of what routers select by: weights and biases as they are given."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in sorted(routers):
        router = routers[layer]
        for part in (router.weight_ED, router.linear_bias_E, router.expert_bias_E):
            digest.update(f"{layer} {'-' if part is None else part.dtype}".encode())
            if part is not None:
                digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extrapolated(
    previous: Mapping[int, LayerRouter], old: Mapping[int, LayerRouter], k: float
) -> dict[int, LayerRouter]:
    """Each router as old + k (old - previous): its weight, its linear bias and its expert bias.

    Computed in float32 and rounded to old's dtypes. Raises MismatchError for other layers or sizes.
    """

    def ahead(before: Tensor | None, now: Tensor | None) -> Tensor | None:
        if before is None or now is None or before.shape != now.shape:
            if before is None and now is None:
                return None
            raise MismatchError(f"layer {layer}: the previous version's router is of another shape")
        moved = now.float() + k * (now.float() - before.float())
        return moved.to(now.dtype)

    found = {}
    for layer, now in old.items():
        if layer not in previous:
            raise MismatchError(f"layer {layer}: the previous version has no router there")
        then = previous[layer]
        weight_ED = ahead(then.weight_ED, now.weight_ED)
        assert weight_ED is not None
        found[layer] = replace(
            now,
            weight_ED=weight_ED,
            linear_bias_E=ahead(then.linear_bias_E, now.linear_bias_E),
            expert_bias_E=ahead(then.expert_bias_E, now.expert_bias_E),
        )
    return found


def fit_predictor(
    recipe: Recipe,
    old: RoutedVersion,
    later: Sequence[RoutedVersion],
    split: RowSplit,
    *,
    on_layer: Callable[[int], None] | None = None,
) -> dict[int, LayerFit]:
    """The predictor of every layer that selects by logits, least in mean KL to the later versions.

    The mean KL to several distributions differs from the KL to their mean by a constant, so that is
    what is fitted. Memory: one layer's hidden states, and a few times [T, E], on the routers'
    device. ``on_layer`` is called with T after each. Raises MismatchError where layers or sizes do
    not fit, FormatError where a hidden state is not a number.
    """
    layers = [layer for layer in sorted(old.hidden) if layer not in recipe.hash_layers]
    if not layers:
        raise MismatchError("router inputs: no layer selects by logits: nothing to predict")
    tokens = len(split.fit_T)
    found = {}
    for layer in layers:
        for version in (old, *later):
            if layer not in version.hidden or layer not in version.routers:
                raise MismatchError(f"version {version.name}: no layer {layer}, which others have")
            router, states_TD = version.routers[layer], version.hidden[layer]
            check_router(recipe, router, states_TD, layer, tokens)
        device = old.routers[layer].weight_ED.device
        states_TD = old.hidden[layer].to(device, torch.float32)
        target_TE = torch.zeros((), dtype=torch.float64, device=device)
        for version in later:
            rho_TE = version.logits(recipe, layer).double().softmax(-1).to(device)
            target_TE = target_TE + rho_TE / len(later)
        found[layer] = fit_layer(states_TD, old.logits(recipe, layer), target_TE, split)
        if on_layer is not None:
            on_layer(tokens)
    return found


def fit_layer(states_TD: Tensor, logits_TE: Tensor, target_TE: Tensor, split: RowSplit) -> LayerFit:
    """One layer's predictor: hidden states and logits of the old version, later distributions.

    Of some ridges that is chosen whose fit on ``fit_T`` is the best on ``choose_T``, freezing
    included; the predictor is then fitted on both.
    """
    device = states_TD.device
    fit_T, choose_T = (
        torch.from_numpy(rows_T).to(device) for rows_T in (split.fit_T, split.choose_T)
    )
    fitted = _Rows(states_TD[fit_T], logits_TE[fit_T].double(), target_TE[fit_T])
    judged = _Rows(states_TD[choose_T], logits_TE[choose_T].double(), target_TE[choose_T])
    zero_DE = torch.zeros(states_TD.shape[1], logits_TE.shape[1], device=device)
    frozen = float(judged.kl(zero_DE))
    best, ridge, weight_DE = frozen, None, zero_DE
    for candidate in RIDGES:
        weight_DE = fitted.minimise(candidate, weight_DE)
        reached = float(judged.kl(weight_DE))
        if reached < best:
            best, ridge = reached, candidate
    both = _Rows(*(torch.cat(pair) for pair in zip(fitted.parts, judged.parts, strict=True)))
    weight_DE = zero_DE if ridge is None else both.minimise(ridge, zero_DE)
    kl_frozen, kl = float(both.kl(zero_DE)), float(both.kl(weight_DE))
    return LayerFit(weight_DE.cpu(), ridge, kl_frozen, kl, frozen, best)


class _Rows:
    """The rows of one fit: float32 hidden states, float64 logits and target distributions."""

    def __init__(self, states_TD: Tensor, logits_TE: Tensor, target_TE: Tensor) -> None:
        self.parts = states_TD, logits_TE, target_TE
        self._entropy: Tensor = torch.special.entr(target_TE).sum(-1).mean()

    def kl(self, weight_DE: Tensor) -> Tensor:
        """The mean of KL(target || softmax(logits + states weight)), float64."""
        states_TD, logits_TE, target_TE = self.parts
        log_rho_TE = (logits_TE + (states_TD @ weight_DE).double()).log_softmax(-1)
        cross: Tensor = (target_TE * log_rho_TE).sum(-1).mean()
        return -cross - self._entropy

    def minimise(self, ridge: float, start_DE: Tensor) -> Tensor:
        """The weight [D, E] that minimises kl + ridge s / 2 |W|^2, s the mean square of a state.

        Convex, with one minimum; L-BFGS in coordinates in which states are nearly white.
        """
        states_TD = self.parts[0]
        tokens = states_TD.shape[0]
        penalty = ridge * float(states_TD.square().mean().clamp(min=1e-30))
        moment_DD = (states_TD.T @ states_TD).double() / tokens
        scaled_DD = moment_DD / start_DE.shape[1]
        scaled_DD.diagonal().add_(penalty)
        upper_DD = torch.linalg.cholesky(scaled_DD).T.contiguous()
        white_DE = (upper_DD @ start_DE.double()).requires_grad_()

        def weight() -> Tensor:
            solved: Tensor = torch.linalg.solve_triangular(upper_DD, white_DE, upper=True)
            return solved

        optimizer = torch.optim.LBFGS(
            [white_DE],
            max_iter=STEPS,
            history_size=20,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-9,
            tolerance_change=1e-14,
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            weight_DE = weight()
            loss = self.kl(weight_DE.float()) + penalty / 2 * weight_DE.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return weight().float().contiguous()
