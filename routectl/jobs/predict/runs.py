"""What ``routectl predict`` does: fit a predictor, judge it, write predicted routes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MismatchError
from ..progress import Progress, tokens_rate
from ..recompute.router_inputs import TOKENS, input_meta, input_samples

if TYPE_CHECKING:
    from torch import Tensor

    from ...checkpoints.predictor import Predictor
    from ...checkpoints.router_inputs import RouterInputs
    from ...ops.predict.predict import RoutedVersion
    from ...ops.predict.replay_inputs import LayerRouter
    from ...ops.predict.rows import Digests
    from ...ops.predict.scores import PredictionScores
    from ...routes import Ids
    from .versions import OpenVersion, OpenVersions

__all__ = ["emit_predicted", "fit_versions", "judge_versions"]


def fit_versions(
    versions: "OpenVersions",
    hidden: "RouterInputs",
    later: "Sequence[RoutedVersion]",
    progress: Progress,
) -> "Predictor":
    """A predictor fitted on part of the sequences, from the old version to all later ones."""
    from ...checkpoints.predictor import Predictor, PredictorFacts, PredictorLayer
    from ...ops.predict.predict import RoutedVersion, fit_predictor
    from ...ops.predict.rows import count_sequences, split_rows

    prefixes_T, lens = _prefixes(hidden)
    split = split_rows(prefixes_T, lens)
    old = versions.old
    states = RoutedVersion(old.name, old.routers, hidden)
    with progress.counting("fitting", len(hidden), "layers", tokens_rate) as advance:
        fitted = fit_predictor(old.recipe, states, later, split, on_layer=advance)
    used_T = split.fit_T | split.choose_T
    facts = PredictorFacts(
        family=old.recipe.family,
        old=old.name,
        later=tuple(one.name for one in versions.later),
        routers={one.name: one.digest for one in (old, *versions.later)},
        tokens=int(used_T.sum()),
        sequences=len(lens),
        held=count_sequences(split.held_T, lens),
        layers=tuple(
            PredictorLayer(
                layer, fit.ridge, fit.kl_frozen, fit.kl, fit.choose_kl_frozen, fit.choose_kl
            )
            for layer, fit in fitted.items()
        ),
    )
    weights = {layer: fit.weight_DE for layer, fit in fitted.items()}
    return Predictor(weights, prefixes_T[used_T], facts)


def judge_versions(
    versions: "OpenVersions",
    hidden: "RouterInputs",
    later: "Sequence[RoutedVersion]",
    predictor: "Predictor",
    progress: Progress,
) -> "PredictionScores":
    """Frozen, extrapolated and predicted routes against each later version, on unseen rows."""
    from ...ops.predict.predict import extrapolated
    from ...ops.predict.replaced import replaced_slots
    from ...ops.predict.replay_inputs import replay_inputs
    from ...ops.predict.rows import unseen_rows
    from ...ops.predict.scores import PredictionScores, predictor_scores

    prefixes_T, lens = _prefixes(hidden)
    rows_T = unseen_rows(prefixes_T, predictor.prefixes)
    old, before, recipe = versions.old, versions.previous, versions.old.recipe
    layers = tuple(layer for layer in sorted(hidden) if layer not in recipe.hash_layers)

    def routes(routers: "Mapping[int, LayerRouter]", states: "Mapping[int, Tensor]") -> "Ids":
        part = {layer: states[layer] for layer in layers if layer in states}  # mapped, not read
        return replay_inputs(recipe, routers, part)[0].routes.ids_TLK

    frozen_TLK = routes(old.routers, hidden)
    predicted_TLK = routes(_predicting(old, hidden, predictor), hidden)
    comparisons = []
    with progress.counting("judging", len(later), "versions", tokens_rate) as advance:
        for opened, version in zip(versions.later, later, strict=True):
            lag = opened.number - old.number
            kinds = {"frozen": frozen_TLK}
            if before is not None:
                ahead = extrapolated(
                    before.routers, old.routers, lag / (old.number - before.number)
                )
                kinds["extrapolated"] = routes(ahead, hidden)
            kinds["predicted"] = predicted_TLK
            true_TLK = routes(version.routers, version.hidden)
            if true_TLK.shape != frozen_TLK.shape:
                raise MismatchError(
                    f"version {version.name}: its hidden states are of other tokens"
                )
            scores = predictor_scores(kinds, true_TLK, (version.name, lag), layers, (rows_T, lens))
            of = frozen_TLK, true_TLK
            replaced = replaced_slots(recipe, version, of, layers, rows_T)
            comparisons.append(replace(scores, replaced=replaced))
            advance(len(true_TLK))
    return PredictionScores(
        old.name,
        None if before is None else before.name,
        tuple(comparisons),
        _fitted(versions, predictor),
        int(rows_T.sum()),
        int((~rows_T).sum()),
    )


def emit_predicted(
    inputs: "tuple[OpenVersion, RouterInputs, Predictor]",
    path: Path,
    *,
    force: bool,
    without_tokens: bool = False,
) -> int:
    """Write the predicted routes of router inputs as a native file; returns the samples.

    inputs are the version of the router inputs, these, and the predictor.
    """
    from ...formats.native.container import write_native
    from ...ops.predict.replay_inputs import replay_inputs

    old, hidden, predictor = inputs
    routers = _predicting(old, hidden, predictor)
    found = replay_inputs(
        old.recipe, routers, hidden, lens=hidden.lens, token_ids_T=hidden.token_ids_T
    )
    facts = predictor.facts
    made = {
        "mode": "predicted",
        "version": old.name,
        "predictor": f"{facts.old} to " + ", ".join(facts.later),
    }
    meta = input_meta(old.recipe, hidden, made)
    samples = input_samples(found, hidden)
    if without_tokens:
        samples = (sample.without_tokens() for sample in samples)
    return write_native(samples, meta, path, force=force)


def _prefixes(hidden: "RouterInputs") -> "tuple[Digests, tuple[int, ...]]":
    """Prefix digests of all tokens, and the lengths. Raises MismatchError without token ids."""
    import numpy as np

    from ...ops.predict.rows import prefix_digests

    if hidden.token_ids_T is None or hidden.lens is None:
        raise MismatchError(
            f"{hidden.path}: no token_ids or no cu_seqlens: rows are held out by their tokens",
            hint=TOKENS,
        )
    return prefix_digests(hidden.token_ids_T.numpy().astype(np.int32), hidden.lens), hidden.lens


def _predicting(
    old: "OpenVersion", hidden: "RouterInputs", predictor: "Predictor"
) -> "dict[int, LayerRouter]":
    """The old routers with the predictor's matrices. Raises MismatchError where it is of others."""
    if predictor.facts.family != old.recipe.family:
        raise MismatchError(
            f"predictor: of another family: got {predictor.facts.family}, "
            f"expected {old.recipe.family}"
        )
    routers = dict(old.routers)
    for layer in hidden:
        if layer in old.recipe.hash_layers or layer not in routers:
            continue
        if layer not in predictor.weights:
            raise MismatchError(f"predictor: no layer {layer}: it has {sorted(predictor.weights)}")
        device = routers[layer].weight_ED.device
        routers[layer] = replace(routers[layer], predictor_DE=predictor.weights[layer].to(device))
    return routers


def _fitted(versions: "OpenVersions", predictor: "Predictor") -> tuple[str, ...]:
    """Later versions to whose very routers the predictor was fitted."""
    targets = {predictor.facts.routers[name] for name in predictor.facts.later}
    return tuple(one.name for one in versions.later if one.digest in targets)
