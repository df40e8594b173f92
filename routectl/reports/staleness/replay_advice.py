"""What replay gains as advice: the mode that is measured to be better, and what a rule says."""

from collections.abc import Iterator, Sequence

from ...ops.staleness.advice import Grounds, MeasuredSteps
from ...ops.staleness.replays import Fall, VersionGain
from ..text.wording import figure, plural
from .gain import times

__all__ = ["RULE", "lines_of_stale", "lines_of_steps", "measured_text"]

RULE = "arXiv 2512.01374"  # where Qwen's rule is
_NO = {"none": "no replay", "R2": "replay R2", "R3": "replay R3"}


def measured_text(grounds: Grounds) -> str | None:
    """The mode that the measurement is for, and what the rule says; None where nothing was
    measured that says a mode.
    """
    steps, decided = grounds.steps, grounds.decided
    if decided is not None:
        at = next(one for one in steps if one.gain is decided)
        where = f"at mini-step {at.mini_steps}"
        if grounds.mini_steps != at.mini_steps:
            where += f", the last of {grounds.mini_steps} that was measured"
        return f"{_NO[decided.best]}: {_reason(decided)} {where}{_rule_of([at], grounds)}"
    if grounds.mini_steps is not None or not steps:
        return None
    modes = dict.fromkeys(one.gain.best for one in steps)
    by_mode = {m: [one.mini_steps for one in steps if one.gain.best == m] for m in modes}
    if len(by_mode) == 1:
        where = f"at mini-step {_numbers(by_mode[steps[0].gain.best])}{_rule_of(steps, grounds)}"
        return f"{_NO[steps[0].gain.best]}: {_reason(steps[0].gain)} {where}"
    parts = [f"{_NO[mode]} at {_numbers(numbers)}" for mode, numbers in by_mode.items()]
    return f"by the measured k3 it depends on the run's mini-steps: {', '.join(parts)}"


def _reason(gain: VersionGain) -> str:
    if gain.best == "none":
        return "none has a lower k3 beyond its interval"
    return "the lower k3 beyond its interval"


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _rule_of(steps: Sequence[MeasuredSteps], grounds: Grounds) -> str:
    """Where the rule says otherwise."""
    if grounds.mini_steps is not None and grounds.mini_steps != steps[-1].mini_steps:
        return ""
    parts = [one for one in steps if one.part]
    if not parts:
        return f" (Qwen's rule, {RULE}, says so too)"
    said = ", ".join(f"{_NO[one.rule]} at {one.mini_steps}" for one in parts)
    return f"; Qwen's rule ({RULE}) says {said}"


def lines_of_steps(grounds: Grounds) -> Iterator[str]:
    """What was measured at each number of mini-steps, and what the rule says there."""
    for one in grounds.steps:
        figures, falls = one.gain.figures, one.gain.falls
        parts = [f"k3 {figure(figures['none'].k3)} without replay"]
        for mode in ("R2", "R3"):
            fall = falls.get(("none", mode))
            if fall is not None and not (mode == "R2" and one.gain.lag == 0):
                parts.append(f"{figure(figures[mode].k3)} with {mode} ({_within(fall)})")
        between = falls.get(("R2", "R3"))
        if between is not None and one.gain.lag != 0:
            apart = "" if between.is_sure else ", not apart"
            parts.append(f"R2 over R3 ({_within(between)}{apart})")
        rule = f"says {_NO[one.rule]}" if one.part else "says so too"
        yield (
            f"{plural(one.mini_steps, 'mini-step')} ({one.gain.version}): {', '.join(parts)}: "
            f"{_NO[one.gain.best]}; Qwen's rule {rule}"
        )
    if any(one.part for one in grounds.steps):
        yield (
            "the rule weighs bias too, which k3 does not show: R2 has none in the first mini-step"
        )


def _within(fall: Fall) -> str:
    interval = fall.interval
    if interval is None:
        return times(fall.ratio)
    level = f"{100 * interval.level:g} %"
    return f"{times(fall.ratio)}, {level}: {times(interval.low)} to {times(interval.high)}"


def lines_of_stale(grounds: Grounds) -> Iterator[str]:
    """What replay still gains at the lags that are stale."""
    stale = grounds.stale
    assert stale is not None
    for one in grounds.steps:
        gain = one.gain
        if gain.best == "none" or (gain.lag or 0) < (stale.lag or 0):
            continue
        mode = "R3" if "R3" in gain.figures else gain.best
        fall = gain.fall(mode)
        if fall is not None and fall.ratio is not None and fall.is_sure:
            less = f"{100 * (1 - 1 / fall.ratio):.1f} %"
            yield (
                f"replay {mode} still lowers k3 at lag {gain.lag} by {less}: "
                f"{figure(gain.figures['none'].k3)} to {figure(gain.figures[mode].k3)}"
            )
