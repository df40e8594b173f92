"""Boundary margins: rounded outward, kept through every cut, and what they say of mismatches."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import oracles
from routectl.dump import Dump
from routectl.errors import MismatchError
from routectl.formats import open_dump
from routectl.kernels.margins import NUM_MARGIN_BINS, count_margins
from routectl.layouts.packing import Packing
from routectl.margins import EPS, MARGIN_EDGES, PATTERNS, margins_to_float16, pattern_of
from routectl.ops.diff.diff import diff
from routectl.ops.diff.flips import MarginCounts, flips_of
from routectl.ops.diff.thresholds import judge, parse_threshold
from routectl.ops.pack.pack import Rank, pack
from routectl.ops.summary import summarize
from routectl.reports.diff.document import diff_document
from routectl.reports.show.document import summary_document
from support.dumps import (
    LAYERS,
    all_alike,
    from_plain,
    make_dump,
    make_routes,
    make_sample,
    margined_pairs,
    plain_of,
)
from support.shell import run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
ENGINE = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
MARGINED = FIXTURES / "tiny_rl" / "routes_v0.margins.parquet"
SURE = tuple(
    plain_of(all_alike(2, row), prompt=[1], response=[2, 3], prompt_length=1)
    for row in ((0, 1), (2, 3))
)


some_pairs = st.lists(margined_pairs(), min_size=1, max_size=3)
widths = st.sampled_from([0.0, 1e-9, 2.0**-24, 2.0**-10, 1e-3, 0.25, 1e6])


def test_every_nan_is_a_margin_not_known():
    """Whatever its float16 pattern, a NaN is counted nowhere; infinity beside them is known."""
    margins_TL = np.array([[0x7C00], [0x7C01], [0x7E00], [0xFE00]], np.uint16).view(np.float16)
    counts, marks = MarginCounts.empty(1), np.ones((4, 1), np.bool_)
    tallies = (counts.known_L, counts.lower_LP, counts.rows_2LB, counts.flips_2LB)
    count_margins(margins_TL, None, marks, None, tallies)
    assert [int(tally.sum()) for tally in tallies] == [1, 1, 1, 1]
    assert counts.lower_LP[0, -1] == counts.rows_2LB[0, 0, -1] == 1


def sides_of(pairs):
    """The old and the new dump of pairs of plain samples, after one that surely compares."""
    named = [
        [from_plain(p, f"s{i}") for i, p in enumerate(side)]
        for side in zip(*[SURE, *pairs], strict=True)
    ]
    return [make_dump(samples, margins=True) for samples in named]


class TestFloat16:
    """From any float to the nearest float16 that is not below it."""

    @settings(max_examples=80)
    @given(st.lists(st.floats(min_value=0, width=32), min_size=1, max_size=8))
    @example([0.0, -0.0, 1e-45, 2.0**-25, 2.0**-24, 2.0**-14, 65504.0, 65505.0, 3e38, math.inf])
    @example([1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 6.1e-5, math.nan])
    def test_rounding_is_the_oracle(self, values):
        """Each float32 becomes the least of all float16 values that is not below it; nan stays."""
        margins = np.array(values, np.float32)
        stored = margins_to_float16(margins)
        assert stored.dtype == np.float16
        expected = [oracles.float16_above(v) for v in margins.tolist()]
        np.testing.assert_array_equal(stored.astype(np.float64), expected)
        assert not np.signbit(stored).any()

    @settings(max_examples=40)
    @given(st.floats(min_value=0, allow_nan=False))
    def test_float64_is_rounded_once(self, value):
        """A float64 goes to float16 directly, not through float32."""
        assert margins_to_float16(np.array([value]))[0] == oracles.float16_above(value)

    def test_every_float16_is_kept(self):
        """All float16 values from 0 to infinity, and nan, come back as they are, without a sign."""
        values = np.arange(PATTERNS, dtype=np.uint16).view(np.float16)
        for dtype in (np.float16, np.float32, np.float64):
            stored = margins_to_float16(values.astype(dtype))
            np.testing.assert_array_equal(stored.view(np.uint16), values.view(np.uint16))
        assert margins_to_float16(-np.array([np.nan, 0.0], np.float32)).view(np.uint16)[1] == 0
        assert margins_to_float16(np.zeros((2, 0), np.float32)).shape == (2, 0)

    @pytest.mark.parametrize("bad", [[-1e-9], [1, -np.inf]])
    def test_negative_margins_are_refused(self, bad):
        """A negative margin is an error: the scores were not in order."""
        with pytest.raises(ValueError, match="a margin is negative"):
            margins_to_float16(np.array(bad))
        with pytest.raises(ValueError, match="must be floats"):
            margins_to_float16(np.array([1]))

    @settings(max_examples=80)
    @given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
    @example(0.0)
    @example(2.0**-24)
    @example(1e300)
    def test_pattern_of_is_the_oracle(self, eps):
        """The pattern of eps is that of the greatest float16 that is not above it."""
        assert pattern_of(eps) == sum(v <= eps for v in oracles.FLOAT16) - 1

    @pytest.mark.parametrize("eps", [-1e-9, math.nan, math.inf])
    def test_widths_that_are_none(self, eps):
        """An eps that is negative or not finite is refused, by judge too."""
        with pytest.raises(ValueError, match="eps must be finite and not negative"):
            pattern_of(eps)
        with pytest.raises(ValueError, match="eps must be"):
            judge(diff(*sides_of([])), eps=eps)


class TestRoutes:
    """Margins beside ids."""

    @pytest.mark.parametrize(
        ("margins", "words"),
        [
            (np.zeros((2, 3), np.float32), "must be float16"),
            (np.zeros((3, 3), np.float16), "must be float16"),
            (-np.ones((2, 3), np.float16), "sign bit"),
            (-np.zeros((2, 3), np.float16), "sign bit"),
            (np.zeros((2, 3), np.float16), "must be NaN where a row is missing"),
        ],
        ids=range(5),
    )
    def test_margins_that_do_not_fit(self, margins, words):
        """Margins of another shape or dtype, with a sign or of missing rows are refused."""
        routes = make_routes(all_alike(2), missing=[(1, 2)])
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(routes, margin_TL=margins)
        nan = np.where([[False] * 3, [False, False, True]], np.nan, 1).astype(np.float16)
        both = {"margin_TL": nan, "group_margin_TL": margins}
        with pytest.raises(ValueError, match=f"^group_margin_TL .*{words}"):
            dataclasses.replace(routes, **both)
        with pytest.raises(ValueError, match="comes beside margin_TL"):
            dataclasses.replace(routes, group_margin_TL=nan)

    def test_the_least_margin(self):
        """A row's least margin is the smaller of its two, and the one that is known."""
        margins, groups = [[1.0, 0.0, None]], [[0.25, math.inf, 0.5]]
        routes = make_routes(all_alike(1), margins=margins, group_margins=groups)
        np.testing.assert_array_equal(routes.least_margin_TL, np.float16([[0.25, 0.0, 0.5]]))
        alone = make_routes(all_alike(1), margins=margins)
        assert alone.least_margin_TL is alone.margin_TL
        assert make_routes(all_alike(1)).least_margin_TL is None

    def test_cuts_keep_margins(self):
        """Choosing, renumbering, reordering, holding and watching a dump keep each row's margin."""
        margins = np.arange(9, dtype=np.float16).reshape(3, 3)
        samples = [
            make_sample(
                make_routes(all_alike(3), margins=margins * i, group_margins=margins + i), str(i)
            )
            for i in range(3)
        ]
        dump, seen = make_dump(samples, margins=True, group_margins=True), []
        parts = (
            dump.watched(seen.append)
            .renumbered((3, 5, 6))
            .select(layers=(3, 6))
            .select(samples=[2, 1])
        )
        assert parts.meta.margins
        for sample, i in zip(parts.held(), (2, 1), strict=True):
            assert sample.routes.layers_L == (3, 6)
            np.testing.assert_array_equal(sample.routes.margin_TL, i * margins[:, [0, 2]])
            np.testing.assert_array_equal(sample.routes.group_margin_TL, i + margins[:, [0, 2]])
        assert len(seen) == 2

    def test_packing_does_not_care(self):
        """Replay tensors of routes with margins are those of the same routes without."""
        bare = make_routes(all_alike(5))
        margined = make_routes(all_alike(5), margins=np.ones((5, 3)))
        packing = Packing([6], framework="verl")
        one, two = (pack([r], packing, Rank()) for r in (bare, margined))
        np.testing.assert_array_equal(one.ids_LRK, two.ids_LRK)


