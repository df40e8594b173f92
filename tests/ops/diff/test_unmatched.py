"""What one dump has and the other lost is a difference; what a dump says that it leaves out is not.

N is the number of tokens, 5 here: an engine has rows for the first N - 1.
"""

import numpy as np
import pytest

from routectl.ops.diff.diff import DiffOptions, diff, diff_as
from routectl.ops.diff.thresholds import Unmatched, judge, parse_threshold
from routectl.reports.diff.document import diff_document
from routectl.reports.diff.text import diff_verdict
from support.dumps import LAYERS, all_alike, make_dump, make_routes, make_sample

PROMPT, RESPONSE = [1, 2], [3, 4, 5]
ROWS = len(LAYERS)


def sample_of(rows=4, name="a", **more):
    """A sample of N tokens with so many rows."""
    about = {key: more.pop(key) for key in ("start", "missing") if key in more}
    routes = make_routes(all_alike(rows), **about)
    return make_sample(routes, name, [ord(name), *PROMPT[1:]], RESPONSE, **more)


def dump_of(*samples):
    """A dump of samples."""
    return make_dump(list(samples))


def unmatched(old, new, **options):
    """What counts as unmatched between two dumps, whichever is OLD; the exit code agrees."""
    found = []
    for sides in ((old, new), (new, old)):
        result = diff_as(*sides, DiffOptions(**options))
        verdict = judge(result)
        assert (result.rows_mismatched, verdict.exit_code) == (0, int(bool(verdict.unmatched)))
        found.append(verdict.unmatched)
    assert found[0] == found[1]
    return found[0]


WHOLE = sample_of(4)
LEGAL = {
    "a row for every token": sample_of(5),
    "a declared start": sample_of(2, start=2),
    "a mask of what is trained on": sample_of(
        4,
        missing=[(0, i) for i in range(ROWS)],
        loss_mask=np.array([False, False, True, True, True]),
    ),
    "rows that make masked tokens": sample_of(
        4,
        missing=[(3, i) for i in range(ROWS)],
        loss_mask=np.array([True, True, True, True, False]),
    ),
}
LOST = {
    "the last row that was fed": (sample_of(3), ROWS),
    "half of the rows": (sample_of(2), 2 * ROWS),
    "a row that is missing": (sample_of(4, missing=[(1, 0), (1, 2)]), 2),
    "what a start that nobody declared leaves out": (
        sample_of(2, start=2, start_inferred=True),
        2 * ROWS,
    ),
    "rows of trained tokens": (
        sample_of(4, missing=[(2, 1)], loss_mask=np.ones(5, np.bool_)),
        1,
    ),
    "no routes at all": (make_sample(None, "a", [ord("a"), 2], RESPONSE), 4 * ROWS),
}


@pytest.mark.parametrize("what", LEGAL)
def test_what_a_dump_leaves_out_by_its_own_word_is_no_difference(what):
    """The last token's row, rows before a declared start and masked rows are nobody's loss."""
    assert unmatched(dump_of(WHOLE), dump_of(LEGAL[what])) == Unmatched()


@pytest.mark.parametrize("what", LOST)
def test_lost_rows_are_a_difference(what):
    """Rows that one side has and the other does not, though nothing says so, are exit 1."""
    other, rows = LOST[what]
    second = sample_of(4, "b")  # so that something is compared
    assert unmatched(dump_of(WHOLE, second), dump_of(other, second)) == Unmatched(rows=rows)


def test_unknown_lengths_allow_one_row():
    """Where no side knows N, the longer one may have the last token's row, and no more."""
    sides = [make_sample(make_routes(all_alike(n)), "a") for n in (3, 4, 5)]
    assert not unmatched(dump_of(sides[1]), dump_of(sides[2]))
    assert unmatched(dump_of(sides[0]), dump_of(sides[2])) == Unmatched(rows=ROWS)


def test_rows_that_neither_side_has_are_no_difference():
    """A dump with missing rows is the same as itself, and covered whole."""
    dump = dump_of(sample_of(4, missing=[(1, 0)]))
    assert not unmatched(dump, dump)
    assert diff_document(diff(dump, dump))["coverage_rate"] == 1


def test_tokens_after_the_sides_parted_are_of_neither():
    """By prefix, rows of other tokens are compared with nothing, and are no difference."""
    parted = make_sample(make_routes(all_alike(6)), "a", [ord("a"), 2], [3, 9, 9, 9, 9])
    assert not unmatched(dump_of(WHOLE), dump_of(parted), match="prefix")


