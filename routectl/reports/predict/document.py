"""What `predict` found, as a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from ...checkpoints.predictor import PredictorFacts
from ...ops.predict.scores import RATIOS, Estimate, LagScores, PredictionScores, Replaced
from .schema import (
    FigureEntry,
    PredictDocument,
    PredictionEntry,
    PredictionFigures,
    PredictorEntry,
    ReplaceRate,
)

__all__ = ["prediction_document"]


def prediction_document(
    scores: PredictionScores,
    facts: PredictorFacts,
    inputs: str,
    sources: Mapping[str, str],
    failed: Sequence[tuple[str, str, float]] = (),
) -> PredictDocument:
    """Scores as one JSON document, schema routectl.predict/1.

    ``inputs`` names the old version's router inputs, ``sources`` says where each later version's
    hidden states are from, ``failed`` are crossed thresholds.
    """
    first = scores.comparisons[0]
    return {
        "schema": "routectl.predict/1",
        "inputs": inputs,
        "old": scores.old,
        "previous": scores.previous,
        "later": [
            {
                "version": one.new,
                "lag": one.lag,
                "fitted": one.new in scores.fitted,
                "hidden_states": sources[one.new],
            }
            for one in scores.comparisons
        ],
        "layers": list(first.layers_L),
        "top_k": first.top_k,
        "tokens": scores.tokens,
        "tokens_left_out": scores.left_out,
        "sequences": int((first.rows_S > 0).sum()),
        "predictor": cast("PredictorEntry", asdict(facts)),
        "comparisons": [_comparison(one) for one in scores.comparisons],
        "verdict": {
            "judged": [one.new for one in scores.judged],
            "beats": [one.new for one in scores.beats],
            "failed": [
                {"threshold": text, "version": new, "value": value} for text, new, value in failed
            ],
            "exit_code": int(bool(failed)),
        },
    }


def _comparison(one: LagScores) -> PredictionEntry:
    entry: dict[str, Any] = {
        "version": one.new,
        "lag": one.lag,
        "rows": int(one.rows_S.sum()) * len(one.layers_L),
        **_kinds(one, None),
        "layers": [{"layer": layer, **_kinds(one, layer)} for layer in one.layers_L],
    }
    if one.replaced is not None:
        entry["replaced"] = [_replaced(one.replaced, n) for n in range(len(RATIOS))]
    return cast("PredictionEntry", entry)


def _replaced(found: Replaced, n: int) -> ReplaceRate:
    layers = range(found.replaced_RL.shape[1])
    return {
        "ratio": RATIOS[n],
        "replace_rate": found.rate(n),
        "layers": [found.rate(n, layer) for layer in layers],
    }


def _kinds(one: LagScores, layer: int | None) -> PredictionFigures:
    """The figures of each kind of routes; those against frozen routes for the others alone."""
    found = {kind: _figures(one, kind, layer) for kind in one.kinds}
    return cast("PredictionFigures", found)


def _figures(one: LagScores, kind: str, layer: int | None) -> dict[str, FigureEntry]:
    accuracy, mismatch = one.accuracy(kind, layer), one.mismatch(kind, layer)
    if kind == "frozen":
        return {"accuracy": _figure(accuracy), "mismatch": _figure(mismatch)}
    return {
        "accuracy": _figure(accuracy),
        "gain": _figure(one.gain(kind, layer)),
        "mismatch": _figure(mismatch),
        "removed": _figure(one.removed(kind, layer)),
    }


def _figure(estimate: Estimate) -> FigureEntry:
    found = estimate.interval
    low, high = (None, None) if found is None else (found.low, found.high)
    return {"value": estimate.value, "low": low, "high": high}
