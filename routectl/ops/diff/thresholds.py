"""Thresholds, parsed, never evaluated: ``mismatch:1%``, ``overlap@3:0.99``, ``mismatch@*:+2%``.

The last is relative to a baseline: numbers that were accepted, by stable names.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ...errors import MismatchError, RoutectlError
from ...margins import EPS, pattern_of
from .measures import layer_measures, total_measures
from .metrics import METRICS, Metric
from .result import DiffResult
from .threshold_words import unknown_metric, wrong_form

__all__ = [
    "NOTHING",
    "Baseline",
    "Failure",
    "Threshold",
    "Unmatched",
    "Verdict",
    "is_over",
    "judge",
    "left_over",
    "parse_threshold",
    "scalar_name",
]


_BY_NAME = {metric.name: metric for metric in METRICS}
_FORM = "METRIC[@LAYER]:N[%]", "mismatch:1%"
_OF_MARGINS = ("tie", "near", "clear", "margin_coverage")
_PATTERN = re.compile(
    r"(?P<name>[a-z_0-9.]+)(@(?P<layer>\d+|\*))?:(?P<number>[^%]+)(?P<percent>%)?"
)


@dataclass(frozen=True, slots=True)
class Threshold:
    """One limit. layer is a layer number, "*" for every layer, or None for the total.

    relative_to is the metric of a baseline that limit is added to, None where it stands alone.
    """

    text: str
    metric: str
    layer: int | str | None
    limit: float
    over: bool
    relative_to: str | None = None


def scalar_name(metric: str, layer: int | None = None) -> str:
    """The stable name of a figure: ``routectl/mismatch/layer_007``, ``routectl/staleness/lag_2``.

    metric is a threshold's, with its lag; layer is None for the figure of all layers.
    """
    name = f"routectl/{metric.replace('@lag', '/lag_')}"
    return name if layer is None else f"{name}/layer_{layer:03d}"


@dataclass(frozen=True, slots=True)
class Baseline:
    """Numbers that were accepted, by ``scalar_name``.

    accepting: the numbers measured now are to be the accepted ones, so none of them is over.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    accepting: bool = False

    def allowed(self, threshold: Threshold, layer: int | None) -> float:
        """The limit of a threshold: its own, or where it is relative the accepted number plus it.

        Raises RoutectlError where no number was accepted.
        """
        if threshold.relative_to is None:
            return threshold.limit
        if self.accepting:
            return math.inf if threshold.over else -math.inf
        name = scalar_name(threshold.relative_to, layer)
        if name not in self.numbers:
            raise RoutectlError(
                f"threshold {threshold.text!r}: the baseline has no {name}",
                hint="the same with --update-baseline stores what is measured now",
            )
        limit = self.numbers[name] + threshold.limit
        if not math.isfinite(limit):
            raise RoutectlError(
                f"threshold {threshold.text!r}: added to the accepted {name}, "
                f"{self.numbers[name]:g}, the limit is not finite"
            )
        return limit


@dataclass(frozen=True, slots=True)
class Failure:
    """A threshold that was crossed, where, and the value found, which may not be finite."""

    threshold: str
    metric: str
    layer: int | None
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class Unmatched:
    """What one dump has and the other lost: a difference, whatever the rows that are in both say.

    samples  without a partner
    layers   that one side alone has
    rows     of paired samples that the other side lacks, those left out by a declared start, a
             loss mask or the last token aside: see ``align.Extent``
    """

    samples: int = 0
    layers: int = 0
    rows: int = 0

    def __bool__(self) -> bool:
        return bool(self.samples or self.layers or self.rows)