def bins_of(rows, layers, side, flips):
    """The oracle's tally [L][B] of one side's margins, of all or of mismatched rows."""
    tally = [[0] * NUM_MARGIN_BINS for _ in layers]
    for index, *sides, flip in rows:
        if sides[side] is not None and (flip or not flips):
            tally[index][oracles.margin_bin(sides[side])] += 1
    return tally


@settings(max_examples=60)
@given(
    some_pairs,
    widths,
    st.sampled_from(["all", "prompt", "response"]),
    st.sampled_from([None, [1], [4, 2]]),
)
@pytest.mark.slow
def test_margins_of_a_diff_are_the_oracle(pairs, eps, tokens, layers):
    """Whatever sides, rows and layers have margins: every tally is what loops over rows count."""
    pairs = [({**a, "prompt_length": 1}, b) for a, b in pairs]
    old, new = sides_of(pairs)
    result = diff(old, new, tokens=tokens, layers=layers, match="id")
    compared = sorted(layers or LAYERS)
    rows = list(oracles.compared_margins([SURE, *pairs], compared, tokens=tokens))
    counts = MarginCounts.empty(len(compared)) if result.margins is None else result.margins
    for side in (0, 1):
        assert counts.rows_2LB[side].tolist() == bins_of(rows, compared, side, False)
        assert counts.flips_2LB[side].tolist() == bins_of(rows, compared, side, True)
    for index in (None, *range(len(compared))):
        part = [r for r in rows if index in (None, r[0])]
        flips = flips_of(counts, eps, index)
        expected, lower = oracles.flip_classes(part, eps)
        assert (flips.rows, flips.ties, flips.near, flips.clear) == expected
        for q in (0.0, 0.3, 0.5, 0.99, 1.0):
            least = lower[max(1, math.ceil(q * len(lower))) - 1] if lower else None
            assert flips.quantile(q) == least
    for e in result.examples:
        assert {e.margin_old, e.margin_new} <= {*oracles.FLOAT16, None}
    assert (result.margins is None) == (
        not any(
            s.routes is not None and s.routes.margin_TL is not None
            for i in range(len(old))
            if old[i].routes is not None and new[i].routes is not None
            for s in (old[i], new[i])
        )
    )


