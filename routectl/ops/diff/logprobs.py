"""Log-probs of the same tokens on two sides: sums that add up, and the figures that people compare.

Formulas and sources: docs/metrics.md. Shape suffixes: G response tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..adding.exact import ExactSums

__all__ = ["LOGPROB_METRICS", "TAU", "TAUS", "LogprobCounts", "LogprobMetric", "LogprobSums"]

Floats = NDArray[np.float64]
TAUS = (1.1, 1.25, 1.5, 2.0, 5.0, 10.0)  # of F(tau)
TAU = 2.0  # R3's headline
_CLAMPED, _AT_MOST = 20.0, 10.0  # of k3_stable: d before it, the token's figure after it
_CONSTANT = Fraction(1, 10**12)  # a variance under this share of the mean square is rounding
_SUMS = ("d", "k3", "abs", "k3_stable", "ratio", "square", "js")  # see ``_of_differences``
_MOMENTS = ("x", "y", "xx", "yy", "xy")
_NAMES = (*_SUMS, *(f"log_{m}" for m in _MOMENTS), *(f"p_{m}" for m in _MOMENTS))


@dataclass(frozen=True, slots=True)
class LogprobCounts:
    """Sums over response tokens with log-probs on both sides; d = log p_new - log p_old, r = e^d.

    Tokens that a loss mask leaves out are none of them.

    Those of one sample, or of many as ``LogprobSums`` tells them.

    sums       by name, see ``sum_of``
    max_abs    the greatest |d|
    over       tokens with max(r, 1/r) beyond each of TAUS
    equal      tokens whose log-probs are the same float32
    one_sided  tokens that one side alone has a log-prob of
    """

    tokens: int = 0
    sums: tuple[float, ...] = (0.0,) * len(_NAMES)
    max_abs: float = 0.0
    over: tuple[int, ...] = (0,) * len(TAUS)
    equal: int = 0
    one_sided: int = 0

    @classmethod
    def of_tokens(cls, old_G: Floats, new_G: Floats) -> "LogprobCounts":
        """Count tokens that both sides have a log-prob of; k3 = e^d - 1 - d, F(tau): |d| > ln tau.

        One that is not finite makes every sum so that it has a part in, and is beyond every tau;
        nan is the difference of two equal infinities.
        """
        if not len(old_G):
            return cls()
        with np.errstate(over="ignore", invalid="ignore"):  # infinities, or beyond float64
            d = new_G - old_G
            size = np.abs(d)
            columns = [*_of_differences(d, size), *_moments(old_G, new_G)]
            columns += _moments(np.exp(old_G), np.exp(new_G))
            return cls(
                len(d),
                tuple(float(column.sum()) for column in columns),
                float(size.max()),
                tuple(int((~(size <= np.log(tau))).sum()) for tau in TAUS),
                int((old_G.astype(np.float32) == new_G.astype(np.float32)).sum()),
            )

    @classmethod
    def of_sides(cls, old_G: Floats, new_G: Floats) -> "LogprobCounts":
        """Count the tokens of two sides, nan where a log-prob is not known or is none."""
        unknown_old, unknown_new = np.isnan(old_G), np.isnan(new_G)
        known = ~(unknown_old | unknown_new)
        found = cls.of_tokens(old_G[known], new_G[known])
        return replace(found, one_sided=int((unknown_old ^ unknown_new).sum()))

    def sum_of(self, name: str) -> float:
        """A sum over tokens: of d, k3, abs (|d|), k3_stable, ratio (e^|d|), square (r²), js.

        Or of a moment, log_xy or p_xy and the like: x of OLD, y of NEW, log-probs or probabilities.
        """
        return self.sums[_NAMES.index(name)]

    def mean_of(self, name: str) -> float | None:
        """Such a sum by tokens; None without tokens."""
        return self.sum_of(name) / self.tokens if self.tokens else None

    @property
    def over_tau(self) -> int:
        """Tokens with max(r, 1/r) beyond 2."""
        return self.over[TAUS.index(TAU)]

    def f_tau(self, tau: float) -> float | None:
        """F(tau) of one of TAUS, 0..1; None without tokens."""
        return self.over[TAUS.index(tau)] / self.tokens if self.tokens else None

    def pearson(self, of: str) -> float | None:
        """Pearson's correlation over tokens of "log" (log-probs) or "p" (probabilities), -1..1.

        None where a side is constant, which correlates with nothing; nan where a sum is not finite.
        """
        sums = [self.sum_of(f"{of}_{moment}") for moment in _MOMENTS]
        if not all(map(math.isfinite, sums)):
            return math.nan
        n, (x, y, xx, yy, xy) = self.tokens, map(Fraction, sums)
        wide_x, wide_y, joint = n * xx - x * x, n * yy - y * y, n * xy - x * y
        if wide_x <= _CONSTANT * n * xx or wide_y <= _CONSTANT * n * yy:
            return None
        return math.copysign(min(1.0, math.sqrt(joint * joint / (wide_x * wide_y))), joint)


def _of_differences(d: Floats, size: Floats) -> list[Floats]:
    """The columns of _SUMS: docs/metrics.md has the formula of each, and whose it is."""
    k3 = np.where(np.isposinf(d), np.inf, np.expm1(d) - d)
    held = np.clip(d, -_CLAMPED, _CLAMPED)
    stable = np.minimum(np.expm1(held) - held, _AT_MOST)
    # log cosh(d / 2): the mean of KL(p || m) and KL(q || m), m = (p + q) / 2, as k3 estimates them
    near = np.log1p(2 * np.square(np.sinh(np.minimum(size, 2.0) / 4)))
    js = np.where(size <= 2.0, near, size / 2 + np.log1p(np.exp(-size)) - math.log(2))
    return [d, k3, size, stable, np.exp(size), np.exp(2 * d), js]


def _moments(x: Floats, y: Floats) -> list[Floats]:
    return [x, y, x * x, y * y, x * y]


@dataclass(frozen=True, slots=True, eq=False)
class LogprobSums:
    """The log-prob sums of many samples, each sample's added without rounding."""

    tokens: int = 0
    sums: ExactSums = field(default_factory=lambda: ExactSums.zeros(len(_NAMES)))
    max_abs: float = 0.0
    over: tuple[int, ...] = (0,) * len(TAUS)
    equal: int = 0
    one_sided: int = 0

    def __add__(self, other: "LogprobSums") -> "LogprobSums":
        return LogprobSums(
            self.tokens + other.tokens,
            self.sums + other.sums,
            float(np.maximum(self.max_abs, other.max_abs)),  # nan wins
            tuple(a + b for a, b in zip(self.over, other.over, strict=True)),
            self.equal + other.equal,
            self.one_sided + other.one_sided,
        )

    @classmethod
    def of_samples(cls, samples: Sequence[LogprobCounts]) -> "LogprobSums":
        """The sums of samples."""
        found = cls(
            sum(s.tokens for s in samples),
            max_abs=float(np.max([s.max_abs for s in samples], initial=0.0)),
            over=tuple(sum(s.over[n] for s in samples) for n in range(len(TAUS))),
            equal=sum(s.equal for s in samples),
            one_sided=sum(s.one_sided for s in samples),
        )
        if found.tokens:
            scored = [s.sums for s in samples if s.tokens]
            found.sums.add(np.ravel(scored), np.tile(np.arange(len(_NAMES)), len(scored)))
        return found

    @property
    def counts(self) -> LogprobCounts:
        """The sums, each rounded once."""
        sums = tuple(self.sums.values_N.tolist())
        return LogprobCounts(self.tokens, sums, self.max_abs, self.over, self.equal, self.one_sided)


