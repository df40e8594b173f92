"""What a page shows beside the figures: held against plain loops, bounded, and adding up."""

import base64
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import oracles
import routectl.ops.diff.detail as detail_room
from routectl.errors import MismatchError
from routectl.ops.diff.detail import BINS, DETAIL_PLACES
from routectl.ops.diff.diff import DiffOptions, diff, diff_as
from routectl.ops.pairs.selection import narrow_pair
from routectl.reports.diff.document import diff_document
from support.cuts import cut_at
from support.dumps import EXPERTS, LAYERS, TOP_K, from_plain, make_dump, part_of, plain_pairs

some_pairs = st.lists(plain_pairs(), min_size=1, max_size=3)


def dumps_of(pairs):
    """The old and the new dump of pairs of plain samples."""
    sides = zip(*pairs, strict=True)
    return [make_dump([from_plain(p, f"s{i}") for i, p in enumerate(side)]) for side in sides]


def detailed(pairs, **options):
    """The result of a comparison with detail; another example where nothing can be compared."""
    old, new = dumps_of(pairs)
    try:
        return diff_as(old, new, DiffOptions(match="id", detail=True, **options))
    except MismatchError:
        reject()


def plain_rows(pairs):
    """Of each compared row by loops: sample, position, place, layer index, the two id sets."""
    for number, (old, new) in enumerate(pairs):
        lengths = [s["prompt_length"] for s in (old, new) if s["prompt_length"] is not None]
        for position in range(max(s["start"] + len(s["ids"] or []) for s in (old, new))):
            if not (oracles.covers(old, position) and oracles.covers(new, position)):
                continue
            if not oracles.same_token(old, new, position, False):
                continue
            place = 2 if not lengths else int(position >= lengths[0])
            for index, layer in enumerate(LAYERS):
                rows = [oracles.row_of(s, position, layer) for s in (old, new)]
                if None not in rows:
                    yield number, position, place, index, *map(set, rows)


