"""Thresholds on the comparisons: ``staleness@lag2:15%``, ``mismatch:12%``, ``total_f2:10%``.

And on what replay gains: ``gain_r3:2``, ``k3_r2@lag1:0.01``; on the router shift:
``gamma@lag1:0.95``, ``confidence@lag1@*:40%``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ...errors import MismatchError, RoutectlError
from ...margins import EPS
from ..diff.metrics import METRICS
from ..diff.threshold_words import unknown_metric, wrong_form
from ..diff.thresholds import Baseline, Failure, Threshold, is_over, judge, parse_threshold
from .comparison import Comparison
from .gamma import shift_in_all
from .staleness import Staleness

__all__ = ["STALENESS_METRICS", "judge_staleness", "parse_staleness_threshold"]

_OF_TOTAL = tuple(f"total_{m.name}" for m in METRICS if m.name != "mismatch")
_OF_GAIN = {  # as their figure is parsed: f2 is a rate
    f"{name}_{mode.lower()}": (mode, "f2" if name == "f2" else "k3")
    for name in ("gain", "k3", "f2")
    for mode in ("R2", "R3")
}
_OF_SHIFT = ("gamma", "confidence")  # rates, as overlap is
_OF_METRICS = (*(m.name for m in METRICS), *_OF_TOTAL)
STALENESS_METRICS = ("staleness", "total", *_OF_METRICS, *_OF_GAIN, *_OF_SHIFT)
_FORM = "METRIC[@lagN][@LAYER]:N[%]", "staleness@lag2:15% or mismatch:12%"
_PATTERN = re.compile(r"(?P<name>[a-z_0-9.]+)(@lag(?P<lag>\d+))?(?P<rest>[@:].*)")


def _kind_of(metric: str) -> tuple[str, str]:
    """The comparison that a metric is of, gain for one of replay, and its name there.

    shift for one of the router shift.
    """
    base = metric.partition("@")[0]
    if base in _OF_GAIN:
        return "gain", _OF_GAIN[base][1]
    if base in _OF_SHIFT:
        return "shift", "overlap"
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
    the weights that sampled, lag 0, or at a lag. gamma, and confidence at the newer weights, are of
    the router shift at a lag, or at every lag. metric in the result keeps the lag:
    "staleness@lag2". Raises RoutectlError; an unknown metric is answered with the list.
    """
    parts = _PATTERN.fullmatch(text.strip())
    if parts is None:
        parse = partial(parse_staleness_threshold, over=over)
        raise wrong_form(text, STALENESS_METRICS, parse, _FORM)
    name, lag = parts["name"], parts["lag"]
    if name not in STALENESS_METRICS:
        parse = partial(parse_staleness_threshold, over=over)
        raise unknown_metric(text, name, STALENESS_METRICS, parse, _FORM)
    kind, inner = _kind_of(name)
    if lag is not None and kind not in ("staleness", "gain", "shift"):
        raise RoutectlError(
            f"threshold {text!r}: {name} has no lag: staleness, router shift and what replay gains "
            "have"
        )
    if name == "gamma" and parts["rest"].startswith("@"):
        raise RoutectlError(f"threshold {text!r}: gamma is of all layers")
    plain = f"{inner}{parts['rest']}"
    try:
        found = parse_threshold(plain, over=over)
    except RoutectlError as error:
        told = str(error).replace(repr(plain), repr(text))
        told = told.replace(inner, name, 1) if kind == "shift" else told
        raise type(error)(told, hint=error.hint) from error
    metric = name if lag is None else f"{name}@lag{int(lag)}"
    relative_to = None if found.relative_to is None else metric
    return replace(found, text=text, metric=metric, relative_to=relative_to)


def _gated(result: Staleness, limit: Threshold) -> list[tuple[str, Comparison]]:
    """The comparisons that a threshold is held against, each with the metric's full name."""
    name, kind = limit.metric.partition("@")[0], _kind_of(limit.metric)[0]
    kind = "staleness" if kind == "shift" else kind
    parts = result.by_lag if kind == "staleness" else result.comparisons
    mode = next(iter(result.modes), None)
    found = [c for c in parts if c.kind == kind and c.mode == mode]
    if kind != "staleness":
        if not found:
            raise MismatchError(f"threshold {limit.text!r}: there is no {kind} to hold it against")
        return [(limit.metric, c) for c in found]
    wanted = [(f"{name}@lag{c.lag}", c) for c in found]
    if limit.metric != name:
        wanted = [(named, c) for named, c in wanted if named == limit.metric]
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
        if _kind_of(limit.metric)[0] == "shift":
            for name, comparison in _gated(result, limit):
                found = _of_shift(result, comparison, limit)
                failed += _judged_shift(found, replace(limit, metric=name), baseline or Baseline())
            continue
        inner = replace(limit, metric=_kind_of(limit.metric)[1])
        for name, comparison in _gated(result, limit):
            named = replace(inner, relative_to=None if limit.relative_to is None else name)
            crossed = judge(comparison.result, [named], eps=eps, baseline=baseline).failed
            failed += [replace(failure, metric=name) for failure in crossed]
    return tuple(failed)


def _of_shift(
    result: Staleness, comparison: Comparison, limit: Threshold
) -> dict[int | None, float]:
    """Gamma or confidence of a staleness by layer, None for that of all."""
    total = shift_in_all(comparison, result.shifts)
    if total is None or not total.tokens:
        raise MismatchError(
            f"threshold {limit.text!r}: there is no router shift at lag {comparison.lag}",
            hint="recompute --gate-logprobs makes what it is of",
        )
    if limit.metric.startswith("gamma"):
        assert total.mean_gamma is not None
        return {None: total.mean_gamma}
    new_L = total.confidence_L("new")
    assert new_L is not None
    by_layer: dict[int | None, float] = dict(zip(total.layers, new_L.tolist(), strict=True))
    if limit.layer is None:
        return {None: float(new_L.mean())}
    wanted = {n: value for n, value in by_layer.items() if limit.layer in ("*", n)}
    if not wanted:
        known = ", ".join(map(str, total.layers))
        raise MismatchError(f"threshold {limit.text!r}: no layer {limit.layer}: they are {known}")
    return wanted


def _judged_shift(
    values: dict[int | None, float], limit: Threshold, baseline: Baseline
) -> list[Failure]:
    """The figures, by layer, that are beyond a threshold."""
    failed = []
    for layer, value in values.items():
        allowed = baseline.allowed(limit, layer)
        if is_over(value, allowed, over=limit.over):
            failed.append(Failure(limit.text, limit.metric, layer, value, allowed))
    return failed


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