@dataclass(frozen=True, slots=True)
class LogprobMetric:
    """A figure of log-probs by the name of its threshold; None without tokens.

    key is its name in ``logprobs`` of a document; that of F(tau) is in the list ``f_taus`` there.
    """

    name: str
    key: str
    is_rate: bool
    about: str
    of: Callable[[LogprobCounts], float | None]


def _k1(sums: LogprobCounts) -> float | None:
    return -sums.sum_of("d") / sums.tokens if sums.tokens else None


def _chi2(sums: LogprobCounts) -> float | None:
    mean = sums.mean_of("square")
    return None if mean is None else mean - 1


def _beyond(tau: float) -> LogprobMetric:
    key = "f_tau" if tau == TAU else "f_taus"
    about = f"tokens with a ratio over {tau:g} or under 1/{tau:g}"
    return LogprobMetric(f"f{tau:g}", key, True, about, lambda s: s.f_tau(tau))


LOGPROB_METRICS = (
    LogprobMetric("k1", "k1", False, "mean of log p_old - log p_new", _k1),
    LogprobMetric("k3", "k3", False, "k3 KL estimate", lambda s: s.mean_of("k3")),
    LogprobMetric(
        "k3_stable",
        "k3_stable",
        False,
        "k3 of d held to 20, a token at most 10 (low_var_kl)",
        lambda s: s.mean_of("k3_stable"),
    ),
    LogprobMetric(
        "abs_d", "mean_abs_d", False, "mean |d| of the log-probs", lambda s: s.mean_of("abs")
    ),
    LogprobMetric(
        "max_d",
        "max_abs_d",
        False,
        "greatest |d| of the log-probs",
        lambda s: s.max_abs if s.tokens else None,
    ),
    *map(_beyond, TAUS),
    LogprobMetric(
        "token_mult_prob_error",
        "token_mult_prob_error",
        False,
        "mean of e^|d|",
        lambda s: s.mean_of("ratio"),
    ),
    LogprobMetric("chi2", "chi2", False, "mean of r² less 1", _chi2),
    LogprobMetric(
        "js", "js", False, "Jensen-Shannon estimate of the log-probs", lambda s: s.mean_of("js")
    ),
    LogprobMetric(
        "pearson", "pearson", False, "correlation of the log-probs", lambda s: s.pearson("log")
    ),
    LogprobMetric(
        "pearson_probs",
        "pearson_probs",
        False,
        "correlation of the probabilities",
        lambda s: s.pearson("p"),
    ),
    LogprobMetric(
        "equal_logprobs",
        "equal_rate",
        True,
        "tokens with the same log-prob, bit by bit",
        lambda s: s.equal / s.tokens if s.tokens else None,
    ),
)
