"""advise: what the four comparisons mean for a run, in words that hold the numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...margins import EPS
from ..diff.diff import DiffResult
from ..diff.measures import layer_measures, rate, total_measures
from .comparison import Comparison
from .intervals import Interval
from .staleness import Staleness

__all__ = ["Advice", "AdviceLimits", "Finding", "advise"]


@dataclass(frozen=True, slots=True)
class AdviceLimits:
    """From where a figure is worth an alarm; docs/metrics.md has the reasons.

    first_clear   clear flips in the first MoE layer, of its rows with a margin
    broken        row mismatch of a layer, or of a sample, that no arithmetic makes
    noise_factor  the mismatch in noise floors, where no margins are known
    staleness     row mismatch between two versions
    f2            share of response tokens with a ratio over 2 or under 1/2
    """

    first_clear: float = 0.03
    broken: float = 0.5
    noise_factor: float = 10.0
    staleness: float = 0.15
    f2: float = 0.1


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

    mode is none, R2 or R3; None when the mini-steps are not known and nothing forces one.
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

    mini_steps is the global batch / the mini-batch: updates on the samples of one rollout. The
    rule is Qwen's (arXiv 2512.01374): 1 none, 2 R2, 4 and more R3. They do not speak of 3; it
    counts as R3 here, since a run that is too stale collapses and R3's bias only costs some score.
    F(2) of the mismatch over its limit asks for R3 whatever the mini-steps. eps is the margin up
    to which a flip is a near-tie. Raises ValueError when mini_steps is below 1.
    """
    if mini_steps is not None and mini_steps < 1:
        raise ValueError(f"mini_steps must be at least 1, got {mini_steps}")
    limits = limits or AdviceLimits()
    scattered = dict(_of_f2(result, limits))
    collapse = "mismatch" in scattered
    mode = "R3" if collapse else _by_rule(mini_steps)
    findings = [
        *_of_mismatch(result, eps, limits),
        *_of_nearest(result),
        *_of_cached(result),
        *scattered.values(),
        *_of_staleness(result, limits),
        *_of_spans(result),
        _of_mode(result, mode, mini_steps, collapse),
    ]
    return Advice(mode, tuple(sorted(findings, key=lambda finding: not finding.alarm)))


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
    result = comparison.result
    return (
        f"{name} {_share(rate(result.rows_mismatched, result.rows))}"
        f"{_with(comparison.intervals.mismatch)}, {result.rows_mismatched:,} of "
        f"{result.rows:,} rows"
    )


def _main(result: Staleness, kind: str) -> Comparison | None:
    """The free mismatch or total, else the forced one."""
    return next((c for c in result.comparisons if c.kind == kind), None)


def _lags(result: Staleness) -> list[Comparison]:
    """Staleness by lag, free where there is any."""
    return [c for c in result.by_lag if c.mode == result.by_lag[0].mode]


def _by_rule(mini_steps: int | None) -> str | None:
    if mini_steps is None:
        return None
    return "none" if mini_steps == 1 else "R2" if mini_steps == 2 else "R3"


def _of_mode(
    result: Staleness, mode: str | None, mini_steps: int | None, collapse: bool
) -> Finding:
    """The replay mode, why, and the numbers that it is about."""
    mismatch = _main(result, "mismatch")
    evidence = [] if mismatch is None else [_said(mismatch, "mismatch")]
    evidence += [_said(c, f"staleness at lag {c.lag}") for c in _lags(result)]
    if not result.by_lag:
        evidence.append("staleness is not known: one version was given")
    floor = max((rate(n.rows_mismatched, n.rows) or 0.0 for n in result.noise), default=None)
    if mismatch is not None and floor is not None:
        evidence.append(f"noise floor {_share(floor)}")
        if mode == "R3" and mismatch.result.rows_mismatched <= floor * mismatch.result.rows:
            evidence.append("the mismatch is within the noise floor: R2 freezes the same routes")
    if mode is None:
        text = "which replay the run needs depends on its mini-steps (global batch / mini-batch)"
    elif collapse:
        text = "replay R3: the log-probs are as far apart as where training collapses without it"
    else:
        said = {
            "none": "no replay: no sample is trained on after an update",
            "R2": "replay R2: the second of two mini-steps is stale; R2 has no bias in the first",
            "R3": "replay R3: several updates on the same samples, frozen at the engine's",
        }
        text = f"{said[mode]} (Qwen's rule at mini-steps {mini_steps}, arXiv 2512.01374)"
        if mini_steps == 3:
            evidence.append("the rule is silent on 3 mini-steps: taken as 4, the safer side")
    return Finding("mode", False, text, tuple(evidence))


def _broken(result: DiffResult, eps: float, limits: AdviceLimits) -> Iterator[str]:
    """What in a mismatch no rounding makes."""
    layers = layer_measures(result.counts, result.layers, result.margins, eps)
    first = layers[0]
    if first.clear_rate is not None and first.clear_rate > limits.first_clear:
        yield (
            f"{_share(first.clear_rate)} of the rows of layer {first.layer}, the first, flip at a "
            f"margin above {eps:g} (limit {_share(limits.first_clear)}): nothing upstream explains "
            "that"
        )
    for m in layers:
        if (m.mismatch_rate or 0) > limits.broken:
            yield f"layer {m.layer} mismatches in {_share(m.mismatch_rate)} of its rows"
    samples = [s for s in result.sequences if s.mismatch_rate > limits.broken]
    if samples:
        worst = max(samples, key=lambda s: s.mismatch_rate)
        yield (
            f"{len(samples)} of {len(result.sequences)} samples mismatch in more than "
            f"{_share(limits.broken)} of their rows; the worst is {worst.sample}, "
            f"{_share(worst.mismatch_rate)}"
        )


