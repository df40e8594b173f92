"""Thresholds: parsed, held against a result worked out by hand, refused when they make no sense."""

import math

import numpy as np
import pytest

from routectl.errors import MismatchError, RoutectlError
from routectl.ops.diff.diff import diff
from routectl.ops.diff.logprobs import LOGPROB_METRICS
from routectl.ops.diff.metrics import METRICS
from routectl.ops.diff.thresholds import Baseline, judge, parse_threshold, scalar_name
from support.dumps import all_alike, make_dump, make_routes, make_sample

OLD_LOGPROBS, NEW_LOGPROBS = [-1.0, -2.0], [-1.0 + math.log(3), -2.5]
AB = [[0, 1]] * 3
NEW_IDS = [AB, [[1, 0], [0, 2], [0, 1]], [[0, 1], [2, 3], [0, 1]], AB]
LOAD_JS = (  # of layer 2, whose loads have the mean (5 / 12, 1 / 3, 1 / 6, 1 / 12)
    (math.log(6 / 5) + math.log(3 / 2)) / 2
    + (math.log(4 / 5) - math.log(2) / 2) / 3
    + math.log(2) / 2
) / 2
# By hand. Old has rows at positions 0..2 in layers 1, 2, 4, less one in layer 4; new at 0..3.
VALUES = {
    "mismatch": 2 / 8,
    "overlap": 13 / 16,
    "order": 1 / 8,
    "zero_overlap": 1 / 8,
    "load_shift": 0.5,  # layer 2: (3, 3, 0, 0) of 6 against (2, 1, 2, 1)
    "rows_mismatched": 2,
    "rows_missing": 1,
    "token_mismatch": 2 / 3,
    "coverage": 8 / (12 + 3 + 3),  # b and c have a token each
    "unmatched": 2,
    "k1": -(math.log(3) - 0.5) / 2,
    "k3": (3 - 1 - math.log(3) + math.exp(-0.5) - 1 + 0.5) / 2,
    "abs_d": (math.log(3) + 0.5) / 2,
    "max_d": math.log(3),
    "f2": 1 / 2,
    "load_js": LOAD_JS,
    "max_vio_old": 2,  # 2 of 6 experts have all rows of a layer
    "max_vio_new": 2,
    "min_vio_old": -1,
    "min_vio_new": -1,
    "avg_vio_old": (2 + 2 + 4) / 6,
    "avg_vio_new": (2 + 2 + 4) / 6,
    "k3_stable": (3 - 1 - math.log(3) + math.exp(-0.5) - 1 + 0.5) / 2,
    "token_mult_prob_error": (3 + math.exp(0.5)) / 2,
    "chi2": (9 + math.exp(-1)) / 2 - 1,
    "js": (math.log(math.cosh(math.log(3) / 2)) + math.log(math.cosh(0.25))) / 2,
    "pearson": 1,  # of two tokens
    "pearson_probs": 1,
}
BY_LAYER = {  # layers 1, 2, 4
    "mismatch": (0, 2 / 3, 0),
    "overlap": (1, 3 / 6, 1),
    "order": (1 / 3, 0, 0),
    "zero_overlap": (0, 1 / 3, 0),
    "load_shift": (0, 0.5, 0),
    "rows_mismatched": (0, 2, 0),
    "rows_missing": (0, 0, 1),
    "load_js": (0, LOAD_JS, 0),
    "max_vio_old": (2, 2, 2),
    "max_vio_new": (2, 1, 2),  # in layer 2 (2, 1, 2, 1) of 6
    "min_vio_old": (-1, -1, -1),
    "min_vio_new": (-1, -1, -1),
    "avg_vio_old": (8 / 6, 8 / 6, 8 / 6),
    "avg_vio_new": (8 / 6, 4 / 6, 8 / 6),
}


def one(ids, others="", missing=(), logprobs=None):
    """A dump of sample ``a``, and of others that have no partner."""
    routes = make_routes(ids, missing=missing)
    samples = [make_sample(routes, "a", [1, 2, 3], [4, 5], logprobs=logprobs)]
    samples += [make_sample(make_routes([AB]), name, [ord(name)], [1]) for name in others]
    return make_dump(samples)


@pytest.fixture(name="result")
def result_():
    """The comparison that VALUES and BY_LAYER are about."""
    old = one([AB] * 3, "b", [(0, 2)], np.array(OLD_LOGPROBS))
    return diff(old, one(NEW_IDS, "c", (), np.array(NEW_LOGPROBS)))


