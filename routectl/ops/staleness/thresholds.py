"""Thresholds on the comparisons: ``staleness@lag2:15%``, ``mismatch:12%``, ``total_f2:10%``.

And on what replay gains: ``gain_r3:2``, ``k3_r2@lag1:0.01``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from ...errors import MismatchError, RoutectlError, unknown
from ...margins import EPS
from ..diff.metrics import METRICS
from ..diff.thresholds import Baseline, Failure, Threshold, is_over, judge, parse_threshold
from .comparison import Comparison
from .staleness import Staleness

__all__ = ["STALENESS_METRICS", "judge_staleness", "parse_staleness_threshold"]

_OF_TOTAL = tuple(f"total_{m.name}" for m in METRICS if m.name != "mismatch")
_OF_GAIN = {  # as their figure is parsed: f2 is a rate
    f"{name}_{mode.lower()}": (mode, "f2" if name == "f2" else "k3")
    for name in ("gain", "k3", "f2")
    for mode in ("R2", "R3")
}
STALENESS_METRICS = ("staleness", "total", *(m.name for m in METRICS), *_OF_TOTAL, *_OF_GAIN)
_PATTERN = re.compile(r"(?P<name>[a-z_0-9.]+)(@lag(?P<lag>\d+))?(?P<rest>[@:].*)")


def _kind_of(metric: str) -> tuple[str, str]:
    """The comparison that a metric is of, gain for one of replay, and its name there."""
    base = metric.partition("@")[0]
    if base in _OF_GAIN:
        return "gain", _OF_GAIN[base][1]
    if metric.startswith("staleness"):
        return "staleness", "mismatch"
    if metric.startswith("total"):
        return "total", metric.removeprefix("total").removeprefix("_") or "mismatch"
    return "mismatch", metric


def parse_staleness_threshold(text: str, *, over: bool = True) -> Threshold:
    """Read METRIC[@lagN][@LAYER]:N[%], for example staleness@lag2:15%, mismatch:12%, f2:10%.

    A metric of ``diff`` is of the mismatch, with total_ before it of the total; "total" is the
    total's row mismatch, "staleness" the row mismatch at a lag, or at every lag without @lagN.
    gain_r2 and gain_r3 are k3 without replay over k3 with it, k3_r3 and the like that itself, of
    the weights that sampled, lag 0, or at a lag. metric in the result keeps the lag:
    "staleness@lag2". Raises RoutectlError; an unknown metric is answered with the list.
    """
    parts = _PATTERN.fullmatch(text.strip())
    if parts is None:
        raise RoutectlError(
            f"threshold {text!r}: expected METRIC[@lagN][@LAYER]:N[%], for example "
            "staleness@lag2:15% or mismatch:12%"
        )
    name, lag = parts["name"], parts["lag"]
    if name not in STALENESS_METRICS:
        raise unknown("metric", name, STALENESS_METRICS, RoutectlError)
    kind, inner = _kind_of(name)
    if lag is not None and kind not in ("staleness", "gain"):
        raise RoutectlError(
            f"threshold {text!r}: {name} has no lag: staleness and what replay gains have"
        )
    plain = f"{inner}{parts['rest']}"
    try:
        found = parse_threshold(plain, over=over)
    except RoutectlError as error:
        raise type(error)(str(error).replace(repr(plain), repr(text)), hint=error.hint) from error
    metric = name if lag is None else f"{name}@lag{int(lag)}"
    relative_to = None if found.relative_to is None else metric
    return replace(found, text=text, metric=metric, relative_to=relative_to)


def _gated(result: Staleness, limit: Threshold) -> list[tuple[str, Comparison]]:
    """The comparisons that a threshold is held against, each with the metric's full name."""
    kind, _ = _kind_of(limit.metric)
    parts = result.by_lag if kind == "staleness" else result.comparisons
    mode = next(iter(result.modes), None)
    found = [c for c in parts if c.kind == kind and c.mode == mode]
    if kind != "staleness":
        if not found:
            raise MismatchError(f"threshold {limit.text!r}: there is no {kind} to hold it against")
        return [(limit.metric, c) for c in found]
    wanted = [(f"staleness@lag{c.lag}", c) for c in found]
    if limit.metric != "staleness":
        wanted = [(name, c) for name, c in wanted if name == limit.metric]
    if not wanted:
        lags = ", ".join(str(c.lag) for c in found)
        raise MismatchError(
            f"threshold {limit.text!r}: no two versions are so far apart: "
            + (f"the lags are {lags}" if lags else "one version has no lag"),
            hint=None if lags else "--at NAME=WHERE again names another version",
        )
    return wanted


def judge_staleness(
    result: Staleness,
    limits: Sequence[Threshold],
    *,
    eps: float = EPS,
    baseline: Baseline | None = None,
) -> tuple[Failure, ...]:
    """The thresholds that are crossed; figures are of the free recomputes where there are any.

    Raises MismatchError when a gated figure does not exist: a lag that no two versions have, no
    log-probs, no margins, no rows of a named version.
    """
    failed: list[Failure] = []
    for limit in limits:
        if _kind_of(limit.metric)[0] == "gain":
            failed += _judged_gain(result, limit, baseline or Baseline())
            continue
        inner = replace(limit, metric=_kind_of(limit.metric)[1])
        for name, comparison in _gated(result, limit):
            named = replace(inner, relative_to=None if limit.relative_to is None else name)
            crossed = judge(comparison.result, [named], eps=eps, baseline=baseline).failed
            failed += [replace(failure, metric=name) for failure in crossed]
    return tuple(failed)


def _judged_gain(result: Staleness, limit: Threshold, baseline: Baseline) -> list[Failure]:
    """What replay gains against a threshold: of the one version that is at its lag."""
    name, _, lag = limit.metric.partition("@lag")
    mode, _ = _OF_GAIN[name]
    known = result.gains.by_lag
    found = next((one for one in known if one.lag == int(lag or 0)), None)
    if found is None or mode not in found.figures:
        lags = ", ".join(str(one.lag) for one in known if mode in one.figures)
        raise MismatchError(
            f"threshold {limit.text!r}: there is no {name} at lag {int(lag or 0)}: "
            + (f"it is known at lag {lags}" if lags else "what replay gains is not measured"),
            hint=None if lags else "docs/staleness.md: what replay gains",
        )
    fall, figures = found.fall(mode), found.figures[mode]
    value = {"gain": None if fall is None else fall.ratio, "k3": figures.k3, "f2": figures.over[-1]}
    number = value[name.partition("_")[0]]
    number = math.nan if number is None or found.counts.one_sided else number
    allowed = baseline.allowed(limit, None)
    if not is_over(number, allowed, over=limit.over):
        return []
    return [Failure(limit.text, limit.metric, None, number, allowed)]
