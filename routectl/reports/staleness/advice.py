"""advise: what the four comparisons mean for a run, in words that hold the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...margins import EPS
from ...ops.adding.intervals import Interval
from ...ops.staleness.advice import AdviceLimits, Grounds, grounds_of
from ...ops.staleness.comparison import BROKEN, Comparison
from ...ops.staleness.drift import Nearest
from ...ops.staleness.staleness import Staleness
from .replay_advice import RULE, lines_of_stale, lines_of_steps, measured_text

__all__ = ["Advice", "Finding", "advise"]

_MODES = {
    "none": "no replay: no sample is trained on after an update",
    "R2": "replay R2: the second of two mini-steps is stale; R2 has no bias in the first",
    "R3": "replay R3: several updates on the same samples, frozen at the engine's",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the numbers say: what about, in a sentence, with its evidence.

    about: mode, mismatch, nearest, cached, staleness, f2 or spans. alarm: something is wrong or
    over a limit, and not merely advice.
    """

    about: str
    alarm: bool
    text: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """The replay mode that the run needs, and all findings, alarms first.

    mode is none, R2 or R3; None when the mini-steps are not known and modes depend on them, or
    when rows are of other weights than their label says, which comes first.
    """

    mode: str | None
    findings: tuple[Finding, ...]


def advise(
    result: Staleness,
    *,
    mini_steps: int | None = None,
    eps: float = EPS,
    limits: AdviceLimits | None = None,
) -> Advice:
    """Which replay the run needs, and what in the numbers is not as it should be.

    mini_steps is the global batch / the mini-batch: updates on the samples of one rollout. Where
    what replay gains was measured, the mode is that of the lower k3 beyond its interval, at the
    last mini-step that was measured; without mini_steps, the one that is so at all of them.

    Beside it stands a rule, which alone says the mode where nothing was measured. It is Qwen's
    (arXiv 2512.01374): 1 none, 2 R2, 4 and more R3. They do not speak of 3; it counts as R3 here,
    since a run that is too stale collapses and R3's bias only costs some score. F(2) of the
    mismatch over its limit then asks for R3 whatever the mini-steps. eps is the margin up to which
    a flip is a near-tie. Raises ValueError when mini_steps is below 1.
    """
    if mini_steps is not None and mini_steps < 1:
        raise ValueError(f"mini_steps must be at least 1, got {mini_steps}")
    grounds = grounds_of(result, mini_steps, eps, limits)
    findings = [
        *_of_mismatch(grounds),
        *map(_of_nearest, grounds.nearest),
        *_of_cached(grounds),
        *(_of_f2(kind, c, grounds.limits.f2) for kind, c in grounds.scattered.items()),
        *_of_staleness(grounds),
        *_of_spans(grounds),
        _of_mode(grounds),
    ]
    return Advice(grounds.mode, tuple(sorted(findings, key=lambda finding: not finding.alarm)))


def _share(value: float | None) -> str:
    """A rate in words; 0 only when it is 0."""
    if value is None:
        return "unknown"
    return f"{100 * value:.2f} %" if value == 0 or value >= 0.00005 else "under 0.01 %"


def _with(interval: Interval | None) -> str:
    """An interval in words, nothing where there is none."""
    if interval is None:
        return ""
    return f" ({100 * interval.level:g} %: {_share(interval.low)} to {_share(interval.high)})"


def _said(comparison: Comparison, name: str) -> str:
    """A comparison's row mismatch in words."""
    return (
        f"{name} {_share(comparison.mismatch_rate)}{_with(comparison.intervals.mismatch)}, "
        f"{comparison.result.rows_mismatched:,} of {comparison.result.rows:,} rows"
    )


def _of_mode(grounds: Grounds) -> Finding:
    """The replay mode, why, and the numbers that it is about."""
    mode, mismatch, mini_steps = grounds.mode, grounds.mismatch, grounds.mini_steps
    evidence = [] if grounds.mislabelled else list(lines_of_steps(grounds))
    evidence += [] if mismatch is None else [_said(mismatch, "mismatch")]
    evidence += [_said(c, f"staleness at lag {c.lag}") for c in grounds.lags]
    if not grounds.lags:
        evidence.append("staleness is not known: one version was given")
    if mismatch is not None and grounds.floor is not None:
        evidence.append(f"noise floor {_share(grounds.floor)}")
        if mode == "R3" and grounds.within_noise:
            evidence.append("the mismatch is within the noise floor: R2 freezes the same routes")
    text = measured_text(grounds)
    if grounds.mislabelled:
        text = (
            "no replay is advised: rows are of other weights than their label says; act on the "
            "alarm first"
        )
    elif text is None and mode is None:
        text = "which replay the run needs depends on its mini-steps (global batch / mini-batch)"
    elif text is None and grounds.collapse:
        text = "replay R3: the log-probs are as far apart as where training collapses without it"
    elif text is None:
        text = f"{_MODES[mode or 'none']} (Qwen's rule at mini-steps {mini_steps}, {RULE})"
        if mini_steps == 3:
            evidence.append("the rule is silent on 3 mini-steps: taken as 4, the safer side")
    return Finding("mode", False, text, tuple(evidence))


