"""What in the four comparisons advice rests on: figures and kinds; the words are a report's."""

from dataclasses import dataclass, field

from ...margins import EPS
from ..adding.exceeding import exceeds
from ..diff.flips import Flips
from ..diff.measures import layer_measures, rate, total_measures
from ..diff.result import SequenceCount
from .comparison import BROKEN, Comparison
from .drift import Nearest
from .prefixes import OlderPrefixes
from .replays import Gains, VersionGain
from .staleness import Staleness

__all__ = ["AdviceLimits", "Excess", "Grounds", "MeasuredSteps", "grounds_of"]


@dataclass(frozen=True, slots=True)
class AdviceLimits:
    """From where a figure is worth an alarm; docs/metrics.md has the reasons.

    first_clear   clear flips in the first MoE layer, of its rows with a margin
    broken        row mismatch of a layer that no arithmetic makes; of a sample it is BROKEN
    noise_factor  the mismatch in noise floors, where no margins are known
    staleness     row mismatch between two versions
    f2            share of response tokens with a ratio over 2 or under 1/2
    """

    first_clear: float = 0.03
    broken: float = BROKEN
    noise_factor: float = 10.0
    staleness: float = 0.15
    f2: float = 0.1


@dataclass(frozen=True, slots=True)
class Excess:
    """What in a mismatch no rounding makes; false where there is nothing.

    first_clear  the first MoE layer and its clear flips, of its rows with a margin; None within
                 the limit
    layers       layers that are broken, each with its row mismatch
    samples      how many samples are broken, of ``compared``; worst is the worst of them
    noise_times  the mismatch in noise floors; None within the limit
    """

    first_clear: tuple[int, float] | None = None
    layers: tuple[tuple[int, float], ...] = ()
    samples: int = 0
    compared: int = 0
    worst: SequenceCount | None = None
    noise_times: float | None = None

    def __bool__(self) -> bool:
        found = (self.first_clear, self.layers or None, self.samples or None, self.noise_times)
        return any(one is not None for one in found)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSteps:
    """What replay gains at the last of so many mini-steps, and the mode that the rule has there."""

    mini_steps: int
    gain: VersionGain
    rule: str

    @property
    def part(self) -> bool:
        """Whether the rule and the measurement are of two minds."""
        return self.gain.best != self.rule


@dataclass(frozen=True, slots=True, eq=False)
class Grounds:
    """What the numbers say; None, or nothing, where they say nothing.

    mode      the replay mode that the run needs: none, R2 or R3; that of the lower k3 where that
              was measured, else by the rule. None when the mini-steps are not known and modes
              depend on them, nothing was measured and nothing forces one, or rows are mislabelled
    steps     what was measured by lag, which is what the last of so many mini-steps is at, and
              what the rule says there; decided is the one that mode is of, None: of all, or none
    lags      staleness by lag, free where there is any
    floor     the greatest noise floor
    flips     the mismatched rows by margin; excess what of the mismatch is more than rounding
    nearest   rows, or some sequences, that are closer to another version than to their own
    cached    reused prefixes, where they are older and the other rows what their label says
    scattered by kind, mismatch or total: the comparisons whose F(2) is over the limit
    stale     of the smallest lag at which staleness passes its limit
    left_out  rows by group that the mismatch could not hold, of ``rows``
    unknown   rows by the names that no version has
    """

    mode: str | None
    mini_steps: int | None
    eps: float
    limits: AdviceLimits
    mismatch: Comparison | None
    lags: tuple[Comparison, ...]
    floor: float | None
    flips: Flips | None
    excess: Excess
    nearest: tuple[Nearest, ...]
    cached: OlderPrefixes | None
    scattered: dict[str, Comparison]
    stale: Comparison | None
    rows: int
    steps: tuple["MeasuredSteps", ...] = ()
    decided: VersionGain | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def mislabelled(self) -> bool:
        """Rows are of other weights than their label says: what it measures is no ground."""
        return bool(self.nearest) or self.cached is not None

    @property
    def mixed(self) -> bool:
        """The mismatch has such rows: older prefixes are in it where they are not apart."""
        return bool(self.nearest) or (self.cached is not None and "cached" not in self.left_out)

    @property
    def collapse(self) -> bool:
        """The engine's and the trainer's log-probs are as far apart as where training collapses."""
        return "mismatch" in self.scattered

    @property
    def within_noise(self) -> bool:
        """The mismatch is no more than the noise floor."""
        if self.mismatch is None or self.floor is None:
            return False
        return _mismatched(self.mismatch) <= self.floor * self.mismatch.result.rows