NOTHING = Unmatched()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the exit code says.

    differs is True when a row is mismatched, or something is unmatched; failed lists crossed
    thresholds. incomparable lists layers in which nothing was compared. eps is the margin up to
    which a flip is a near-tie. unmatched is what counts as a difference, allowed tells that it
    was asked not to.
    """

    differs: bool
    gated: bool
    failed: tuple[Failure, ...]
    incomparable: tuple[int, ...]
    eps: float = EPS
    unmatched: Unmatched = NOTHING
    allowed: bool = False

    @property
    def exit_code(self) -> int:
        """0 same or within thresholds, 1 differs or over one, 2 nothing compared in a layer."""
        if self.incomparable:
            return 2
        over = bool(self.failed) if self.gated else self.differs
        return int(over or bool(self.unmatched))


def is_over(value: float, limit: float, *, over: bool) -> bool:
    """Whether a figure is beyond an upper or a lower limit; one that is not finite always is."""
    return not math.isfinite(value) or (value > limit if over else value < limit)


def parse_threshold(text: str, *, over: bool) -> Threshold:
    """Read METRIC[@LAYER]:N[%]; ``over`` for an upper limit. Raises RoutectlError.

    Of an upper limit +N is relative to a baseline, of a lower one -N where it is of a rate:
    of other figures it is a number below 0.
    """
    parts = _PATTERN.fullmatch(text.strip())
    if parts is None:
        raise wrong_form(text, _BY_NAME, partial(parse_threshold, over=over), _FORM)
    metric = _BY_NAME.get(parts["name"])
    if metric is None:
        parse = partial(parse_threshold, over=over)
        raise unknown_metric(text, parts["name"], _BY_NAME, parse, _FORM)
    try:
        limit = float(parts["number"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise RoutectlError(f"threshold {text!r}: {parts['number']!r} is not a number")
    if parts["percent"] and not metric.is_rate:
        raise RoutectlError(f"threshold {text!r}: {metric.name} is no rate: drop the %")
    limit = limit / 100 if parts["percent"] else limit
    relative = _is_relative(parts["number"], metric, over)
    if metric.is_rate and not 0 <= (abs(limit) if relative else limit) <= 1:
        percent = 1 < abs(limit) <= 100 and not parts["percent"]
        raise RoutectlError(
            f"threshold {text!r}: {metric.name} is a rate: got {limit:g}, expected 0..1",
            hint=f"{metric.name}:{parts['number']}% if percent was meant" if percent else None,
        )
    layer = parts["layer"]
    if layer is not None and metric.of_measures is None:
        raise RoutectlError(f"threshold {text!r}: {metric.name} has no value per layer")
    place = int(layer) if layer and layer != "*" else layer
    return Threshold(text, metric.name, place, limit, over, metric.name if relative else None)


def _is_relative(number: str, metric: Metric, over: bool) -> bool:
    """Whether a limit is to be added to a baseline's number. Raises RoutectlError for +N of under.

    A rate is never below 0, so that -N has no other meaning.
    """
    sign = number.strip()[:1]
    if sign == "+" and not over:
        raise RoutectlError(f"{metric.name}:{number}: a lower limit is relative as -N, not as +N")
    return sign == "+" if over else sign == "-" and metric.is_rate


def _values(
    result: DiffResult, limit: Threshold, eps: float
) -> list[tuple[int | None, float | None]]:
    """The gated values: one for the total or a layer, one a layer for ``*``."""
    metric = _BY_NAME[limit.metric]
    if metric.of_measures is None:
        assert metric.of_result is not None
        return [(None, metric.of_result(result))]
    if limit.layer is None:
        return [(None, metric.of_measures(total_measures(result, eps)))]
    if limit.layer != "*" and limit.layer not in result.layers:
        raise MismatchError(
            f"threshold {limit.text!r}: layer {limit.layer} was not compared: "
            f"{result.layers[0]}..{result.layers[-1]} were"
        )
    parts = layer_measures(result.counts, result.layers, result.margins, eps)
    return [(m.layer, metric.of_measures(m)) for m in parts if limit.layer in ("*", m.layer)]


def _why_none(result: DiffResult, metric: str, layer: int | None) -> str:
    """Why a figure has no value: a rate of no rows, margins or log-probs that are not there."""
    if metric in _OF_MARGINS:
        return f"no compared row{'' if layer is None else f' of layer {layer}'} has a margin"
    if layer is not None:
        return f"no row of layer {layer} was compared"
    if metric.startswith("pearson") and result.logprobs.tokens:
        return "the log-probs of a side are constant"
    return "a side has no log-probs"


def judge(
    result: DiffResult,
    limits: Sequence[Threshold] = (),
    *,
    eps: float = EPS,
    baseline: Baseline | None = None,
    allow_unmatched: bool = False,
) -> Verdict:
    """Hold a result against thresholds; without any, every mismatch counts.

    What one dump alone has counts with and without thresholds, unless allow_unmatched, or where a
    threshold says how much of it may be: unmatched for samples, coverage for all. A mismatched
    row with a margin above 0 and up to ``eps`` is a near-tie; the same eps is then in the document.
    A figure that is not finite crosses every threshold on it, relative ones and lower ones too; so
    do figures of log-probs where a token that was trained on has one on one side alone (NaN).
    Raises MismatchError when a gated figure does not exist (no log-probs, no margins,
    no such layer), RoutectlError when the baseline has no number that a relative threshold needs,
    ValueError when eps is negative or not finite.
    """
    pattern_of(eps)
    accepted = baseline or Baseline()
    failed = []
    for limit in limits:
        for layer, value in _values(result, limit, eps):
            if value is None:
                raise MismatchError(
                    f"threshold {limit.text!r}: there is no {limit.metric} to hold it against: "
                    + _why_none(result, limit.metric, layer)
                )
            allowed = accepted.allowed(limit, layer)
            if is_over(value, allowed, over=limit.over):
                failed.append(Failure(limit.text, limit.metric, layer, value, allowed))
    compared = result.counts.swaps_LS.sum(axis=1)
    empty = tuple(layer for layer, n in zip(result.layers, compared, strict=True) if not n)
    unmatched = NOTHING if allow_unmatched else left_over(_unmatched(result), limits)
    differs = result.rows_mismatched > 0 or bool(unmatched)
    return Verdict(
        differs, bool(limits), tuple(failed), empty, eps, unmatched, allowed=allow_unmatched
    )


def _unmatched(result: DiffResult) -> Unmatched:
    """What one side alone has."""
    samples, counts = result.samples, result.counts
    return Unmatched(
        samples.only_old + samples.only_new,
        len(result.layers_only_old) + len(result.layers_only_new),
        counts.lost_old + counts.lost_new,
    )


def left_over(unmatched: Unmatched, limits: Sequence[Threshold]) -> Unmatched:
    """What is unmatched, without that of which a threshold says how much may be."""
    gated = {limit.metric for limit in limits}
    if "coverage" in gated:
        return NOTHING
    return replace(unmatched, samples=0) if "unmatched" in gated else unmatched