@settings(max_examples=30)
@given(some_pairs, widths)
def test_sides_may_be_swapped(pairs, eps):
    """With the sides swapped the classes are the same, and the distributions trade places."""
    old, new = sides_of(pairs)
    one, two = diff(old, new, match="id"), diff(new, old, match="id")
    if one.margins is None:
        assert two.margins is None
        return
    first, second = (diff_document(r, judge(r, eps=eps))["margins"] for r in (one, two))
    assert first == {**second, "old": second["new"], "new": second["old"]}


def by_hand():
    """Three rows a layer; NEW has margins of seven rows, OLD one that is smaller than NEW's."""
    ids = [[[0, 1]] * 3, [[0, 2], [2, 3], [1, 0]], [[0, 2], [0, 2], [4, 5]]]
    margins = [[1.0, 0.5, None], [0.0, 2.0**-12, 2.0], [0.5, None, 0.25]]
    old = [[None] * 3, [None] * 3, [2.0**-11, None, None]]
    return diff(
        make_dump([make_sample(make_routes(all_alike(3), margins=old), "a")]),
        make_dump([make_sample(make_routes(ids, margins=margins), "a")]),
    )


VALUES = {  # mismatched: tie, near, and (by OLD's margin) near; unknown, clear
    "tie": 1 / 7,
    "near": 2 / 7,
    "clear": 1 / 7,
    "margin_coverage": 7 / 9,
}
BY_LAYER = {
    "tie": (1 / 3, 0, 0),
    "near": (1 / 3, 1 / 2, 0),
    "clear": (0, 0, 1 / 2),
    "margin_coverage": (1, 2 / 3, 2 / 3),
}


