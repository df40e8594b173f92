"""Router shift: how far the weights of two versions move what a router thinks of given experts.

Shape suffixes: T tokens, L MoE layers, K top_k, B bins.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, DumpMeta, Sample, SampleKey
from ...errors import MismatchError, unknown
from ..adding.exact import ExactSums
from ..adding.intervals import Bootstrap, Interval, rate_intervals
from ..adding.resampled import Resampled, bucket_of_sample
from ..pairs.align import TOKENS, name_of
from ..pairs.join import join_keys
from .comparison import Comparison

__all__ = [
    "GAMMA_BINS",
    "GAMMA_FLOOR",
    "LagShift",
    "RouterShift",
    "ShiftTally",
    "checked_shift",
    "router_shift",
    "shift_in_all",
    "shift_of",
]

GAMMA_FLOOR = 0.7  # below it RSPO clips gamma
GAMMA_BINS = 4096  # of a gamma from 0 to 1: as fine as what is stored resolves it

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_TOGETHER = 1024  # samples whose sums are added up at a time


@dataclass(frozen=True, slots=True, eq=False)
class RouterShift:
    """The gammas of all tokens; counts and exact sums: those of shards add up with ``+``.

    layers      0-based, those compared
    tokens      tokens whose rows are known in every layer, on both sides; partial: in some alone
    unjoined    samples of either side without a partner that has gate log-probabilities too
    below       tokens with a gamma below GAMMA_FLOOR
    sums        over tokens: of mean_{e in A} |log p_new(e) - log p_old(e)| by layer, of gamma, of
                the mass of A, sum_{e in A} p(e), by layer: at the old weights, then at the new
    gammas_B    int64 [GAMMA_BINS + 1], tokens by gamma: entry b is of round(gamma * GAMMA_BINS)
    buckets     tokens and the sum of their gammas by bucket of samples, for intervals
    """

    layers: tuple[int, ...]
    tokens: int
    partial: int
    unjoined: int
    below: int
    sums: ExactSums
    gammas_B: Ints
    buckets: Resampled

    @classmethod
    def empty(cls, layers: tuple[int, ...]) -> "RouterShift":
        """That of no tokens."""
        sums, bins = ExactSums.zeros(3 * len(layers) + 1), np.zeros(GAMMA_BINS + 1, np.int64)
        return cls(layers, 0, 0, 0, 0, sums, bins, Resampled.empty(1, 1))

    def __add__(self, other: "RouterShift") -> "RouterShift":
        if self.layers != other.layers:
            raise ValueError("results of other layers do not add up")
        names = ("tokens", "partial", "unjoined", "below", "sums", "gammas_B", "buckets")
        return replace(self, **{n: getattr(self, n) + getattr(other, n) for n in names})

    @property
    def mean_gamma(self) -> float | None:
        """The mean over tokens; None without tokens."""
        return self.sums[len(self.layers)] / self.tokens if self.tokens else None

    @property
    def sum_shift_L(self) -> Floats:  # noqa: N802
        """float64 [L], the sums over tokens of mean |log p_new - log p_old|."""
        return self.sums.values_N[: len(self.layers)]

    def confidence_L(self, side: str) -> Floats | None:  # noqa: N802
        """float64 [L], routing confidence at the "old" or the "new" weights: the mean mass of the
        dump's experts, 0..1; None without tokens.
        """
        first = len(self.layers) + 1 + (len(self.layers) if side == "new" else 0)
        sums_L = self.sums.values_N[first : first + len(self.layers)]
        return sums_L / self.tokens if self.tokens else None

    @property
    def below_rate(self) -> float | None:
        """Share of the tokens with a gamma below GAMMA_FLOOR."""
        return self.below / self.tokens if self.tokens else None

    @property
    def mean_shift_L(self) -> Floats | None:  # noqa: N802
        """float64 [L], the mean |log p_new - log p_old| of each layer; None without tokens."""
        return self.sum_shift_L / self.tokens if self.tokens else None

    def quantile(self, q: float) -> float | None:
        """The least gamma that a share ``q`` of the tokens does not exceed, to 1 / GAMMA_BINS."""
        if not self.tokens:
            return None
        wanted = max(1, int(np.ceil(q * self.tokens)))
        return float(np.searchsorted(np.cumsum(self.gammas_B), wanted)) / GAMMA_BINS


def router_shift(
    old: Dump, new: Dump, *, tokens: str = "all", layers: tuple[int, ...] | None = None
) -> RouterShift:
    """Gamma of every token between two recomputes of one dump with gate log-probabilities.

    gamma = exp(-1/L sum over layers of mean over e in A of |log p_new(e) - log p_old(e)|), A the
    experts of the dump's row: 1 where the router has not moved, 0.7 where it has moved so far that
    RSPO clips it. Rows that are missing in the dump, or in either recompute, are left out; a token
    counts when all layers are left.

    tokens  all, prompt, or response (from the first generated token as an input), as in diff
    layers  0-based, those to compare; None for all that both have

    Raises MismatchError when a dump has no gate log-probabilities, two of them are of other routes,
    or no token is left. Source: RSPO, arXiv 2510.23027; A is the old policy's own experts there.
    """
    tally = ShiftTally(old.meta, new.meta, tokens, layers)
    joined = join_keys(old.keys, new.keys, "auto")
    for i, j in joined.pairs:
        tally.add(old[i], new[j], i, old.keys[i])
    tally.leave(len(joined.only_old) + len(joined.only_new))
    return checked_shift(tally.result(), old.meta, new.meta)


class ShiftTally:
    """Adds up pair after pair of samples of two recomputes; memory does not grow with them.

    Raises MismatchError for dumps that cannot be compared, ValueError for other tokens.
    """

    def __init__(
        self, old: DumpMeta, new: DumpMeta, tokens: str, layers: tuple[int, ...] | None
    ) -> None:
        if tokens not in TOKENS:
            raise unknown("tokens", tokens, TOKENS, ValueError)
        for meta in (old, new):
            if not meta.gates:
                raise MismatchError(
                    f"{meta.path}: no gate log-probabilities",
                    hint="routectl recompute --gate-logprobs writes them",
                )
        common = tuple(n for n in old.layers_L if n in new.layers_L)
        if absent := [layer for layer in layers or () if layer not in common]:
            raise MismatchError(
                f"layers {absent} are not MoE layers of both dumps: got {list(common)}"
            )
        self.layers = common if layers is None else tuple(sorted(set(layers)))
        if not self.layers:
            raise MismatchError(f"{old.path} and {new.path}: no layer to compare")
        self._columns = [
            None if self.layers == meta.layers_L else [meta.layers_L.index(n) for n in self.layers]
            for meta in (old, new)
        ]
        self._tokens, self._counts = tokens, np.zeros(4, np.int64)
        self._found = RouterShift.empty(self.layers)
        self._waiting: list[tuple[int, int, float]] = []

    def add(self, old: Sample, new: Sample, index: int, key: SampleKey) -> None:
        """Add one pair of samples, of any layers of their dumps; index and key are OLD's."""
        name = name_of(old, index)
        if old.gates is None or new.gates is None:
            self.leave(2)
            return
        if old.gates.of != new.gates.of:
            raise MismatchError(
                f"sample {name}: the gate log-probabilities are of other routes: expected two "
                "recomputes of one dump"
            )
        older, newer = (_columns(*side) for side in zip((old, new), self._columns, strict=True))
        wanted = _selected(old, name, self._tokens)
        shift_TL = _shift(older, newer, name)[wanted]
        known_TL = ~np.isnan(shift_TL)
        whole_T: NDArray[np.bool_] = np.logical_and.reduce(known_TL, axis=1)
        partial = int((known_TL.any(axis=1) & ~whole_T).sum())
        shift_TL = shift_TL[whole_T]
        gamma_T = np.exp(-shift_TL.mean(axis=1))
        gamma, tokens = float(gamma_T.sum()), len(gamma_T)
        self._counts += (tokens, partial, 0, int((gamma_T < GAMMA_FLOOR).sum()))
        masses = [_mass(side, wanted, whole_T) for side in (older, newer)]
        self._found.sums.add([*shift_TL.sum(axis=0), gamma, *masses[0], *masses[1]])
        bins_T = np.round(gamma_T * GAMMA_BINS).astype(np.int64)
        np.add.at(self._found.gammas_B, bins_T, 1)
        self._waiting.append((bucket_of_sample(key, index), tokens, gamma))
        if len(self._waiting) >= _TOGETHER:
            self._flush()

    def leave(self, samples: int) -> None:
        """Count samples without a partner."""
        self._counts[2] += samples

    def result(self) -> RouterShift:
        """What was added up."""
        self._flush()
        tokens, partial, unjoined, below = self._counts.tolist()
        return replace(self._found, tokens=tokens, partial=partial, unjoined=unjoined, below=below)

    def _flush(self) -> None:
        if self._waiting:
            buckets, tokens, gammas = zip(*self._waiting, strict=True)
            self._waiting = []
            self._found.buckets.add(buckets, np.array(tokens)[:, None], np.array(gammas)[:, None])