def _of_mismatch(result: Staleness, eps: float, limits: AdviceLimits) -> Iterator[Finding]:
    """Whether rounding explains the mismatch."""
    mismatch = _main(result, "mismatch")
    if mismatch is None:
        return
    said = _said(mismatch, "mismatch")
    broken = list(_broken(mismatch.result, eps, limits))
    flips = total_measures(mismatch.result, eps).flips
    floors = [rate(n.rows_mismatched, n.rows) or 0.0 for n in result.noise]
    floor = max(floors, default=0.0)
    ours = rate(mismatch.result.rows_mismatched, mismatch.result.rows) or 0.0
    if flips is None and floor and ours > limits.noise_factor * floor:
        broken.append(f"the mismatch is {ours / floor:.0f} times the noise floor, {_share(floor)}")
    if broken:
        text = "the mismatch is more than rounding explains: run `routectl check --against`"
        yield Finding("mismatch", True, text, (said, *broken))
    elif not mismatch.result.rows_mismatched:
        yield Finding("mismatch", False, "the engine and the trainer agree in every row", (said,))
    elif flips is not None:
        text = "rounding can explain the mismatch: the first MoE layer flips at small margins"
        margin = flips.quantile(0.5)
        split = f"{flips.ties + flips.near:,} of {flips.mismatched:,} flips are ties or near-ties"
        yield Finding("mismatch", False, text, (said, f"{split}; median margin {margin:.2g}"))
    elif not floor:
        text = "whether rounding explains the mismatch is not known: no side has margins"
        yield Finding("mismatch", False, text, (said,))


def _of_nearest(result: Staleness) -> Iterator[Finding]:
    """Rows that are closer to another version than to their own."""
    for nearest in result.drift.nearest:
        if nearest.is_other:
            assert nearest.gap is not None
            yield Finding(
                "nearest",
                True,
                f"rows of {nearest.own} are closest to {nearest.nearest}: the engine had other "
                "weights than its label says, or the versions are named wrongly",
                (
                    f"mismatch with {nearest.own} {_share(nearest.rates[nearest.own])}, with "
                    f"{nearest.nearest} {_share(nearest.rates[nearest.nearest])} ({nearest.mode})",
                    f"the difference lies in {_share(nearest.gap.low)} to "
                    f"{_share(nearest.gap.high)}",
                ),
            )


def _of_cached(result: Staleness) -> Iterator[Finding]:
    """Cached rows that mismatch more than the others."""
    cached, others = (next(iter(result.apart.get(g, ())), None) for g in ("cached", "first"))
    if cached is None or others is None:
        return
    low, high = cached.intervals.mismatch, others.intervals.mismatch
    if low is not None and high is not None and low.low > high.high:
        yield Finding(
            "cached",
            True,
            "reused prefixes mismatch more than the rest: they are of older weights; flush the "
            "engine's cache at each update",
            (_said(cached, "cached rows"), _said(others, "the others")),
        )


def _of_f2(result: Staleness, limits: AdviceLimits) -> Iterator[tuple[str, Finding]]:
    """By kind, mismatch or total: F(2) over the limit."""
    for kind in ("mismatch", "total"):
        comparison = _main(result, kind)
        if comparison is None:
            continue
        sums = comparison.result.logprobs
        value = rate(sums.over_tau, sums.tokens)
        if value is not None and value > limits.f2:
            said = f"F(2) {_share(value)}{_with(comparison.intervals.f2)} of {sums.tokens:,} tokens"
            text = (
                f"F(2) of the {kind} is over {_share(limits.f2)}, where R3's authors saw training "
                "collapse (arXiv 2510.11370)"
            )
            yield kind, Finding("f2", True, text, (said,))


def _of_staleness(result: Staleness, limits: AdviceLimits) -> Iterator[Finding]:
    """The smallest lag at which staleness passes its limit."""
    for c in _lags(result):
        if (rate(c.result.rows_mismatched, c.result.rows) or 0) > limits.staleness:
            text = f"routes are stale from lag {c.lag} on: over {_share(limits.staleness)}"
            yield Finding("staleness", True, text, (_said(c, f"staleness at lag {c.lag}"),))
            return


def _of_spans(result: Staleness) -> Iterator[Finding]:
    """Rows that the mismatch could not hold."""
    rows = result.spans.rows
    apart = {"unlabelled": rows["unlabelled"], "uncertain": rows["uncertain"]}
    if result.cached_apart:
        apart["cached"] = rows["cached"]
    out = {name: count for name, count in apart.items() if count}
    if out:
        total = sum(rows.values())
        named = ", ".join(f"{count:,} {name}" for name, count in out.items())
        unknown = ", ".join(f"{n} ({count:,} rows)" for n, count in result.spans.unknown.items())
        yield Finding(
            "spans",
            False,
            f"{_share(sum(out.values()) / total)} of the dump's rows are not in the mismatch",
            (f"{named} of {total:,}", *([f"no version is named {unknown}"] if unknown else [])),
        )