class TestGate:
    """Thresholds on margins."""

    @pytest.mark.parametrize("name", VALUES)
    def test_metric(self, name):
        """A threshold fails beyond the value worked out by hand, in total and in each layer."""
        result = by_hand()
        limits = [parse_threshold(f"{name}:{VALUES[name] - 1e-9!r}", over=True)]
        limits += [parse_threshold(f"{name}:{VALUES[name] + 1e-9!r}", over=True)]
        (failure,) = judge(result, limits).failed
        assert failure.value == pytest.approx(VALUES[name], rel=1e-12)
        found = judge(result, [parse_threshold(f"{name}@*:0", over=True)]).failed
        above = [(n, pytest.approx(v)) for n, v in zip(LAYERS, BY_LAYER[name], strict=True) if v]
        assert [(f.layer, f.value) for f in found] == above

    def test_eps_decides(self):
        """A wider eps makes clear flips near-ties; one of 0 leaves the ties alone."""
        result = by_hand()
        clear = [parse_threshold("clear:0", over=True)]
        assert judge(result, clear, eps=0.25).exit_code == 0
        (failure,) = judge(result, clear, eps=0).failed
        assert failure.value == pytest.approx(3 / 7)
        document = diff_document(result, judge(result, clear, eps=0.25))["margins"]
        assert [document[k] for k in ("eps", "ties", "near_ties", "clear_flips")] == [0.25, 1, 3, 0]
        assert document["margin_unknown"] == result.rows_mismatched - 4 == 1

    @pytest.mark.parametrize("name", VALUES)
    def test_margins_must_be_there(self, name):
        """A threshold on margins that no compared row has is an error, not a pass."""
        bare = make_dump([make_sample(make_routes(all_alike(1)), "a")])
        with pytest.raises(MismatchError) as caught:
            judge(diff(bare, bare), [parse_threshold(f"{name}:1", over=True)])
        assert str(caught.value).endswith("against: no compared row has a margin")
        some = [[1.0, None, 1.0]]
        part = make_dump([make_sample(make_routes(all_alike(1), margins=some), "a")])
        if name != "margin_coverage":
            with pytest.raises(MismatchError, match="no compared row of layer 2 has a margin"):
                judge(diff(part, bare), [parse_threshold(f"{name}@2:1", over=True)])


def test_undefined_figures_are_null():
    """Margins that are all unknown give counts of 0 and null rates, and infinity is null."""
    for value, rows in ((None, 0), (math.inf, 3)):
        side = make_dump(
            [make_sample(make_routes(all_alike(1, (2, 3)), margins=[[value] * 3]), "a")]
        )
        other = make_dump([make_sample(make_routes(all_alike(1)), "a")])
        document = diff_document(diff(side, other))["margins"]
        assert document["rows_with_margin"] == document["clear_flips"] == rows
        assert document["clear_rate"] == (1 if rows else None)
        assert document["mismatched_margin"] == dict.fromkeys(("p50", "p90", "p99", "max"))
        assert document["new"] is None
        assert (document["old"] is None) == (not rows)


def test_dumps_without_margins_say_nothing_of_them():
    """No document of dumps without margins has a key about margins, order or making."""
    bare = make_dump([make_sample(make_routes(all_alike(1)), "a")])
    found = str(diff_document(diff(bare, bare))) + str(summary_document(summarize(bare)))
    assert not re.search("margin|'order'|provenance|ties", found)


def test_a_summary_counts_margins():
    """A summary tells how many rows have a margin, and how many of them are ties, of groups too."""
    margins = [[0.0, 0.5, None], [0.0, math.inf, 1.0]]
    groups = [[1.0, 1.0, None], [math.inf, 0.0, 1.0]]
    for group_margins, ties in ((None, 2), (groups, 3)):
        routes = make_routes(all_alike(2), margins=margins, group_margins=group_margins)
        summary = summarize(make_dump([make_sample(routes)], margins=True))
        assert (summary.rows_with_margin, summary.ties) == (5, ties)


def test_the_edges_are_those_of_the_oracle():
    """The bins are half-decades from a millionth to 1, and the default eps is an edge."""
    assert MARGIN_EDGES == oracles.EDGES
    assert EPS in MARGIN_EDGES