def checked_shift(found: RouterShift, old: DumpMeta, new: DumpMeta) -> RouterShift:
    """A shift of some tokens. Raises MismatchError where it has none."""
    if not found.tokens:
        raise MismatchError(
            f"{old.path} and {new.path}: no token to compare: "
            f"{int(found.buckets.samples_G.sum())} samples match, {found.partial} tokens have some "
            "layers alone"
        )
    return found


def _columns(sample: Sample, columns: list[int] | None) -> Sample:
    """A sample with some of its layers; None: all."""
    if columns is None or sample.routes is None or sample.gates is None:
        return sample
    return replace(
        sample, routes=sample.routes.columns(columns), gates=sample.gates.columns(columns)
    )


def _shift(old: Sample, new: Sample, name: str) -> Floats:
    """float64 [T, L], the mean |log p_new - log p_old| of each row; NaN where a side has none."""
    assert old.gates is not None
    assert new.gates is not None
    with np.errstate(invalid="ignore"):  # a file may hold a signalling NaN
        values = [gates.logprobs_TLK.astype(np.float64) for gates in (old.gates, new.gates)]
    if values[0].shape != values[1].shape:
        got = " and ".join(str(len(value)) for value in values)
        raise MismatchError(f"sample {name}: got {got} rows, expected two recomputes of one dump")
    shift_TL: Any = np.abs(values[1] - values[0]).mean(axis=2)
    for side in (old, new):
        if side.routes is not None and side.routes.missing_TL is not None:
            shift_TL[side.routes.missing_TL] = np.nan
    return shift_TL  # type: ignore[no-any-return]


