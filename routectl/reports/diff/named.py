"""The figure of a comparison's document that a threshold or a scalar names."""

from collections.abc import Mapping
from typing import Any

from ...ops.diff.metrics import Metric

__all__ = ["figure_of"]


def figure_of(found: Mapping[str, Any], metric: Metric) -> Any:
    """A metric of a comparison, or of the entry of one of its layers; None where it has none."""
    value: Any = found
    for key in metric.key.split("."):
        value = None if value is None else value.get(key)
    if metric.name == "unmatched":
        return None if value is None else value["only_old"] + value["only_new"]
    if isinstance(value, list):  # F(tau): f1.1 is that of 1.1
        by_tau = {entry["tau"]: entry["f_tau"] for entry in value}
        return by_tau.get(float(metric.name.removeprefix("f")))
    return value
