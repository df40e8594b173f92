"""How a figure moves over the steps of a run."""

from collections.abc import Sequence

import numpy as np

__all__ = ["slope_of"]


def slope_of(steps: Sequence[int], values: Sequence[float]) -> float | None:
    """The change of a figure per step, by least squares; None for fewer than two steps."""
    if len(steps) < 2:
        return None
    x = np.asarray(steps, np.float64) - np.mean(steps)
    return float((x * np.asarray(values, np.float64)).sum() / (x * x).sum())