def held(result, *texts, over=True):
    """The verdict on some thresholds."""
    return judge(result, [parse_threshold(text, over=over) for text in texts])


def test_every_metric_is_worked_out():
    """The hand-made values cover every metric, and every one with a value per layer."""
    of_margins = {"tie", "near", "clear", "margin_coverage"}  # in tests/ops/diff/test_flips.py
    at_an_end = {m.name for m in LOGPROB_METRICS if m.is_rate} - {"f2"}  # in test_logprobs.py
    assert {m.name for m in METRICS} == {*VALUES, *of_margins, *at_an_end}
    assert {m.name for m in METRICS if m.of_measures} == {*BY_LAYER, *of_margins}
    assert all(m.about for m in METRICS)


@pytest.mark.parametrize("name", VALUES)
def test_metric(result, name):
    """A threshold fails beyond the metric's value, holds at it, and tells the value found."""
    value = VALUES[name]
    (failure,) = held(result, f"{name}:{value - 1e-9!r}").failed
    assert failure.value == pytest.approx(value, rel=1e-12)
    assert (failure.metric, failure.layer) == (name, None)
    assert failure.limit == value - 1e-9
    assert held(result, f"{name}:{value + 1e-9!r}").failed == ()
    (failure,) = held(result, f"{name}:{value + 1e-9!r}", over=False).failed
    assert failure.value == pytest.approx(value, rel=1e-12)
    assert held(result, f"{name}:{failure.value!r}").failed == ()
    assert held(result, f"{name}:{failure.value!r}", over=False).failed == ()


@pytest.mark.parametrize("name", BY_LAYER)
def test_metric_of_layers(result, name):
    """A metric of a layer is judged alone with @LAYER, and in every layer with @*."""
    values = list(zip((1, 2, 4), BY_LAYER[name], strict=True))
    above = [(layer, pytest.approx(value)) for layer, value in values if value > 0]
    below = [(layer, pytest.approx(value)) for layer, value in values if value < 1]
    each = [f"{name}@{layer}" for layer, _ in values]
    for limits in (each, [f"{name}@*"]):
        found = held(result, *(f"{limit}:0" for limit in limits)).failed
        assert [(f.layer, f.value) for f in found] == above
        found = held(result, *(f"{limit}:1" for limit in limits), over=False).failed
        assert [(f.layer, f.value) for f in found] == below


def test_exit_codes(result):
    """Without thresholds a mismatch is exit 1; with them a crossed one is; both are told."""
    assert (judge(result).exit_code, judge(result).differs, judge(result).gated) == (1, True, False)
    limits = [parse_threshold(t, over=True) for t in ("mismatch:25%", "token_mismatch:70%")]
    within = judge(result, limits, allow_unmatched=True)
    assert (within.exit_code, within.differs, within.gated) == (0, True, True)
    crossed = held(result, "mismatch:25%", "mismatch:24.9%", "unmatched:1")
    assert crossed.exit_code == 1
    assert [f.threshold for f in crossed.failed] == ["mismatch:24.9%", "unmatched:1"]
    same = diff(one([AB] * 3), one([AB] * 3))
    assert (judge(same).exit_code, judge(same).differs) == (0, False)
    assert held(same, "overlap:100%", over=False).exit_code == 0


def test_order_alone_is_no_difference():
    """Rows with equal sets in another order are the same."""
    result = diff(one([AB]), one([[[1, 0]] * 3]))
    assert (judge(result).exit_code, result.counts.order_L.tolist()) == (0, [1, 1, 1])


def test_layers_without_a_row_are_incomparable():
    """A layer in which nothing was compared is exit 2, whatever the thresholds say."""
    gap = diff(one([AB] * 2, missing=[(0, 1), (1, 1)]), one([AB] * 2))
    for verdict in (judge(gap), held(gap, "mismatch:0"), held(gap, "mismatch@1:0")):
        assert (verdict.incomparable, verdict.exit_code) == ((2,), 2)
    for text in ("mismatch@2:1", "overlap@*:0", "load_shift@2:1"):
        with pytest.raises(MismatchError, match="against: no row of layer 2 was compared"):
            held(gap, text)


