"""What counts say of replay: figures by mode, by how much k3 falls, and which mode is the better.

Shape suffixes: C buckets of clusters, M modes, F thresholds on ratio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ..adding.fewest import FEWEST
from ..adding.intervals import Bootstrap, Interval, rate_intervals
from .gain import REPLAYS, TAUS, GainCounts
from .plan import StalenessPlan

__all__ = ["Fall", "Gains", "ReplayFigures", "Unmeasured", "VersionGain", "gains_of"]

_PARTS = 3 + len(TAUS)  # figures of a mode that have an interval
_PAIRS = (("none", "R2"), ("none", "R3"), ("R2", "R3"))


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """The log-probs of one mode against the dump's: means over tokens, and the greatest |d|.

    over are F(tau) by TAUS. Each figure but the greatest has its interval, None as in
    ``interval_of``.
    """

    mode: str
    k1: float
    k3: float
    mean_abs: float
    max_abs: float
    over: tuple[float, ...]
    k1_interval: Interval | None
    k3_interval: Interval | None
    mean_abs_interval: Interval | None
    over_intervals: tuple[Interval | None, ...]


@dataclass(frozen=True, slots=True)
class Fall:
    """k3 of one mode over that of another, which is the better beyond its interval, or not.

    ratio is None where the other's is 0 or one is not finite. The interval is of the ratio over
    the same sequences, not of each k3: modes of the same tokens rise and fall together.
    """

    ratio: float | None
    interval: Interval | None

    @property
    def is_sure(self) -> bool:
        """Whether the interval is above 1."""
        return self.interval is not None and self.interval.low > 1


@dataclass(frozen=True, slots=True, eq=False)
class VersionGain:
    """What replay gains at the weights of one version.

    lag     updates since the rollout; None where samples are of several
    figures by mode, of REPLAYS those that are known
    falls   of pairs of modes: k3 of the first over k3 of the second
    r2_path where R2's log-probs are; None where they are those without replay, or not there
    """

    version: str
    lag: int | None
    tokens: int
    clusters: int
    counts: GainCounts
    figures: Mapping[str, ReplayFigures]
    falls: Mapping[tuple[str, str], Fall]
    r2_path: str | None = None

    @property
    def is_enough(self) -> bool:
        """Whether the clusters are enough for an interval, which says what is better."""
        return self.clusters >= FEWEST

    @property
    def best(self) -> str:
        """The mode with the lower k3 beyond its interval; of two that are not apart, the lesser
        intervention: none, then R2.
        """
        best = "none"
        for mode in ("R2", "R3"):
            fall = self.falls.get((best, mode))
            best = mode if fall is not None and fall.is_sure else best
        return best

    def fall(self, mode: str) -> Fall | None:
        """Of R2 or R3: k3 without replay over its own."""
        return self.falls.get(("none", mode))


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Why what replay gains is not known, or not of these versions.

    why is one of: prompt, no response token is selected; dump, it has no log-probs; free or forced,
    of which versions have no log-probs; R2, which is not there; tokens, no token is known to all.
    """

    why: str
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """By version, in the order given, what replay gains; and what is not known, and why."""

    versions: tuple[VersionGain, ...] = ()
    unmeasured: tuple[Unmeasured, ...] = field(default=())

    @property
    def by_lag(self) -> tuple[VersionGain, ...]:
        """Those of one lag each, ascending."""
        known = [one for one in self.versions if one.lag is not None]
        return tuple(sorted(known, key=lambda one: one.lag or 0))


def gains_of(
    plan: StalenessPlan, counted: Mapping[int, GainCounts], clusters: Sequence[int]
) -> Gains:
    """What replay gains at each version, over so many clusters each."""
    if plan.options.tokens == "prompt":
        return Gains((), (Unmeasured("prompt"),))
    held = {v: one for v, one in sorted(counted.items()) if _samples(one)}
    if held and not any(one.samples or one.lacking for one in held.values()):
        return Gains((), (Unmeasured("dump"),))
    lacking = []
    for mode, name in (("forced", "R3"), ("free", "none"), ("R2", "R2")):
        having = set(plan.having(mode)) if mode != "R2" else set(range(len(plan.names)))
        without = [v for v, one in held.items() if v not in having or _lacks(one, name)]
        if without:
            lacking.append(Unmeasured(mode, tuple(plan.names[v] for v in without)))
    found = [_version_gain(plan, v, one, clusters[v]) for v, one in held.items() if one.tokens]
    measured = tuple(one for one in found if _is_measured(one))
    if not measured and not lacking:
        lacking.append(Unmeasured("tokens"))
    return Gains(measured, tuple(lacking))


