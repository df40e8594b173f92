"""Router shift: how far the weights of two versions move what a router thinks of given experts.

Shape suffixes: T tokens, L MoE layers, K top_k, B bins.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...errors import MismatchError
from ..adding.intervals import Bootstrap, Interval, rate_intervals
from ..pairs.align import TOKENS, name_of
from ..pairs.join import join_keys
from .attribution import MODES, Version
from .comparison import Comparison
from .options import StalenessOptions

__all__ = [
    "GAMMA_BINS",
    "GAMMA_FLOOR",
    "LagShift",
    "RouterShift",
    "SequenceShift",
    "router_shift",
    "router_shifts",
    "shift_of",
]

GAMMA_FLOOR = 0.7  # below it RSPO clips gamma
GAMMA_BINS = 4096  # of a gamma from 0 to 1: as fine as what is stored resolves it

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SequenceShift:
    """What one sample adds up to: tokens, the sum of their gammas, and those below GAMMA_FLOOR."""

    sample: str
    tokens: int
    sum_gamma: float
    below: int

    @property
    def mean_gamma(self) -> float | None:
        """The mean gamma of the sample's tokens."""
        return self.sum_gamma / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True, eq=False)
class RouterShift:
    """The gammas of all tokens; counts and sums, so that results of shards add up with ``+``.

    layers       0-based, those compared
    tokens       tokens whose rows are known in every layer, on both sides; partial: in some alone
    unjoined     samples of either side without a partner that has gate log-probabilities too
    sum_shift_L  float64, sums over tokens of mean_{e in A} |log p_new(e) - log p_old(e)|
    gammas_B     int64 [GAMMA_BINS + 1], tokens by gamma: entry b is of round(gamma * GAMMA_BINS)
    sequences    each sample's part, for intervals over sequences
    """

    layers: tuple[int, ...]
    tokens: int
    partial: int
    unjoined: int
    sum_shift_L: Floats
    gammas_B: Ints
    sequences: tuple[SequenceShift, ...]

    def __add__(self, other: "RouterShift") -> "RouterShift":
        if self.layers != other.layers:
            raise ValueError("results of other layers do not add up")
        names = ("tokens", "partial", "unjoined", "sum_shift_L", "gammas_B", "sequences")
        return replace(self, **{n: getattr(self, n) + getattr(other, n) for n in names})

    @property
    def mean_gamma(self) -> float | None:
        """The mean over tokens; None without tokens."""
        total = sum(part.sum_gamma for part in self.sequences)
        return total / self.tokens if self.tokens else None

    @property
    def below(self) -> int:
        """Tokens with a gamma below GAMMA_FLOOR."""
        return sum(part.below for part in self.sequences)

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
    if tokens not in TOKENS:
        raise ValueError(f"tokens must be one of {TOKENS}, got {tokens!r}")
    for dump in (old, new):
        if not dump.meta.gates:
            raise MismatchError(
                f"{dump.meta.path}: no gate log-probabilities",
                hint="routectl recompute --gate-logprobs writes them",
            )
    common = tuple(n for n in old.meta.layers_L if n in new.meta.layers_L)
    if absent := [layer for layer in layers or () if layer not in common]:
        raise MismatchError(f"layers {absent} are not MoE layers of both dumps: got {list(common)}")
    common = common if layers is None else tuple(sorted(set(layers)))
    if not common:
        raise MismatchError(f"{old.meta.path} and {new.meta.path}: no layer to compare")
    joined = join_keys(old.keys, new.keys, "auto")
    unjoined = len(joined.only_old) + len(joined.only_new)
    result = replace(_nothing(common), unjoined=unjoined)
    sides = (old.select(layers=common), new.select(layers=common))
    for i, j in joined.pairs:
        sample = sides[0][i]
        result += _sample_shift(sample, sides[1][j], name_of(sample, i), tokens, common)
    if not result.tokens:
        raise MismatchError(
            f"{old.meta.path} and {new.meta.path}: no token to compare: {len(joined.pairs)} samples"
            f" match, {result.partial} tokens have some layers alone"
        )
    return result


def _nothing(layers: tuple[int, ...]) -> RouterShift:
    """The result of no tokens."""
    bins = np.zeros(GAMMA_BINS + 1, np.int64)
    return RouterShift(layers, 0, 0, 0, np.zeros(len(layers)), bins, ())


def _sample_shift(
    old: Sample, new: Sample, name: str, tokens: str, layers: tuple[int, ...]
) -> RouterShift:
    """The part of one sample."""
    nothing = _nothing(layers)
    if old.gates is None or new.gates is None:
        return replace(nothing, unjoined=2)
    if old.gates.of != new.gates.of:
        raise MismatchError(
            f"sample {name}: the gate log-probabilities are of other routes: expected two "
            "recomputes of one dump"
        )
    shift_TL = _shift(old, new, name)[_selected(old, name, tokens)]
    known_TL = ~np.isnan(shift_TL)
    whole_T = known_TL.all(axis=1)
    partial = int((known_TL.any(axis=1) & ~whole_T).sum())
    shift_TL = shift_TL[whole_T]
    gamma_T = np.exp(-shift_TL.mean(axis=1))
    part = SequenceShift(
        name, len(gamma_T), float(gamma_T.sum()), int((gamma_T < GAMMA_FLOOR).sum())
    )
    bins_T = np.round(gamma_T * GAMMA_BINS).astype(np.int64)
    return replace(
        nothing,
        tokens=part.tokens,
        partial=partial,
        sum_shift_L=shift_TL.sum(axis=0),
        gammas_B=np.bincount(bins_T, minlength=GAMMA_BINS + 1),
        sequences=(part,),
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


def _selected(sample: Sample, name: str, tokens: str) -> slice:
    """The rows of the selected tokens."""
    if tokens == "all":
        return slice(None)
    if sample.prompt_length is None:
        raise MismatchError(f"sample {name}: the prompt length is not known: expected tokens all")
    start = 0 if sample.routes is None else sample.routes.start
    split = max(sample.prompt_length - start, 0)
    return slice(split) if tokens == "prompt" else slice(split, None)


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


@dataclass(frozen=True, slots=True, eq=False)
class LagShift:
    """The router shift of a comparison's pairs, added up; interval is of its mean gamma."""

    total: RouterShift
    interval: Interval | None


def shift_of(
    comparison: Comparison, shifts: Mapping[tuple[str, str, str], RouterShift], plan: Bootstrap
) -> LagShift | None:
    """The shift of a staleness all of whose pairs have one; None for others."""
    keys = [(*pair, comparison.mode) for pair in comparison.pairs]
    if comparison.kind != "staleness" or not all(key in shifts for key in keys):
        return None
    total = reduce(operator.add, [shifts[key] for key in keys])
    return LagShift(total, _interval(total, plan))


def _interval(shift: RouterShift, plan: Bootstrap) -> Interval | None:
    """The interval of a mean gamma, over sequences."""
    sums: dict[str, list[float]] = {}
    for part in shift.sequences:
        own = sums.setdefault(part.sample, [0.0, 0.0])
        own[0] += part.sum_gamma
        own[1] += part.tokens
    sums_C2 = np.array(list(sums.values()))
    return rate_intervals(sums_C2[:, :1], sums_C2[:, 1:], plan)[0]
