"""Accepted numbers, by stable names, and what a threshold relative to them allows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import RoutectlError

if TYPE_CHECKING:
    from .thresholds import Threshold

__all__ = ["Baseline", "scalar_name"]


def scalar_name(metric: str, layer: int | None = None) -> str:
    """The stable name of a figure: ``routectl/mismatch/layer_007``, ``routectl/staleness/lag_2``.

    metric is a threshold's, with its lag; layer is None for the figure of all layers.
    """
    name = f"routectl/{metric.replace('@lag', '/lag_')}"
    return name if layer is None else f"{name}/layer_{layer:03d}"


@dataclass(frozen=True, slots=True)
class Baseline:
    """Numbers that were accepted, by ``scalar_name``.

    accepting: the numbers measured now are to be the accepted ones, so none of them is over.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    accepting: bool = False

    def allowed(self, threshold: "Threshold", layer: int | None) -> float:
        """The limit of a threshold: its own, or where it is relative the accepted number plus it.

        Raises RoutectlError where no number was accepted.
        """
        if threshold.relative_to is None:
            return threshold.limit
        if self.accepting:
            return math.inf if threshold.over else -math.inf
        name = scalar_name(threshold.relative_to, layer)
        if name not in self.numbers:
            raise RoutectlError(
                f"threshold {threshold.text!r}: the baseline has no {name}",
                hint="routectl ci --update-baseline stores what is measured now",
            )
        return self.numbers[name] + threshold.limit
