"""What replay gains: a part of routectl.staleness/1, and that in words, columns and names."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Literal, cast

from ...ops.adding.intervals import Interval
from ...ops.staleness.gain import TAUS
from ...ops.staleness.replays import Gains, ReplayFigures, Unmeasured, VersionGain
from ..document import IntervalEntry, finite, not_finite
from ..text.tables import Column
from ..text.wording import amount, logprob_figure, percent
from .schema import FTauEntry, GainDocument, GainEntry, ReplayEntry, UnmeasuredEntry, Why

__all__ = [
    "cut_text",
    "gain_columns",
    "gain_document",
    "gain_figures",
    "gain_lines",
    "gain_sentence",
    "times",
    "why_unmeasured",
]

_REPLAYING = {"R2": "the trainer's own routes", "R3": "the engine's routes"}
_RECOMPUTE = "routectl recompute CHECKPOINT DUMP --mode both --logprobs"
_HOW = {
    "prompt": "no response token is selected: expected --tokens all or response",
    "dump": "the dump has no log-probs: let the engine return those of the tokens that it samples "
    "(vLLM: logprobs, SGLang: return_logprob)",
    "free": "{versions} without log-probs: " + _RECOMPUTE,
    "forced": "no forced routes with log-probs of {versions}: --at NAME=CHECKPOINT --forward "
    f"mode=both, or {_RECOMPUTE}",
    "R2": "{versions}: --at NAME=CHECKPOINT --forward mode=both; or force CHECKPOINT to the free "
    "routes of the version that sampled, routectl recompute CHECKPOINT FREE --mode forced "
    "--logprobs, and give them as --at NAME=",
    "tokens": "no token has a log-prob on every side",
}


def _interval(found: Interval | None) -> IntervalEntry | None:
    return None if found is None else {"low": found.low, "high": found.high}


def _replay(found: ReplayFigures, gain: VersionGain) -> ReplayEntry:
    """The figures of one mode."""
    fall = gain.fall(found.mode)
    over = zip(TAUS, found.over, found.over_intervals, strict=True)
    f_taus: list[FTauEntry] = [
        {"tau": tau, "f_tau": rate, "interval": _interval(interval)} for tau, rate, interval in over
    ]
    entry: ReplayEntry = {
        "mode": cast("Literal['none', 'R2', 'R3']", found.mode),
        "k1": found.k1,
        "k3": found.k3,
        "mean_abs_d": found.mean_abs,
        "max_abs_d": found.max_abs,
        "f_taus": f_taus,
        "intervals": {
            "k1": _interval(found.k1_interval),
            "k3": _interval(found.k3_interval),
            "mean_abs_d": _interval(found.mean_abs_interval),
        },
        "gain": None if fall is None else fall.ratio,
        "gain_interval": None if fall is None else _interval(fall.interval),
    }
    if infinite := not_finite(entry):
        entry["not_finite"] = infinite
    return entry


def gain_document(gains: Gains) -> GainDocument:
    """What replay gains by version, and what is not known, with how to know it."""
    versions: list[GainEntry] = []
    for one in gains.versions:
        between = one.falls.get(("R2", "R3"))
        versions.append(
            {
                "version": one.version,
                "lag": one.lag,
                "samples": one.counts.samples,
                "tokens": one.tokens,
                "tokens_of_one_side": one.counts.one_sided,
                "clusters": one.clusters,
                "best": cast("Literal['none', 'R2', 'R3']", one.best),
                "modes": [_replay(found, one) for found in one.figures.values()],
                "r2_over_r3": None if between is None else between.ratio,
                "r2_over_r3_interval": None if between is None else _interval(between.interval),
                "r2_path": one.r2_path,
            }
        )
    unmeasured: list[UnmeasuredEntry] = [
        {"why": cast("Why", one.why), "versions": list(one.versions), "text": why_unmeasured(one)}
        for one in gains.unmeasured
    ]
    found: GainDocument = {"versions": versions, "unmeasured": unmeasured}
    return finite(found)


def why_unmeasured(found: Unmeasured) -> str:
    """What is missing, and what makes it."""
    return _HOW[found.why].format(versions=", ".join(found.versions))


def times(ratio: float | None) -> str:
    """By how many times k3 falls: 13x, 1.45x; - where that is not known."""
    if ratio is None:
        return "-"
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.2f}x"


def cut_text(entry: ReplayEntry, none: ReplayEntry, level: str) -> str:
    """From what k3 falls to what: from 0.001555 to 0.0001174 (13x; 95 %: 10x to 17x)."""
    interval = entry["gain_interval"]
    within = "" if interval is None else f"{times(interval['low'])} to {times(interval['high'])}"
    about = "; ".join(filter(None, [times(entry["gain"]), within and f"{level}: {within}"]))
    return f"from {_k3(none)} to {_k3(entry)} ({about})"


def _k3(entry: ReplayEntry) -> str:
    return logprob_figure(entry, "k3")


def _modes(entry: GainEntry) -> dict[str, ReplayEntry]:
    return {mode["mode"]: mode for mode in entry["modes"]}


def _does(entry: ReplayEntry) -> str:
    """What a replay does to k3, as far as its interval tells."""
    interval = entry["gain_interval"]
    if interval is None:
        return "moves k3, with no interval,"
    if interval["low"] > 1:
        return "cuts k3"
    return "raises k3" if interval["high"] < 1 else "leaves k3 within its interval:"


def gain_sentence(gain: GainDocument, level: str) -> str | None:
    """What replay gains, in a sentence: at the smallest lag, and at the last version."""
    versions = gain["versions"]
    if not versions:
        return None
    first = min(versions, key=lambda one: inf if one["lag"] is None else one["lag"])
    modes = _modes(first)
    mode = "R3" if "R3" in modes else "R2"
    text = (
        f"replaying {_REPLAYING[mode]} {_does(modes[mode])} "
        f"{cut_text(modes[mode], modes['none'], level)} at {first['version']}"
    )
    last = _modes(versions[-1])
    if versions[-1] is not first and mode in last:
        text += f"; {cut_text(last[mode], last['none'], level)} at {versions[-1]['version']}"
    return text


def gain_lines(gain: GainDocument | None, level: str) -> Iterator[str]:
    """The sentence, and a line of what is not known: how to know it."""
    if gain is None:
        return
    sentence = gain_sentence(gain, level)
    if sentence is not None:
        yield sentence
    for one in gain["unmeasured"][:1]:
        of = "what replay gains" if sentence is None else one["why"].replace("forced", "R3")
        yield f"{of} is not measured: {one['text']}"


def gain_columns(gain: GainDocument | None, level: str) -> list[Column]:
    """The modes of each version side by side; empty where nothing is known."""
    rows = [(one, mode) for one in (gain or {"versions": []})["versions"] for mode in one["modes"]]
    if not rows:
        return []
    modes = [mode for _, mode in rows]
    f_columns = [
        Column(f"F({tau:g})", [percent(mode["f_taus"][n]["f_tau"]) for mode in modes], rank)
        for n, (tau, rank) in enumerate(zip(TAUS, (7, 6, 0), strict=True))
    ]
    of_f2 = [_range(mode["f_taus"][-1]["interval"], 100, " %", 2) for mode in modes]
    gains = [times(mode["gain"]) for mode in modes]
    of_gain = [_times_range(mode["gain_interval"]) for mode in modes]
    return [
        Column("weights", [one["version"] for one, _ in rows]),
        Column("lag", ["-" if one["lag"] is None else str(one["lag"]) for one, _ in rows], 5),
        Column("replay", [mode["mode"] for mode in modes]),
        Column("tokens", [amount(one["tokens"]) for one, _ in rows], 9),
        Column("k1", [logprob_figure(mode, "k1") for mode in modes], 4),
        Column("k3", [_k3(mode) for mode in modes]),
        Column(level, [_range(mode["intervals"]["k3"]) for mode in modes], 3),
        Column("gain", gains),
        Column(level, of_gain, 1),
        Column("mean |d|", [logprob_figure(mode, "mean_abs_d") for mode in modes], 8),
        Column("max |d|", [logprob_figure(mode, "max_abs_d") for mode in modes], 10),
        *f_columns,
        Column(level, of_f2, 2),
    ]


def _range(
    interval: IntervalEntry | None, scale: float = 1, unit: str = "", decimals: int | None = None
) -> str:
    if interval is None:
        return "-"
    low, high = scale * interval["low"], scale * interval["high"]
    if decimals is None:
        return f"{low:.3g}-{high:.3g}{unit}"
    return f"{low:.{decimals}f}-{high:.{decimals}f}{unit}"


def _times_range(interval: IntervalEntry | None) -> str:
    return "-" if interval is None else f"{times(interval['low'])}-{times(interval['high'])}"


def gain_figures(gain: Mapping[str, Any] | None, *, gated: bool = False) -> dict[str, Any]:
    """By the names of thresholds, with the lag and, of lag 0, without: what a document says.

    gain_r3, k3_r3 and f2_r3, and those of R2. Gated, NaN where tokens have a log-prob on one side
    alone.
    """
    found: dict[str, Any] = {}
    for one in () if gain is None else gain["versions"]:
        if one["lag"] is None:
            continue
        for mode in one["modes"]:
            values = {
                "gain": mode["gain"],
                "k3": _number(mode, "k3"),
                "f2": mode["f_taus"][-1]["f_tau"],
            }
            for name, value in values.items() if mode["mode"] != "none" else ():
                value = float("nan") if gated and one["tokens_of_one_side"] else value
                metric = f"{name}_{mode['mode'].lower()}"
                found[f"{metric}@lag{one['lag']}"] = value
                if one["lag"] == 0:
                    found[metric] = value
    return found


def _number(mode: Mapping[str, Any], name: str) -> Any:
    """A figure, as a float where it is not finite."""
    told = mode.get("not_finite", {}).get(name)
    return mode[name] if told is None else float(told)
