"""The types of a router shift in a routectl.staleness/1 document."""

from typing import TypedDict

from ..document import IntervalEntry

__all__ = ["LayerShift", "RouterShiftEntry"]


class LayerShift(TypedDict):
    """How far one layer's router moved, and how sure it is of the dump's experts, old and new."""

    layer: int
    mean_shift: float
    confidence_old: float
    confidence_new: float


class RouterShiftEntry(TypedDict):
    """The router shift between versions whose routes carry gate log-probabilities."""

    tokens: int
    tokens_partial: int
    mean_gamma: float | None
    interval: IntervalEntry | None
    p01: float | None
    p10: float | None
    p50: float | None
    floor: float
    below_rate: float | None
    confidence_old: float | None
    confidence_new: float | None
    layers: list[LayerShift]