def plain_cells(pairs, width):
    """(place, layer index, bin) of each compared row, and whether its sets differ, by loops."""
    for _, position, place, index, old, new in plain_rows(pairs):
        yield (place, index, position // width), old != new


def check_cells(pairs, bins):
    """Rows and mismatched rows by place, layer and bin are those that loops over sets count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detail_room, "BINS", bins)
        result = detailed(pairs)
    found = result.detail
    rows = np.zeros((len(DETAIL_PLACES), len(LAYERS), bins), int)
    mismatched = rows.copy()
    for cell, differs in plain_cells(pairs, found.width):
        rows[cell] += 1
        mismatched[cell] += differs
    assert found.rows_PLB.tolist() == rows.tolist()
    assert found.mismatched_PLB.tolist() == mismatched.tolist()
    assert found.depth_PN.sum(axis=0).tolist() == result.counts.depth_N.tolist()


@settings(max_examples=50)
@given(some_pairs, st.sampled_from([2, 4, 128]))
def test_cells_are_what_loops_count(pairs, bins):
    """Whatever the samples and the bins, every cell holds the rows that loops count there."""
    check_cells(pairs, bins)


@settings(max_examples=30)
@given(some_pairs)
def test_cells_of_unknown_prompts(pairs):
    """Where no side knows the prompt's length, every compared row is of the place unknown."""
    for side in (side for pair in pairs for side in pair):
        side["prompt_length"] = None
    check_cells(pairs, BINS)


@settings(max_examples=30)
@given(some_pairs)
def test_detail_changes_no_figure(pairs):
    """With detail every other key of the document is what it is without."""
    result = detailed(pairs)
    old, new = dumps_of(pairs)
    document = diff_document(result)
    assert document.pop("detail")["schema"] == "routectl.detail/1"
    assert document == diff_document(diff(old, new, match="id"))


@settings(max_examples=40)
@given(some_pairs)
def test_places_and_layers_are_what_loops_count(pairs):
    """Swapped ids and loads by place and layer, and listed samples, are what loops count."""
    result = detailed(pairs)
    found = result.detail
    swaps, loads = np.zeros_like(found.swaps_PLS), np.zeros((2, *found.load_old_PLE.shape), int)
    tokens, wrong = Counter(), Counter()
    for number, position, place, index, *sets in plain_rows(pairs):
        swap = max(map(len, sets)) - len(sets[0] & sets[1])
        swaps[place, index, swap] += 1
        for side, (plain, layer) in enumerate((p, LAYERS[index]) for p in pairs[number]):
            for expert in oracles.row_of(plain, position, layer):
                loads[side, place, index, expert] += 1
        tokens[number, place, position] |= 1
        wrong[number, place, position] |= int(sets[0] != sets[1])
    assert found.swaps_PLS.tolist() == swaps.tolist()
    assert [found.load_old_PLE.tolist(), found.load_new_PLE.tolist()] == loads.tolist()
    document = diff_document(result)["detail"]["samples"]
    present = [p for p in range(len(DETAIL_PLACES)) if found.depth_PN[p].any()]
    for row, *parts in zip(
        document["rows"],
        *(document["parts"][k] for k in ("tokens", "tokens_mismatched")),
        strict=True,
    ):
        number = int(row[0][1:])
        for counted, part in zip((tokens, wrong), parts, strict=True):
            own = [sum(n for k, n in counted.items() if k[:2] == (number, p)) for p in present]
            assert part == own


@settings(max_examples=30)
@given(some_pairs)
def test_listed_samples_add_up(pairs):
    """Each listed sample's rows by place and layer are what loops count, and add up to its own."""
    result = detailed(pairs)
    document = diff_document(result)["detail"]
    parts, names = document["samples"]["parts"], [p["place"] for p in document["places"]]
    shape = len(document["samples"]["rows"]), len(names), len(LAYERS)
    wrong = np.frombuffer(
        base64.b64decode(parts["rows_mismatched"]), f"<u{parts['count_bytes']}"
    ).reshape(shape)
    rows = np.array(parts["tokens"])[:, :, None] * np.ones(shape, int)
    if parts["rows_absent"] is not None:
        absent = base64.b64decode(parts["rows_absent"])
        rows = rows - np.frombuffer(absent, f"<u{parts['count_bytes']}").reshape(shape)
    expected = np.zeros((2, *shape), int)
    order = [int(row[0][1:]) for row in document["samples"]["rows"]]
    for number, _, place, index, old, new in plain_rows(pairs):
        at = order.index(number), names.index(DETAIL_PLACES[place]), index
        expected[(0, *at)] += 1
        expected[(1, *at)] += old != new
    assert [rows.tolist(), wrong.tolist()] == expected.tolist()
    assert [row[3:] for row in document["samples"]["rows"]] == expected.sum(axis=(2, 3)).T.tolist()


def margined(pairs, seed):
    """Old and new dumps of pairs with random margins, some of them unknown, or ties."""
    rng = np.random.default_rng(seed)

    def with_margins(sample):
        if sample.routes is None:
            return sample
        shape = sample.routes.ids_TLK.shape[:2]
        margin_TL = (10.0 ** rng.integers(-7, 1, shape)).astype(np.float16)
        margin_TL[rng.random(shape) < 0.2] = np.nan
        margin_TL[rng.random(shape) < 0.2] = 0
        if sample.routes.missing_TL is not None:
            margin_TL[sample.routes.missing_TL] = np.nan
        return replace(sample, routes=replace(sample.routes, margin_TL=margin_TL))

    return [
        make_dump([with_margins(from_plain(p, f"s{i}")) for i, p in enumerate(side)])
        for side in zip(*pairs, strict=True)
    ]


@settings(max_examples=30)
@given(some_pairs, st.integers(0, 99))
def test_margins_of_places_add_up_to_the_whole(pairs, seed):
    """Margins by place and layer add up to those without detail; sequences keep their own."""
    dumps = margined(pairs, seed)
    try:
        document = diff_document(diff_as(*dumps, DiffOptions(match="id", detail=True)))
    except MismatchError:
        reject()
    detail = document.pop("detail")
    assert document == diff_document(diff(*dumps, match="id"))
    places = [p["margins"] for p in detail["places"] if "margins" in p]
    for index, layer in enumerate(document["layers"]):
        for key in ("rows_with_margin", "ties", "near_ties", "clear_flips"):
            assert sum(p[key][index] for p in places) == layer.get("margins", {key: 0})[key]
        for side in ("old", "new"):
            sums = sum(
                np.array([p[side][k][index] for k in ("rows", "rows_mismatched")])
                for p in places
                if p[side]
            )
            told = [
                [b["rows"], b["rows_mismatched"]] for b in layer.get("margins", {}).get(side) or ()
            ]
            assert [c for c in np.atleast_2d(np.transpose(sums)).tolist() if any(c)] == told
    for entry in detail["sequences"]:
        sample = int(entry["sample"][1:])
        where = np.argwhere(unpacked(entry, len(LAYERS), TOP_K)[2])
        for side, key in zip(dumps, ("old_margins", "new_margins"), strict=True):
            routes = side[sample].routes
            rows = where[:, 0] + entry["position"] - routes.start
            own = np.frombuffer(base64.b64decode(entry[key]), "<f2")
            np.testing.assert_array_equal(own, routes.margin_TL[rows, where[:, 1]])


def unpacked(entry, layers, top_k):
    """A kept sequence of a document as old [T, L, K], new rows and marks, by numpy alone."""
    size = entry["kept"] * layers
    ids = {1: "<u1", 2: "<u2"}[entry["id_bytes"]]
    old, new = (np.frombuffer(base64.b64decode(entry[k]), ids) for k in ("old", "new_mismatched"))
    bits = np.frombuffer(base64.b64decode(entry["differs"]), np.uint8)
    differs = np.unpackbits(bits, count=size, bitorder="little").reshape(-1, layers).astype(bool)
    return old.reshape(-1, layers, top_k), new.reshape(-1, top_k), differs


@settings(max_examples=30)
@given(some_pairs)
def test_worst_sequences_are_whole(pairs):
    """The worst sequences hold every compared row of both sides, in the order of the report."""
    result = detailed(pairs)
    document = diff_document(result)
    kept = document["detail"]["sequences"]
    worst = document["sequences"]["worst"]
    assert [k["sample"] for k in kept] == [w["sample"] for w in worst]
    for entry, counted in zip(kept, worst, strict=True):
        old, new, differs = unpacked(entry, len(LAYERS), TOP_K)
        assert differs.sum() == counted["rows_mismatched"] == len(new)
        plain = pairs[int(entry["sample"][1:])]
        left = iter(new.tolist())
        for t, position in enumerate(range(entry["position"], entry["position"] + entry["kept"])):
            for index, layer in enumerate(LAYERS):
                rows = [oracles.row_of(side, position, layer) for side in plain]
                if differs[t, index]:
                    assert rows == [old[t, index].tolist(), next(left)]
                elif None not in rows:
                    assert set(rows[0]) == set(rows[1])
                    assert rows[0] == old[t, index].tolist()
        assert (
            entry["token_ids"]
            == (plain[0]["prompt"] + plain[0]["response"])[
                entry["position"] : entry["position"] + entry["kept"]
            ]
        )


def flipped(tokens, marks):
    """Two samples' ids of that many tokens; the tokens of ``marks`` differ in layer 0."""
    old = [[[0, 1]] * len(LAYERS) for _ in range(tokens)]
    new = [
        [[0, 2 if t in marks and i == 0 else 1] for i in range(len(LAYERS))] for t in range(tokens)
    ]
    common = {
        "start": 0,
        "missing": set(),
        "layers": list(LAYERS),
        "cached": 0,
        "prompt": [1] * 3,
        "response": [1] * tokens,
        "prompt_length": 3,
    }
    return {**common, "ids": old}, {**common, "ids": new}


def test_a_long_sequence_is_cut_to_its_worst_window(monkeypatch):
    """Beyond the bytes it may take, a sequence is kept where most rows differ, and says so."""
    monkeypatch.setattr(detail_room, "KEPT_BYTES", 10 * 5 * len(LAYERS) * TOP_K)
    entry = diff_document(detailed([flipped(500, {7, 300, 301, 303})]))["detail"]["sequences"][0]
    assert (entry["tokens"], entry["kept"]) == (500, 4)
    assert entry["position"] == 300


def test_bins_widen_with_positions():
    """Whatever the length, there are at most BINS bins, and no row is lost."""
    result = detailed([flipped(5, {0}), flipped(1000, {999})])
    found = result.detail
    assert (found.width, found.rows_PLB.shape[2]) == (8, BINS)
    assert found.rows_PLB.sum() == result.rows == 1005 * len(LAYERS)
    assert found.mismatched_PLB[1, 0, 999 // 8] == 1


def test_parts_add_up():
    """The detail of two parts of the samples is that of the whole, of other widths too."""
    pairs = [flipped(9, {1, 2}), flipped(600, {8}), flipped(70, {3})]
    old, new = dumps_of(pairs)
    options = DiffOptions(match="id", detail=True, examples=2)
    whole = diff_as(old, new, options)
    first, *more = cut_at(old, new, options, [1])
    assert diff_document(sum(more, first)) == diff_document(whole)
    without = diff(part_of(old, [1, 2]), part_of(new, [1, 2]), match="id", examples=2)
    assert (first + without).detail is None


def test_no_sequence_is_kept_without_examples():
    """--examples 0 keeps no sequence, and a sequence without a mismatch is never kept."""
    assert detailed([flipped(9, {1})], examples=0).detail.worst.items == ()
    assert detailed([flipped(9, ())]).detail.worst.items == ()


def test_many_experts_share_cells():
    """A load of more cells than are shown is that of neighbouring experts together."""
    from routectl.reports.diff.detail import load_document

    load = np.arange(2 * 40_000).reshape(2, 40_000)
    found = load_document(load)["load"]
    assert found["experts_per_cell"] == 3
    assert len(found["dump"][0]) == 13_334
    assert [sum(line) for line in found["dump"]] == load.sum(axis=1).tolist()


class TestNarrowing:
    """--sample and --positions: some samples, some positions, of both sides."""

    def test_rows_of_a_cell(self):
        """The rows of some positions of one sample are those that the whole has there."""
        pairs = [flipped(40, {1, 5, 30}), flipped(40, {2})]
        old, new = narrow_pair(*dumps_of(pairs), samples=["s0"], positions=range(5, 31))
        result = diff(old, new)
        assert result.samples.old == result.samples.new == 1
        assert (result.rows, result.rows_mismatched) == (26 * len(LAYERS), 2)
        assert [(e.sample, e.position) for e in result.examples] == [("s0", 5), ("s0", 30)]
        assert result.counts.only_old == result.counts.only_new == 0

    @settings(max_examples=30)
    @given(some_pairs, st.integers(0, 6), st.integers(0, 6))
    def test_two_ranges_add_up(self, pairs, cut, end):
        """Two ranges of positions that follow each other add up to both, rows missing or not."""
        old, new = dumps_of(pairs)
        counted = []
        for positions in (range(cut), range(cut, cut + end), range(cut + end)):
            try:
                result = diff(*narrow_pair(old, new, positions=positions), match="id")
                counted.append(np.array([result.rows, result.rows_mismatched]))
            except MismatchError:
                counted.append(np.zeros(2, int))
        assert (counted[0] + counted[1]).tolist() == counted[2].tolist()

    def test_a_sample_without_an_id_goes_by_its_place(self):
        """#1 is the second sample of OLD, and keeps that name."""
        pairs = [flipped(9, {1}), flipped(12, {2})]
        old, new = (make_dump([from_plain(p) for p in side]) for side in zip(*pairs, strict=True))
        result = diff(*narrow_pair(old, new, match="order", samples=["#1"]), match="order")
        assert [s.sample for s in result.sequences.worst] == ["#1"]
        assert result.num_tokens == 12

    def test_an_unknown_sample_is_an_error(self):
        """A name that no pair has is refused, and named."""
        old, new = dumps_of([flipped(9, {1})])
        with pytest.raises(MismatchError, match="sample 'x'"):
            narrow_pair(old, new, samples=["x"])


def test_experts_are_as_many_as_in_the_dump():
    """Loads are by layer and expert, and add up to rows x K."""
    result = detailed([flipped(9, {1, 2})])
    load = diff_document(result)["detail"]["load"]
    for side in ("old", "new"):
        assert np.array(load[side]).shape == (len(LAYERS), EXPERTS)
        assert np.sum(load[side]) == result.rows * TOP_K