@pytest.mark.parametrize("name", ["k1", "k3", "abs_d", "max_d", "f2", "f1.1", "chi2", "pearson"])
def test_logprob_metrics_need_logprobs(name):
    """A log-prob metric without log-probs on both sides is an error, not a pass."""
    result = diff(one([AB]), one([AB]))
    with pytest.raises(MismatchError) as caught:
        held(result, f"{name}:0")
    assert str(caught.value) == (
        f"threshold '{name}:0': there is no {name} to hold it against: a side has no log-probs"
    )


def test_a_layer_that_was_not_compared(result):
    """A threshold on a layer that was not compared is an error with the layers that were."""
    with pytest.raises(MismatchError, match=r"layer 3 was not compared: 1\.\.4 were"):
        held(result, "mismatch@3:1%")


def test_numbers():
    """A number is plain or a percentage of a rate; spaces around it do not matter."""
    assert parse_threshold("mismatch:1%", over=True).limit == 0.01
    assert parse_threshold(" mismatch@*:2.5% ", over=True).limit == 0.025
    assert parse_threshold("overlap@03:0.99", over=False).layer == 3
    assert parse_threshold("overlap@*:1", over=False).layer == "*"
    assert parse_threshold("k3:1e-3", over=True).limit == 1e-3
    assert parse_threshold("k1:-0.5", over=False).limit == -0.5
    assert parse_threshold("rows_mismatched:120", over=True).limit == 120
    assert parse_threshold("mismatch:0", over=True).over
    assert not parse_threshold("mismatch:100%", over=False).over


@pytest.mark.parametrize(
    ("text", "over", "relative"),
    [
        ("mismatch:+2%", True, True),
        ("k1:+0.5", True, True),
        ("k1:-0.5", True, False),
        ("mismatch:2%", True, False),
        ("overlap@*:-1%", False, True),
        ("overlap:0.9", False, False),
        ("k1:-0.5", False, False),
    ],
)
def test_relative_limits(text, over, relative):
    """+N of an upper limit and -N of a rate's lower one are added to a baseline's number."""
    limit = parse_threshold(text, over=over)
    assert limit.relative_to == (limit.metric if relative else None)
    names = [scalar_name(limit.metric, layer) for layer in (None, 3)]
    accepted = Baseline(dict(zip(names, (0.25, 0.5), strict=True)))
    for layer, number in ((None, 0.25), (3, 0.5)):
        assert accepted.allowed(limit, layer) == limit.limit + (number if relative else 0)
    free = Baseline(accepting=True).allowed(limit, None)
    assert free == ((math.inf if over else -math.inf) if relative else limit.limit)


def test_limits_without_a_baseline():
    """A lower limit has no +N, and a relative one needs the number that was accepted."""
    with pytest.raises(RoutectlError, match="relative as -N, not as"):
        parse_threshold("overlap:+1%", over=False)
    limit = parse_threshold("mismatch@*:+1%", over=True)
    with pytest.raises(RoutectlError, match="the baseline has no routectl/mismatch/layer_004"):
        Baseline().allowed(limit, 4)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("", "expected METRIC[@LAYER]:N[%], for example mismatch:1%", None),
        ("mismatch", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch:", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch=2%", "expected METRIC[@LAYER]:N[%], for example mismatch:2%", None),
        ("mismatch:1%%", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch@:1%", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch@-1:1%", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch@a:1%", "expected METRIC[@LAYER]:N[%]", None),
        ("mismatch:one", "'one' is not a number", None),
        ("mismatch:nan", "'nan' is not a number", None),
        ("k3:inf", "'inf' is not a number", None),
        ("k3:1e999", "'1e999' is not a number", None),
        ("mismatch:__import__('os')", "\"__import__('os')\" is not a number", None),
        ("mismatch:1.5", "a rate: got 1.5, expected 0..1", "mismatch:1.5% if percent was meant"),
        ("f2:10", "a rate: got 10, expected 0..1", "f2:10% if percent was meant"),
        ("mismatch:200%", "a rate: got 2, expected 0..1", None),
        ("mismatch:-0.1", "a rate: got -0.1, expected 0..1", None),
        ("mismatch:1000", "a rate: got 1000, expected 0..1", None),
        ("k3:5%", "k3 is no rate: drop the %", None),
        ("rows_mismatched:5%", "rows_mismatched is no rate: drop the %", None),
        ("token_mismatch@2:1%", "token_mismatch has no value per layer", None),
        ("k3@*:1", "k3 has no value per layer", None),
    ],
)
def test_bad_thresholds(text, words, hint):
    """A threshold that makes no sense is one line that quotes it and says what is wrong."""
    with pytest.raises(RoutectlError) as caught:
        parse_threshold(text, over=True)
    message = str(caught.value)
    assert message.startswith(f"threshold {text!r}: ")
    assert words in message
    assert "\n" not in message
    assert caught.value.hint == hint