class TestRecorded:
    """transformers' float32 margins of tiny_rl, by plain hooks, against vLLM in bf16."""

    def test_the_routes_are_those_recorded_before(self):
        """Ids, slot by slot, and log-probs are those of the earlier recording without margins."""
        before = open_dump(FIXTURES / "tiny_rl" / "transformers_v0.fp32.npz")
        result = diff(before, open_dump(MARGINED))
        assert (result.rows, result.rows_mismatched) == (102_192, 0)
        assert result.counts.order_L.sum() == result.counts.only_old == 0
        assert result.logprobs.max_abs < 1e-5

    def test_most_mismatches_are_near_ties(self):
        """Of 2,055 mismatched rows four fifths are near-ties; in the first layer all are."""
        result = diff(open_dump(ENGINE), open_dump(MARGINED))
        flips = flips_of(result.margins, EPS)
        assert (flips.rows, flips.ties, flips.near, flips.clear) == (101_616, 0, 1_644, 411)
        first = flips_of(result.margins, EPS, 0)
        assert (first.near, first.clear) == (145, 0)
        rows_B, flips_B = (
            a[1].sum(axis=0) for a in (result.margins.rows_2LB, result.margins.flips_2LB)
        )
        assert flips_B.sum() == 2_055
        rates = flips_B[3:] / np.maximum(rows_B[3:], 1)
        assert (np.diff(rates) <= 0).all()  # the wider the margin, the rarer a mismatch

    def test_a_row_too_far_is_a_clear_flip(self):
        """Routes that are off by one row mismatch at every margin, wide or not."""
        right = open_dump(MARGINED)
        samples = [
            dataclasses.replace(
                s,
                routes=dataclasses.replace(
                    s.routes, ids_TLK=np.roll(s.routes.ids_TLK, 1, axis=0), margin_TL=None
                ),
            )
            for s in right
        ]
        wrong = Dump(
            dataclasses.replace(right.meta, margins=False), right.keys, samples.__getitem__
        )
        rows_B, flips_B = (
            counts[1].sum(axis=0)[4:12]  # margins from 3e-6 to 0.1
            for margins in [diff(wrong, right).margins]
            for counts in (margins.rows_2LB, margins.flips_2LB)
        )
        assert (flips_B > 0.85 * rows_B).all(), flips_B / rows_B


class TestFiles:
    """Margined dumps through the commands."""

    def test_convert_keeps_everything(self, capsys, tmp_path):
        """A converted margined file is the same file, its source aside; a folder of it opens."""
        path = tmp_path / "copy.parquet"
        done = run(capsys, "convert", MARGINED, "--save", path)
        assert (done.code, done.out) == (0, "")
        copy, source = open_dump(path), open_dump(MARGINED)
        for name in ("order", "margins", "provenance", "engine_version"):
            assert getattr(copy.meta, name) == getattr(source.meta, name)
        assert copy.meta.order == "score"
        assert copy.meta.provenance["dtype"] == "float32"
        for dump in (copy, open_dump(tmp_path)):
            for a, b in zip(dump, source, strict=True):
                np.testing.assert_array_equal(a.routes.margin_TL, b.routes.margin_TL)

    def test_unpacking_gives_routes_without_margins(self, capsys, tmp_path):
        """Replay folders hold no margins, and what is unpacked says so; slot order is kept."""
        folder, path = tmp_path / "replay", tmp_path / "back.parquet"
        assert run(capsys, "pack", MARGINED, "--save", folder).code == 0
        assert run(capsys, "unpack", folder, "--save", path).code == 0
        back = open_dump(path)
        assert (back.meta.margins, back.meta.order) == (False, "score")
        result = diff(back, open_dump(MARGINED))
        assert (result.rows_mismatched, result.counts.order_L.sum()) == (0, 0)
        assert flips_of(result.margins, EPS).rows == result.rows == 102_192

    @pytest.mark.parametrize("eps", ["-1", "inf", "nan", "x"])
    def test_widths_that_are_refused(self, capsys, eps):
        """An --eps that is negative, infinite or no number is exit 2 with nothing on stdout."""
        done = run(capsys, "diff", MARGINED, MARGINED, "--eps", eps)
        assert (done.code, done.out) == (2, "")
        assert "--eps" in done.err

    def test_a_width_is_used(self, capsys):
        """--eps reaches the thresholds and the document; the help tells the default."""
        options = ("--fail-over", "clear:0", "--json")
        for eps, code in (("0.0165", 0), ("0.016", 1)):
            done = run(capsys, "diff", ENGINE, MARGINED, "--eps", eps, *options)
            assert done.code == code
            assert json.loads(done.out)["margins"]["eps"] == float(eps)
        assert f"{EPS:g} when not given" in re.sub(
            r"[\s│]+", " ", run(capsys, "diff", "--help").out
        )