def _mass(sample: Sample, wanted: slice, whole_T: NDArray[np.bool_]) -> Floats:
    """float64 [L], the sums over some tokens of how probable the router finds the row's experts."""
    assert sample.gates is not None
    logprobs_TLK = sample.gates.logprobs_TLK[wanted][whole_T]
    found: Floats = np.exp(logprobs_TLK.astype(np.float64)).sum(axis=2).sum(axis=0)
    return found


def _selected(sample: Sample, name: str, tokens: str) -> slice:
    """The rows of the selected tokens."""
    if tokens == "all":
        return slice(None)
    if sample.prompt_length is None:
        raise MismatchError(f"sample {name}: the prompt length is not known: expected tokens all")
    start = 0 if sample.routes is None else sample.routes.start
    split = max(sample.prompt_length - start, 0)
    return slice(split) if tokens == "prompt" else slice(split, None)


@dataclass(frozen=True, slots=True, eq=False)
class LagShift:
    """The router shift of a comparison's pairs, added up; interval is of its mean gamma."""

    total: RouterShift
    interval: Interval | None


def shift_of(
    comparison: Comparison, shifts: Mapping[tuple[str, str, str], RouterShift], plan: Bootstrap
) -> LagShift | None:
    """The shift of a staleness all of whose pairs have one; None for others."""
    total = shift_in_all(comparison, shifts)
    return None if total is None else LagShift(total, _interval(total, plan))


def shift_in_all(
    comparison: Comparison, shifts: Mapping[tuple[str, str, str], RouterShift]
) -> RouterShift | None:
    """The same without an interval."""
    keys = [(*pair, comparison.mode) for pair in comparison.pairs]
    if comparison.kind != "staleness" or not all(key in shifts for key in keys):
        return None
    return reduce(operator.add, [shifts[key] for key in keys])


def _interval(shift: RouterShift, plan: Bootstrap) -> Interval | None:
    """The interval of a mean gamma, over sequences."""
    columns = shift.buckets.sums_CM
    return rate_intervals(columns[:, 1:], columns[:, :1], plan)[0]
