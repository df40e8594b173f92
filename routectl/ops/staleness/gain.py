"""What replay gains: log-probs of some weights against the dump's own, without replay and with it.

none is the trainer's free forward. R2 replays the trainer's own routes, of the weights that sampled
(so at those weights it is none); R3 replays the dump's. A token counts where the dump and every
mode have its log-prob, so that modes are compared on the same tokens.

Shape suffixes: M modes, F figures of a mode, G buckets.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample
from ..adding.exact import ExactSums
from ..adding.resampled import Resampled
from ..diff.logprobs import TAUS as ALL_TAUS
from ..diff.logprobs import LogprobCounts
from ..pairs.logprobs import laid_logprobs
from .attribution import GROUPS, R2, Labels
from .clusters import SampleCluster
from .plan import StalenessPlan

__all__ = ["REPLAYS", "TAUS", "GainCounts", "GainTally"]

Floats = NDArray[np.float64]
K = TypeVar("K")
REPLAYS = ("none", "R2", "R3")
TAUS = (1.1, 1.25, 2.0)
_SUMS = 3  # of d, k3 and |d|
_TOGETHER = 256  # samples whose sums are added up at a time
_UNLABELLED = GROUPS.index("unlabelled")


@dataclass(frozen=True, slots=True, eq=False)
class GainCounts:
    """The log-probs of one version's weights against the dump's; counts of parts add up.

    Of samples that these weights or older ones made:

    samples     counted; lags has them by updates since they were made, several those of which rows
                are of several versions
    one_sided   tokens of them that the dump or a mode alone lacks
    unscored    without log-probs in the dump
    lacking     that a mode lacks, or has no log-probs of, by mode
    unreplayed  older than these weights, where nothing has R2 of them
    sums        over tokens: of d, k3 and |d| for each of REPLAYS
    max_abs     the greatest |d| of each
    buckets     tokens, then for each of REPLAYS tokens beyond each of TAUS; the sums as floats.
                None without samples
    """

    samples: int = 0
    several: int = 0
    one_sided: int = 0
    unscored: int = 0
    unreplayed: int = 0
    lags: Mapping[int, int] = field(default_factory=dict)
    lacking: Mapping[str, int] = field(default_factory=dict)
    sums: ExactSums = field(default_factory=lambda: ExactSums.zeros(len(REPLAYS) * _SUMS))
    max_abs: tuple[float, ...] = (0.0,) * len(REPLAYS)
    buckets: Resampled | None = None

    def __add__(self, other: "GainCounts") -> "GainCounts":
        buckets = [one for one in (self.buckets, other.buckets) if one is not None]
        return GainCounts(
            self.samples + other.samples,
            self.several + other.several,
            self.one_sided + other.one_sided,
            self.unscored + other.unscored,
            self.unreplayed + other.unreplayed,
            _added(self.lags, other.lags),
            _added(self.lacking, other.lacking),
            self.sums + other.sums,
            tuple(map(_greater, self.max_abs, other.max_abs)),
            buckets[0] + buckets[1] if len(buckets) == 2 else next(iter(buckets), None),
        )

    @property
    def tokens(self) -> int:
        """How many tokens every mode has a log-prob of."""
        return 0 if self.buckets is None else int(self.buckets.ints_GM[:, 0].sum())

    @property
    def over_MF(self) -> NDArray[np.int64]:  # noqa: N802
        """int64 [M, F], tokens beyond each of TAUS."""
        over = np.zeros(len(REPLAYS) * len(TAUS), np.int64)
        if self.buckets is not None:
            over = self.buckets.ints_GM[:, 1:].sum(axis=0)
        return over.reshape(len(REPLAYS), len(TAUS))

    @property
    def sums_MF(self) -> Floats:  # noqa: N802
        """float64 [M, 3], the sums of d, k3 and |d|."""
        return self.sums.values_N.reshape(len(REPLAYS), _SUMS)


def _added(a: Mapping[K, int], b: Mapping[K, int]) -> dict[K, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


def _greater(a: float, b: float) -> float:
    return float(np.maximum(a, b))  # nan wins


class GainTally:
    """Adds up the samples of one version."""

    def __init__(self, version: int, plan: StalenessPlan) -> None:
        self._version, self._plan = version, plan
        self._numbers: Counter[str] = Counter()  # by field of GainCounts
        self._lags: Counter[int] = Counter()
        self._lacking: Counter[str] = Counter()
        self._found = GainCounts()
        self._waiting: list[tuple[int, list[int], list[float]]] = []

    def add(
        self, sample: Sample, labels: Labels, routes: Mapping[str, Sample], cluster: SampleCluster
    ) -> bool:
        """Count a sample of the dump; ``routes`` are this version's, by mode, R2 among them.

        Whether tokens were counted: not those of a sample that newer weights made, or others.
        """
        version, plan = self._version, self._plan
        made = labels.versions(len(plan.names))
        if not made or max(made) > version or (labels.group_Q == _UNLABELLED).any():
            return False
        if sample.logprobs is None:
            self._numbers["unscored"] += 1
            return False
        sides = {"none": routes.get("free")}
        if made == {version}:
            sides["R2"] = sides["none"]
        elif version in plan.replayed:
            sides["R2"] = routes.get(R2)
        if (version, "forced") in plan.sides:
            sides["R3"] = routes.get("forced")
        found = {
            m: side for m, side in sides.items() if side is not None and side.logprobs is not None
        }
        self._lacking.update(mode for mode in sides if mode not in found)
        laid = laid_logprobs([sample, *found.values()]) if len(found) == len(sides) else None
        if laid is None:
            return False
        lags = {plan.places[version] - plan.places[own] for own in made}
        self._lags.update(lags if len(lags) == 1 else ())
        self._numbers["samples"] += 1
        self._numbers["several"] += len(lags) > 1
        self._numbers["unreplayed"] += "R2" not in sides
        return self._count(dict(zip(["dump", *found], laid, strict=True)), cluster)

    def _count(self, values: Mapping[str, Floats], cluster: SampleCluster) -> bool:
        """Count the tokens of one sample, by the log-probs that the dump and each mode have."""
        unknown = np.isnan(np.stack(list(values.values())))
        known = ~unknown.any(axis=0)
        self._numbers["one_sided"] += int((~known & ~unknown.all(axis=0)).sum())
        ints, floats, most = [int(known.sum())], [], []
        for mode in REPLAYS:
            sums = LogprobCounts()
            if mode in values:
                sums = LogprobCounts.of_tokens(values["dump"][known], values[mode][known])
            ints += [sums.over[ALL_TAUS.index(tau)] for tau in TAUS]
            floats += [sums.sum_of(name) for name in ("d", "k3", "abs")]
            most.append(sums.max_abs)
        self._found = replace(self._found, max_abs=tuple(map(_greater, self._found.max_abs, most)))
        self._waiting.append((cluster.bucket, ints, floats))
        if len(self._waiting) >= _TOGETHER:
            self._flush()
        return ints[0] > 0

    def _flush(self) -> None:
        if self._waiting:
            buckets, ints, floats = zip(*self._waiting, strict=True)
            self._waiting = []
            if self._found.buckets is None:
                empty = Resampled.empty(1 + len(REPLAYS) * len(TAUS), len(REPLAYS) * _SUMS)
                self._found = replace(self._found, buckets=empty)
            assert self._found.buckets is not None
            self._found.buckets.add(buckets, np.array(ints), np.array(floats))
            sums = self._found.sums
            sums.add(np.ravel(floats), np.tile(np.arange(len(sums)), len(floats)))

    def counted(self) -> GainCounts:
        """What was added up."""
        self._flush()
        numbers = self._numbers
        return replace(
            self._found,
            samples=numbers["samples"],
            several=numbers["several"],
            one_sided=numbers["one_sided"],
            unscored=numbers["unscored"],
            unreplayed=numbers["unreplayed"],
            lags=dict(self._lags),
            lacking=dict(self._lacking),
        )