def test_a_selection_of_tokens_looks_at_no_others():
    """Rows that are lost outside the selected tokens are not asked about."""
    lost = dump_of(sample_of(4, missing=[(0, 1)]))
    assert unmatched(dump_of(WHOLE), lost, tokens="prompt") == Unmatched(rows=1)
    assert not unmatched(dump_of(WHOLE), lost, tokens="response")


def test_lost_samples_and_layers_are_a_difference():
    """Samples without a partner and layers of one side count, unless other layers are asked for."""
    both = dump_of(WHOLE, sample_of(4, "b"))
    assert unmatched(both, dump_of(WHOLE)) == Unmatched(samples=1)
    part = make_dump([both[0], both[1]]).select(layers=(1, 2))
    assert unmatched(both, part) == Unmatched(layers=1)
    assert not unmatched(both, part, layers=(1, 2))


def test_coverage_is_of_the_rows_of_both_dumps():
    """Rows of lost samples and of layers that one side alone has are in the union."""
    both = dump_of(WHOLE, sample_of(4, "b"))
    part = dump_of(WHOLE).select(layers=(1, 2))
    document = diff_document(diff(both, part))
    assert document["rows_unmatched_old"] == 4 + 4 * ROWS  # layer 4 of a, and b
    assert document["coverage_rate"] == pytest.approx(8 / (2 * 4 * ROWS))
    chosen = diff_document(diff(both, part, layers=(1, 2)))
    assert chosen["coverage_rate"] == pytest.approx(8 / 16)


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        ([], 1),
        (["mismatch:5%"], 1),
        (["rows_mismatched:0"], 1),
        (["unmatched:1"], 0),
        (["unmatched:0"], 1),
    ],
)
def test_thresholds_beside_lost_samples(texts, code):
    """Only a threshold on unmatched samples says how many of them may be."""
    result = diff(dump_of(WHOLE, sample_of(4, "b")), dump_of(WHOLE))
    limits = [parse_threshold(text, over=True) for text in texts]
    assert judge(result, limits).exit_code == code
    allowed = judge(result, limits, allow_unmatched=True)
    assert allowed.exit_code == int("unmatched:0" in texts)


def test_a_threshold_on_coverage_decides_alone():
    """Who says how much must be covered has said how much may be lost, of samples as of rows."""
    result = diff(dump_of(WHOLE, sample_of(4, "b")), dump_of(sample_of(3)))
    for limit, code in (("coverage:30%", 0), ("coverage:99%", 1)):
        assert judge(result, [parse_threshold(limit, over=False)]).exit_code == code


def test_the_verdict_line_names_what_was_lost():
    """The word is DIFFERS and the line has samples, layers and rows, each only where there is."""
    part = dump_of(sample_of(3)).select(layers=(1, 2))
    document = diff_document(diff(dump_of(WHOLE, sample_of(4, "b")), part))
    word, text = diff_verdict(document)
    assert word == "DIFFERS"
    lost = "1 sample without a partner, 1 layer of one side alone, 2 rows lost on one side"
    assert f"0 of 6 rows differ; {lost}; coverage" in text
    assert document["verdict"]["unmatched"] == {"samples": 1, "layers": 1, "rows": 2}
    same = diff_document(diff(dump_of(WHOLE), dump_of(WHOLE)))
    assert diff_verdict(same) == ("SAME", "0 of 12 rows differ")


def test_parts_add_up():
    """What was lost in two shards is what was lost in both together."""
    whole = dump_of(WHOLE, sample_of(4, "b"))
    lost = dump_of(sample_of(3), sample_of(4, "b", missing=[(0, 0)]))
    firsts, seconds = (diff(whole.select(samples=[n]), lost.select(samples=[n])) for n in (0, 1))
    assert judge(firsts + seconds).unmatched == judge(diff(whole, lost)).unmatched
    assert judge(firsts + seconds).unmatched == Unmatched(rows=ROWS + 1)


def test_old_as_a_part_of_its_dump():
    """Where OLD is a part by intent, what NEW has beside it is not left over."""
    options = DiffOptions(part=True)
    result = diff_as(dump_of(WHOLE), dump_of(sample_of(5), sample_of(4, "b")), options)
    assert result.rows_left_over == result.samples.only_new == 0
    gone = sample_of(4, "b", missing=[(t, i) for t in range(4) for i in range(ROWS)])
    result = diff_as(dump_of(WHOLE, gone), dump_of(sample_of(5)), options)
    assert (result.samples.only_old, result.rows_left_over) == (0, 0)
    result = diff_as(dump_of(WHOLE, sample_of(4, "b")), dump_of(sample_of(5)), options)
    assert (result.samples.only_old, result.rows_left_over) == (1, 4 * ROWS)