def grounds_of(
    result: Staleness, mini_steps: int | None, eps: float = EPS, limits: AdviceLimits | None = None
) -> Grounds:
    """The figures that advice on a run rests on; see ``advise`` for the rule and its source."""
    limits = limits or AdviceLimits()
    mismatch = _main(result, "mismatch")
    lags = tuple(c for c in result.by_lag if c.mode == result.by_lag[0].mode)
    floor = max((rate(n.rows_mismatched, n.rows) or 0.0 for n in result.noise), default=None)
    flips = None if mismatch is None else total_measures(mismatch.result, eps).flips
    scattered = _scattered(result, limits)
    groups = ("unlabelled", "uncertain", "boundary", *(["cached"] if result.cached_apart else []))
    rows = result.spans.rows
    measured, decided = _by_measurement(result.gains, mini_steps)
    assumed = "R3" if "mismatch" in scattered else _by_rule(mini_steps)
    nearest = tuple(n for n in result.drift.nearest if n.is_wrong)
    cached = None if nearest else result.prefixes
    return Grounds(
        mode=None if nearest or cached else assumed if measured is None else measured,
        mini_steps=mini_steps,
        eps=eps,
        limits=limits,
        mismatch=mismatch,
        excess=_excess(mismatch, eps, limits, floor if flips is None else None),
        floor=floor,
        flips=flips,
        lags=lags,
        stale=next((c for c in lags if (c.mismatch_rate or 0) > limits.staleness), None),
        nearest=nearest,
        cached=cached,
        scattered=scattered,
        rows=sum(rows.values()),
        steps=_steps(result.gains),
        decided=decided,
        left_out={group: rows[group] for group in groups if rows[group]},
        unknown=result.spans.unknown,
    )


def _main(result: Staleness, kind: str) -> Comparison | None:
    """The free mismatch or total, else the forced one."""
    return next((c for c in result.comparisons if c.kind == kind), None)


def _mismatched(comparison: Comparison) -> int:
    return comparison.result.rows_mismatched


def _by_rule(mini_steps: int | None) -> str | None:
    if mini_steps is None:
        return None
    return "none" if mini_steps == 1 else "R2" if mini_steps == 2 else "R3"


def _steps(gains: Gains) -> tuple[MeasuredSteps, ...]:
    """By mini-steps, ascending: after so many updates less one, the last of them is taken."""
    found = []
    for one in (one for one in gains.by_lag if one.is_enough):
        number = 1 + (one.lag or 0)
        found.append(MeasuredSteps(number, one, _by_rule(number) or "none"))
    return tuple(found)


def _by_measurement(gains: Gains, mini_steps: int | None) -> tuple[str | None, VersionGain | None]:
    """The mode with the lower k3, and where: at the greatest lag that the mini-steps reach.

    Without them, the mode that all lags have. None where none was measured of enough sequences, or
    lags differ.
    """
    enough = [one for one in gains.by_lag if one.is_enough]
    if mini_steps is None:
        modes = {one.best for one in enough}
        return (modes.pop() if len(modes) == 1 else None), None
    reached = [one for one in enough if (one.lag or 0) < mini_steps]
    return (reached[-1].best, reached[-1]) if reached else (None, None)


def _excess(
    mismatch: Comparison | None, eps: float, limits: AdviceLimits, floor: float | None
) -> Excess:
    """What no rounding makes; floor is None where margins say more than it."""
    if mismatch is None:
        return Excess()
    result = mismatch.result
    layers = layer_measures(result.counts, result.layers, result.margins, eps)
    first, flips = layers[0].clear_rate, layers[0].flips
    early = flips is not None and exceeds(flips.clear, flips.rows, limits.first_clear)
    ours = mismatch.mismatch_rate or 0.0
    return Excess(
        (result.layers[0], first) if early and first is not None else None,
        tuple(
            (layer, m.mismatch_rate or 0.0)
            for layer, m in zip(result.layers, layers, strict=True)
            if exceeds(m.rows_mismatched, m.rows, limits.broken)
        ),
        mismatch.counted.broken,
        result.samples.compared,
        next(iter(mismatch.counted.worst), None),
        ours / floor if floor and ours > limits.noise_factor * floor else None,
    )


def _scattered(result: Staleness, limits: AdviceLimits) -> dict[str, Comparison]:
    """By kind, mismatch or total: the comparisons whose F(2) is over the limit."""
    parts = ((kind, _main(result, kind)) for kind in ("mismatch", "total"))
    return {kind: c for kind, c in parts if c is not None and (c.f2_rate or 0) > limits.f2}
