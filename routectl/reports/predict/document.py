"""What `predict` found, as a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...checkpoints.predictor import PredictorFacts
from ...ops.predict.scores import Estimate, LagScores, PredictionScores

__all__ = ["prediction_document"]

_FIGURES = ("accuracy", "gain", "mismatch", "removed")


def prediction_document(
    scores: PredictionScores,
    facts: PredictorFacts,
    inputs: str,
    sources: Mapping[str, str],
    failed: Sequence[tuple[str, str, float]] = (),
) -> dict[str, Any]:
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
        "predictor": asdict(facts),
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


def _comparison(one: LagScores) -> dict[str, Any]:
    return {
        "version": one.new,
        "lag": one.lag,
        "rows": int(one.rows_S.sum()) * len(one.layers_L),
        **_kinds(one, None),
        "layers": [{"layer": layer, **_kinds(one, layer)} for layer in one.layers_L],
    }


def _kinds(one: LagScores, layer: int | None) -> dict[str, Any]:
    """The figures of each kind of routes; those against frozen routes for the others alone."""
    found = {}
    for kind in one.kinds:
        names = _FIGURES if kind != "frozen" else ("accuracy", "mismatch")
        found[kind] = {name: _figure(getattr(one, name)(kind, layer)) for name in names}
    return found


def _figure(estimate: Estimate) -> dict[str, float | None]:
    found = estimate.interval
    low, high = (None, None) if found is None else (found.low, found.high)
    return {"value": estimate.value, "low": low, "high": high}
