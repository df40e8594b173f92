"""Who made each part of a dump: the candidate that agrees best, none of them, or not to be told.

Two candidates are compared on the same tokens. Where both agree equally well, how many layers more
one gets wrong than the other at a token has either sign with equal chance, so that the sum of these
differences d has the variance Σ d² (a sign test of tokens weighted by |d|, as McNemar's of pairs).
Layers of one token flip together, which is why tokens are counted and not rows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np

from .counts import Lacking, PartCounts

__all__ = ["CONFIDENCE", "MadeBy", "MakerNoise", "PartMaker", "made_by"]

CONFIDENCE = 0.999  # of a part's maker, all others together; of "none", all parts together
_HALF = 0.5  # the mismatch beyond which no rounding goes: see docs/metrics.md, alarms
_FIRST = 0.03  # clear flips of the first MoE layer, beyond which none goes: the same alarms
_FEW = 5  # parts that say what the noise is
_SHORTEST = 4  # tokens that say that none made them: layers of one token flip together
_NORMAL = 1.4826  # the median distance from the median, to a standard deviation
_CLUSTERED = 2.0  # how much wider a part's rate scatters than that of rows that flip alone


@dataclass(frozen=True, slots=True)
class MakerNoise:
    """How far the best candidate's rows are from the dump's where it made them.

    of is the candidate that most parts are nearest to, parts these, rate the median of their
    mismatch, spread how far the root of a rate scatters. clear is the share of clear flips, None
    without margins.
    """

    of: str
    parts: int
    rate: float
    spread: float
    clear: float | None

    def most(self, rows: int, of: int) -> float:
        """The mismatch that a part of so many rows has at most, at CONFIDENCE for all ``of``."""
        spread = max(self.spread, float(np.sqrt(_CLUSTERED / (4 * rows))))
        reach = -NormalDist().inv_cdf((1 - CONFIDENCE) / of) * spread
        return float((np.sqrt(self.rate) + reach) ** 2)


@dataclass(frozen=True, slots=True)
class PartMaker:
    """A sample, or the rows of one version in it, and who made it.

    rates      the mismatch against each candidate
    best       the candidate with the least
    z          by how many standard deviations it is ahead of the next; None of one candidate
    alike      the candidates that it cannot be told from, itself among them
    is_none    whether even the best is farther than noise goes
    said       the version that the dump names
    expected   who should have made it, or None
    """

    index: int
    sample: str
    said: str | None
    expected: str | None
    rows: int
    rates: tuple[float, ...]
    best: str
    z: float | None
    alike: tuple[str, ...]
    is_none: bool

    @property
    def maker(self) -> str | None:
        """The candidate that made it; None where none did, or several may have."""
        return self.best if len(self.alike) == 1 and not self.is_none else None

    @property
    def is_wrong(self) -> bool:
        """Whether another one than the expected made it, whoever that was."""
        return self.is_none or (self.expected is not None and self.expected not in self.alike)

    def is_mislabelled(self, names: Sequence[str]) -> bool:
        """Whether the dump names a candidate that did not make it."""
        return self.said in names and (self.is_none or self.said not in self.alike)


@dataclass(frozen=True, slots=True)
class MadeBy:
    """Who made what: candidates in the order given, oldest first, and the parts of all samples.

    expected is the one that should have made all, but for samples of several versions; None where
    none is named. noise is None where too few parts say what it is. lacking were not judged.
    """

    names: tuple[str, ...]
    expected: str | None
    noise: MakerNoise | None
    parts: tuple[PartMaker, ...]
    lacking: tuple[Lacking, ...] = ()

    @property
    def samples(self) -> dict[str, int]:
        """Samples by maker: a name, "none", "undecided", or "several" for parts of several."""
        by_sample: dict[int, set[str]] = {}
        for part in self.parts:
            word = "none" if part.is_none else (part.maker or "undecided")
            by_sample.setdefault(part.index, set()).add(word)
        found = dict.fromkeys((*self.names, "none", "undecided", "several"), 0)
        for words in by_sample.values():
            found[words.pop() if len(words) == 1 else "several"] += 1
        return found


def made_by(
    names: Sequence[str], counted: Iterable[PartCounts | Lacking], expected: str | None
) -> MadeBy:
    """Judge every part; ``expected`` is the name of who should have made them.

    Without it, and of a sample of several versions, that is who the dump names.
    """
    told = list(counted)
    lacking = tuple(one for one in told if isinstance(one, Lacking))
    parts = [one for one in told if isinstance(one, PartCounts)]
    groups: dict[int, list[PartCounts]] = {}
    for part in parts:
        groups.setdefault(int(part.wrong_C.argmin()), []).append(part)
    shares = {best: _clear_share(group, best) for best, group in groups.items()}
    far = {best for best, group in groups.items() if _is_far(group, best)}
    near = {best: group for best, group in groups.items() if best not in far}
    noise = _noise(names, near, shares)
    noises = {best: _noise_near(best, noise, names, near, shares) for best in near}
    judged, of_sample = [], Counter(part.index for part in parts)
    for part in parts:
        best, own = int(part.wrong_C.argmin()), part.said if part.said in names else None
        is_alone = of_sample[part.index] == 1
        who = expected or own if is_alone else own or expected
        most = -1.0 if best in far else _most(noises[best], part.rows, len(parts))
        if part.tokens < _SHORTEST and best not in far:
            most = 1.0
        judged.append(_judged(names, part, most, who))
    return MadeBy(tuple(names), expected, noise, tuple(judged), lacking)


def _clear_share(group: Sequence[PartCounts], best: int) -> float | None:
    """Clear flips, of the mismatched rows of parts whose margin is known."""
    known = sum(int(part.margin_C[best]) for part in group)
    return sum(int(part.clear_C[best]) for part in group) / known if known else None


def _is_far(group: Sequence[PartCounts], best: int) -> bool:
    """Whether the parts nearest to a candidate are farther from it, by margins, than rounding goes.

    As R716 and the alarms of docs/metrics.md have it: most flips clear, or the first layer's.
    """
    rows, first = sum(p.first for p in group), sum(int(p.first_C[best]) for p in group)
    return (_clear_share(group, best) or 0.0) > _HALF or first > _FIRST * rows


def _most(noise: MakerNoise | None, rows: int, of: int) -> float:
    return _HALF if noise is None else min(noise.most(rows, of), _HALF)


def _noise(
    names: Sequence[str],
    groups: Mapping[int, Sequence[PartCounts]],
    shares: Mapping[int, float | None],
) -> MakerNoise | None:
    """The noise of the candidate that most parts are nearest to, by the median."""
    rates = {
        best: [float(part.wrong_C[best]) / part.rows for part in group]
        for best, group in groups.items()
        if len(group) >= _FEW
    }
    if not rates:
        return None
    best = max(rates, key=lambda one: (len(rates[one]), -median(rates[one])))
    if median(rates[best]) > _HALF:
        return None
    roots = [float(np.sqrt(rate)) for rate in rates[best]]
    spread = _NORMAL * median(abs(root - median(roots)) for root in roots)
    return MakerNoise(names[best], len(roots), median(rates[best]), spread, shares[best])


def _noise_near(
    best: int,
    most: MakerNoise | None,
    names: Sequence[str],
    groups: Mapping[int, Sequence[PartCounts]],
    shares: Mapping[int, float | None],
) -> MakerNoise | None:
    """The noise of the parts nearest to a candidate: that of most parts, unless it is none at all.

    A candidate that has the dump's very rows does not say how the others round. Parts whose flips
    have margins, and are near-ties by them, say it themselves.
    """
    if most is None or most.rate > 0 or shares[best] is None:
        return most
    return _noise(names, {best: groups[best]}, shares)


def _judged(names: Sequence[str], part: PartCounts, most: float, expected: str | None) -> PartMaker:
    best = int(part.wrong_C.argmin())
    lead_C, spread_C = part.lead_CC[best], part.spread_CC[best]
    z_C = np.where(spread_C > 0, lead_C / np.sqrt(np.maximum(spread_C, 1)), 0.0)
    others = [n for n in range(len(names)) if n != best]
    limit = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / max(len(others), 1))
    alike = [n for n in range(len(names)) if n == best or z_C[n] < limit]
    rate = float(part.wrong_C[best]) / part.rows
    return PartMaker(
        part.index,
        part.sample,
        part.said,
        expected,
        part.rows,
        tuple((part.wrong_C / part.rows).tolist()),
        names[best],
        min((float(z_C[n]) for n in others), default=None),
        tuple(names[n] for n in alike),
        rate > most,
    )
