"""Router shift between every two versions whose routes carry gate log-probabilities."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from .attribution import MODES, Version
from .gamma import RouterShift, router_shift
from .intervals import Bootstrap, Interval, rate_intervals
from .options import StalenessOptions

__all__ = ["router_shifts", "shift_interval"]


def router_shifts(
    versions: Sequence[Version], options: StalenessOptions
) -> Mapping[tuple[str, str, str], RouterShift]:
    """Gamma by older version, newer version and mode; pairs without gates on a side are absent.

    Raises MismatchError as router_shift does.
    """
    found = {}
    for mode in MODES:
        for old, new in combinations(versions, 2):
            before, after = old.routes(mode), new.routes(mode)
            if before is None or after is None or not (before.meta.gates and after.meta.gates):
                continue
            found[old.name, new.name, mode] = router_shift(
                before, after, tokens=options.tokens, layers=options.layers
            )
    return found


def shift_interval(shift: RouterShift, plan: Bootstrap) -> Interval | None:
    """The interval of a mean gamma, over sequences."""
    sums: dict[str, list[float]] = {}
    for part in shift.sequences:
        own = sums.setdefault(part.sample, [0.0, 0.0])
        own[0] += part.sum_gamma
        own[1] += part.tokens
    sums_C2 = np.array(list(sums.values()))
    return rate_intervals(sums_C2[:, :1], sums_C2[:, 1:], plan)[0]