def _samples(one: GainCounts) -> int:
    """How many samples of the dump are those of a version, or of an older one."""
    return one.samples + one.unscored + sum(one.lacking.values())


def _lacks(one: GainCounts, mode: str) -> bool:
    """Whether every sample of a version lacks a mode; of R2, whether one does."""
    if mode == "R2":
        return bool(one.unreplayed or one.lacking.get(mode))
    return not one.samples and bool(one.lacking.get(mode))


def _is_measured(found: VersionGain) -> bool:
    """Whether there is a mode to compare with: R2 of the weights that sampled is none."""
    return "R3" in found.figures or ("R2" in found.figures and found.lag != 0)


def _version_gain(
    plan: StalenessPlan, version: int, counts: GainCounts, clusters: int
) -> VersionGain:
    """The figures of one version, of which some tokens were counted."""
    known = ["none"] if counts.unreplayed else ["none", "R2"]
    known += ["R3"] if (version, "forced") in plan.sides else []
    assert counts.buckets is not None
    columns = counts.buckets.sums_CM
    pairs = [pair for pair in _PAIRS if set(pair) <= set(known)]
    of_modes, of_falls = _intervals(columns, known, pairs, plan.options.bootstrap)
    lags = list(counts.lags)
    k3 = {mode: counts.sums_MF[m, 1] for m, mode in enumerate(REPLAYS)}
    return VersionGain(
        plan.names[version],
        lags[0] if len(lags) == 1 and not counts.several else None,
        counts.tokens,
        clusters,
        counts,
        {mode: _figures(counts, mode, of_modes[mode]) for mode in known},
        {pair: Fall(_ratio(k3[pair[0]], k3[pair[1]]), of_falls[pair]) for pair in pairs},
        plan.replayed[version].path if version in plan.replayed else None,
    )


def _ratio(over: float, under: float) -> float | None:
    known = isfinite(over) and isfinite(under) and under > 0
    return float(over / under) if known else None


def _figures(counts: GainCounts, mode: str, intervals: Sequence[Interval | None]) -> ReplayFigures:
    m, tokens = REPLAYS.index(mode), counts.tokens
    d, k3, size = (float(value) / tokens for value in counts.sums_MF[m])
    over = tuple(int(number) / tokens for number in counts.over_MF[m])
    most = counts.max_abs[m]
    of_k1, of_k3, of_size, *of_over = intervals
    return ReplayFigures(mode, -d, k3, size, most, over, of_k1, of_k3, of_size, tuple(of_over))


def _intervals(
    columns_C: NDArray[np.float64],
    known: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    plan: Bootstrap,
) -> tuple[dict[str, list[Interval | None]], dict[tuple[str, str], Interval | None]]:
    """Intervals by mode, of all of its figures, and by pair, of the ratio of their k3."""
    tokens, modes, taus = columns_C[:, 0], len(REPLAYS), len(TAUS)
    over = columns_C[:, 1 : 1 + modes * taus].reshape(-1, modes, taus)
    sums = columns_C[:, 1 + modes * taus :].reshape(-1, modes, 3)
    places = [REPLAYS.index(mode) for mode in known]
    parts = [part for m in places for part in (-sums[:, m, 0], *sums[:, m, 1:].T, *over[:, m].T)]
    wholes = [tokens] * len(parts)
    for a, b in pairs:
        parts.append(sums[:, REPLAYS.index(a), 1])
        wholes.append(sums[:, REPLAYS.index(b), 1])
    found = rate_intervals(np.stack(parts, axis=1), np.stack(wholes, axis=1), plan)
    cut = len(known) * _PARTS
    by_mode = {mode: found[n * _PARTS : (n + 1) * _PARTS] for n, mode in enumerate(known)}
    return by_mode, dict(zip(pairs, found[cut:], strict=True))