def _lines_of_excess(grounds: Grounds) -> Iterator[str]:
    """What in a mismatch no rounding makes, a line each."""
    excess, limits = grounds.excess, grounds.limits
    if excess.first_clear is not None:
        layer, clear_rate = excess.first_clear
        yield (
            f"{_share(clear_rate)} of the rows of layer {layer}, the first, flip at a margin above "
            f"{grounds.eps:g} (limit {_share(limits.first_clear)}): nothing upstream explains that"
        )
    for layer, mismatch_rate in excess.layers:
        yield f"layer {layer} mismatches in {_share(mismatch_rate)} of its rows"
    if excess.samples and excess.worst is not None:
        yield (
            f"{excess.samples} of {excess.compared} samples mismatch in more than "
            f"{_share(BROKEN)} of their rows; the worst is {excess.worst.sample}, "
            f"{_share(excess.worst.mismatch_rate)}"
        )
    if excess.noise_times is not None:
        yield (
            f"the mismatch is {excess.noise_times:.0f} times the noise floor, "
            f"{_share(grounds.floor)}"
        )


def _of_mismatch(grounds: Grounds) -> Iterator[Finding]:
    """Whether rounding explains the mismatch."""
    mismatch, flips = grounds.mismatch, grounds.flips
    if mismatch is None:
        return
    said = _said(mismatch, "mismatch")
    if grounds.excess:
        text = "the mismatch is more than rounding explains: run `routectl check --against`"
        yield Finding("mismatch", True, text, (said, *_lines_of_excess(grounds)))
    elif not mismatch.result.rows_mismatched:
        yield Finding("mismatch", False, "the engine and the trainer agree in every row", (said,))
    elif grounds.mixed:
        return  # other weights explain it
    elif flips is not None:
        text = "rounding can explain the mismatch: the first MoE layer flips at small margins"
        margin = flips.quantile(0.5)
        split = f"{flips.ties + flips.near:,} of {flips.mismatched:,} flips are ties or near-ties"
        yield Finding("mismatch", False, text, (said, f"{split}; median margin {margin:.2g}"))
    elif not grounds.floor:
        text = "whether rounding explains the mismatch is not known: no side has margins"
        yield Finding("mismatch", False, text, (said,))


def _of_nearest(nearest: Nearest) -> Finding:
    """Rows, or some sequences, that are closer to another version than to their own."""
    own, other, found = nearest.own, nearest.nearest, nearest.sequences
    if nearest.is_other:
        assert nearest.gap is not None
        text = (
            f"rows of {own} are closest to {other}: the engine had other weights than its label "
            "says, or the versions are named wrongly"
        )
        return Finding("nearest", True, text, (_rates_text(nearest), _gap_text(nearest.gap)))
    text = (
        f"at least {found.number:,} of {found.compared:,} sequences of {own} are closer to "
        f"{', '.join(found.closer)}: their label is wrong; `routectl check DUMP --candidates` "
        "names them"
    )
    counts = ", ".join(f"{count:,} to {name}" for name, count in found.closer.items())
    said = ", ".join(f"with {name} {_share(rate)}" for name, rate in nearest.rates.items())
    evidence = (f"by sequence: {counts} ({nearest.mode})", f"of all rows: mismatch {said}")
    return Finding("nearest", True, text, evidence)


def _of_cached(grounds: Grounds) -> Iterator[Finding]:
    """Cached rows that mismatch far more than the others."""
    if grounds.cached is None:
        return
    found = grounds.cached
    names = ", ".join(dict.fromkeys(one.nearest for one in found.nearest))
    closest = f", closest to {names}" if names else ""
    text = (
        f"reused prefixes mismatch more than the rest: they are of older weights{closest}; flush "
        "the engine's cache at each update"
    )
    evidence = (
        _said(found.cached, "cached rows"),
        _said(found.others, "the others"),
        _gap_text(found.gap),
        *(f"cached rows: {_rates_text(one)}" for one in found.nearest),
    )
    yield Finding("cached", True, text, evidence)


def _rates_text(nearest: Nearest) -> str:
    own, other = nearest.own, nearest.nearest
    return (
        f"mismatch with {own} {_share(nearest.rates[own])}, with {other} "
        f"{_share(nearest.rates[other])} ({nearest.mode})"
    )


def _gap_text(gap: Interval) -> str:
    return f"the difference lies in {_share(gap.low)} to {_share(gap.high)}"


def _of_f2(kind: str, comparison: Comparison, limit: float) -> Finding:
    """F(2) over the limit."""
    value, tokens = _share(comparison.f2_rate), comparison.result.logprobs.tokens
    text = (
        f"F(2) of the {kind} is over {_share(limit)}, where R3's authors saw training "
        "collapse (arXiv 2510.11370)"
    )
    said = f"F(2) {value}{_with(comparison.intervals.f2)} of {tokens:,} tokens"
    return Finding("f2", True, text, (said,))


def _of_staleness(grounds: Grounds) -> Iterator[Finding]:
    """The smallest lag at which staleness passes its limit."""
    stale = grounds.stale
    if stale is not None:
        text = f"routes are stale from lag {stale.lag} on: over {_share(grounds.limits.staleness)}"
        said = _said(stale, f"staleness at lag {stale.lag}")
        yield Finding("staleness", True, text, (said, *lines_of_stale(grounds)))


def _of_spans(grounds: Grounds) -> Iterator[Finding]:
    """Rows that the mismatch could not hold."""
    if not grounds.left_out:
        return
    share = _share(sum(grounds.left_out.values()) / grounds.rows)
    text = f"{share} of the dump's rows are not in the mismatch"
    named = ", ".join(f"{count:,} {name}" for name, count in grounds.left_out.items())
    unknown = ", ".join(f"{n} ({count:,} rows)" for n, count in grounds.unknown.items())
    more = [f"no version is named {unknown}"] if unknown else []
    yield Finding("spans", False, text, (f"{named} of {grounds.rows:,}", *more))