def test_unknown_metrics():
    """A metric that is not known is answered with the list of those that are."""
    with pytest.raises(RoutectlError) as caught:
        parse_threshold("mismach:1%", over=True)
    assert str(caught.value) == "metric 'mismach' is not known: did you mean mismatch?"
    known = f"known: {', '.join(m.name for m in METRICS)}"
    assert caught.value.hint == f"{known}; METRIC[@LAYER]:N[%], for example mismatch:1%"


@pytest.mark.parametrize(
    ("text", "told", "example"),
    [
        ("kl:0.1", "metric 'kl' is not known: did you mean k3?", "k3:0.1"),
        ("kl:5%", "metric 'kl' is not known: did you mean k3?", "k3:5"),
        ("mis-match@3:2%", None, "mismatch:2%"),
        ("overlapp = 99%", None, "overlap:99%"),
        ("token_mismatch>0.5", None, "token_mismatch:0.5"),
        ("f2=10", None, "f2:1%"),
        ("kl", None, "k3:0.1"),
        ("3", None, "mismatch:1%"),
        ("zzz:1%", f"metric 'zzz' is not known: {METRICS[0].name}, ", "mismatch:1%"),
    ],
)
def test_the_right_form(text, told, example):
    """The nearest metric is told with a threshold of it that can be read, the number as it was."""
    with pytest.raises(RoutectlError) as caught:
        parse_threshold(text, over=True)
    said = f"{caught.value}\n{caught.value.hint}"
    assert said.startswith(told or f"threshold {text!r}: expected METRIC[@LAYER]:N[%]")
    assert f"for example {example}" in said.splitlines()[1 if told else 0]
    parse_threshold(example, over=True)


_NONE = {
    "apart": ([-np.inf, -1.0], [-1.0, -np.inf]),
    "new -inf": ([-1.0, -1.0], [-np.inf, -1.0]),
    "old -inf": ([-np.inf, -1.0], [-1.0, -1.0]),
    "new inf": ([-1.0, -1.0], [-1.0, np.inf]),
    "both": ([-np.inf, -1.0], [-np.inf, -1.0]),
    "huge": ([-1.7e308, -1.7e308], [1.7e308, 1.7e308]),
}


@pytest.mark.parametrize("logprobs", _NONE.values(), ids=_NONE)
@pytest.mark.parametrize("metric", ["k1", "k3", "max_d", "abs_d"])
def test_figures_that_are_not_finite_are_over(logprobs, metric):
    """Every limit on a figure that is not finite is crossed: upper, lower, relative, accepting."""
    result = diff(*(one(all_alike(1), logprobs=np.array(p)) for p in logprobs))
    limits = [parse_threshold(f"{metric}:9", over=over) for over in (True, False)]
    limits.append(parse_threshold(f"{metric}:+9", over=True))
    accepted = {scalar_name(metric): 1.0}
    for baseline in (Baseline(accepted), Baseline(accepting=True)):
        verdict = judge(result, limits, baseline=baseline)
        assert [f.threshold for f in verdict.failed] == [limit.text for limit in limits]
        assert not any(math.isfinite(f.value) for f in verdict.failed)
        assert verdict.exit_code == 1
    assert held(result, "f2:49%").exit_code == 1


def test_a_limit_beyond_float64():
    """An accepted number and what is added to it that give no finite limit are one line."""
    limit = parse_threshold("k3:+1e308", over=True)
    with pytest.raises(RoutectlError, match=r"routectl/k3, 1e.308, the limit is not finite"):
        Baseline({"routectl/k3": 1e308}).allowed(limit, None)


def test_names_of_scalars():
    """A figure's stable name holds its lag and, unless it is of all layers, three digits of one."""
    assert scalar_name("mismatch") == "routectl/mismatch"
    assert scalar_name("mismatch", 0) == "routectl/mismatch/layer_000"
    assert scalar_name("staleness@lag2", 7) == "routectl/staleness/lag_2/layer_007"
