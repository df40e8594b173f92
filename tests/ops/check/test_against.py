"""check against a reference: every hypothesis named, clean pairs left alone, experts restored.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.errors import MismatchError
from routectl.formats import open_dump
from routectl.ops.check.check import CheckOptions, check
from routectl.ops.check.fix import restored_dump
from routectl.ops.diff.diff import diff
from routectl.ops.pairs.align import name_of
from support.checks import codes, loaded, only, two_of
from support.dumps import make_dump, make_routes, make_sample, part_of
from support.faults import BASES, FAULTS, clean_pairs, opened, spoilt
from support.more_faults import MORE_FAULTS, as_read

AGAINST = [fault for fault in FAULTS if fault.against]
ALSO = {"R601", "R207"}


def more_fault(name):
    """The fault of a name, of those in more_faults.py."""
    return next(fault for fault in MORE_FAULTS if fault.name == name)


def fault_named(name):
    """The fault of a name."""
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("pair", clean_pairs(), ids=lambda p: "/".join(p[0].parts[-2:]))
def test_clean_pairs(pair):
    """Two clean recordings of the same tokens, bf16 and fp32 among them, differ by numerics."""
    for one, other in (pair, pair[::-1]):
        old, new = open_dump(one), open_dump(other)
        found = check(old, new, options=CheckOptions(by_tokens=False))
        counted = diff(old, new)
        assert codes(found, "warning") == set()
        assert ("R715" in codes(found)) == (counted.rows_mismatched > 0)
        assert found.explanation.mismatched == counted.rows_mismatched
        assert found.explanation.rows == counted.rows
        assert found.explanation.explained == 0


def filled(dump, filler, rows):
    """The dump with filler in the first rows of three samples in four, those of random ids else."""
    rng, samples = np.random.default_rng(0), []
    for index, sample in enumerate(dump):
        ids_TLK = sample.routes.ids_TLK.copy()
        part = ids_TLK[: len(ids_TLK) // 3 if rows is None else rows]
        if index % 4:
            order = np.argsort(rng.random((*part.shape[:2], 32)), axis=2)[..., :4]
            part[:] = order if filler is None else filler
        samples.append(replace(sample, routes=replace(sample.routes, ids_TLK=ids_TLK)))
    return Dump(dump.meta, dump.keys, samples.__getitem__)


@pytest.mark.parametrize(
    ("code", "filler", "rows"), [("R206", [0, 1, 2, 3], 8), ("R207", None, None)]
)
def test_filler_is_one_finding(code, filler, rows):
    """Filler is named once: it is held against no reference and against no sibling."""
    base = next(base for base in BASES if base.name == "tiny_rl vllm")
    clean = loaded(base.dump)
    bad = filled(clean, filler, rows)
    for reference in (None, loaded(base.reference)):
        found = check(bad, reference, options=CheckOptions(by_tokens=False))
        assert codes(found, "error") == {code}
    named = sum(f.rows for f in found.findings if f.code == code)
    assert found.explanation.rows == 6 * sum(len(s.routes.ids_TLK) for s in clean) - named


def named_as(fault, found):
    """The code of a fault; of random rows R207, where they are filler by themselves."""
    is_filler = fault.name == "random rows" and "R207" in codes(found)
    return "R207" if is_filler else fault.code


@pytest.mark.slow
@pytest.mark.parametrize("fault", AGAINST, ids=lambda f: f.name)
def test_fault_at_five_percent(fault):
    """Every fault is named at 5 % of the rows in two recordings, and no other error is."""
    for base in two_of(fault, AGAINST):
        bad = spoilt(fault, base, loaded(base.dump), 0.05)
        found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
        extra = {"R201"} if fault.code == "R707" else set()
        assert named_as(fault, found) in codes(found), base.name
        assert codes(found, "error") <= {fault.code} | ALSO | extra, base.name


@pytest.mark.slow
@pytest.mark.parametrize("fault", MORE_FAULTS, ids=lambda f: f.name)
def test_more_faults_at_five_percent(fault):
    """What was done to rows, ids, layers or weights is named in two recordings; nothing else is."""
    for base in two_of(fault, MORE_FAULTS):
        bad = as_read(spoilt(fault, base, loaded(base.dump), 0.05))
        found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
        named = named_as(fault, found)
        assert named in codes(found), base.name
        assert codes(found, "error") <= {fault.code, named, *fault.also}, base.name


def test_two_maps_say_where_each_holds():
    """Of two maps one holds up to a sample and the other from the next one on."""
    base = BASES[3]
    bad = spoilt(more_fault("two maps, by samples"), base, loaded(base.dump), 1.0)
    found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
    details = {f.detail for f in found.findings if f.code == "R706"}
    names = [key.sample_id for key in bad.keys]
    assert details == {f"up to sample {names[47]}", f"from sample {names[48]} on"}
    fixed = restored_dump(bad, found.explanation)
    assert diff(fixed, loaded(base.dump)).rows_mismatched == 0


def test_ids_out_of_range_are_restored():
    """Ids with a slot more after every eight are named by that rule, and check --save undoes it."""
    base = BASES[1]
    bad = as_read(spoilt(more_fault("a slot more after every 8"), base, loaded(base.dump), 1.0))
    found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
    (one,) = [f for f in found.findings if f.code == "R706"]
    assert dict(one.facts)["map"] == "a slot more after every 8 experts: e + e // 8"
    fixed = restored_dump(bad, found.explanation)
    assert diff(fixed, loaded(base.dump)).rows_mismatched == 0


def test_ids_that_lost_what_they_were_are_not_restored():
    """Ids modulo a power of two are named so, and no map is made up for them."""
    base = BASES[3]
    bad = spoilt(more_fault("ids modulo 16"), base, loaded(base.dump), 1.0)
    found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
    assert "R717" in codes(found)
    with pytest.raises(MismatchError, match="no longer say which expert"):
        restored_dump(bad, found.explanation)


def test_whose_rows_are_told():
    """A sample that holds another one's rows has a note of whose they are."""
    base = BASES[3]
    bad = spoilt(fault_named("samples swapped"), base, loaded(base.dump), 0.02)
    found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
    (one,) = [f for f in found.findings if f.code == "R710"]
    notes = {p.sample: re.fullmatch(r"to (\d+), rows of sample (.*)", p.note) for p in one.places}
    owners = {name: note[2] for name, note in notes.items()}
    reference = loaded(base.reference)
    stops = {name_of(d, i): d.routes.stop for i, d in enumerate((*bad, *reference))}
    for name, note in notes.items():  # up to where the shorter of the two ends
        assert int(note[1]) == min(stops[name], stops[note[2]]) - 1
    same = {r.sample_id: d.sample_id for r, d in zip(reference, loaded(base.dump), strict=True)}
    assert all(owners[same[owner]] for owner in owners.values())


@pytest.mark.parametrize("code", ["R206", "R302"])
def test_filler_is_said_once(code):
    """What the rows alone say is filler is not said again as rows, or a layer, of nobody."""
    base = BASES[3]
    fault = next(fault for fault in FAULTS if fault.code == code)
    bad = spoilt(fault, base, loaded(base.dump), 0.3)
    found = check(bad, loaded(base.reference), options=CheckOptions(by_tokens=False))
    assert code in codes(found)
    assert not {"R705", "R713"} & codes(found)


def test_without_margins_nothing_is_decided():
    """Two steps of training without margins are undecided, with them clear flips: other weights."""
    tiny = "tiny_rl/"
    old, new = loaded(tiny + "routes_v2.fp32.npz"), loaded(tiny + "routes_v0.fp32.npz")
    assert codes(check(old, new)) - {"R004"} == {"R715"}
    assert codes(check(old, loaded(tiny + "routes_v0.margins.parquet"))) - {"R004"} == {"R716"}
    rounded = check(
        loaded(tiny + "vllm.bf16/samples.jsonl"), loaded(tiny + "routes_v0.margins.parquet")
    )
    assert codes(rounded) == {"R712"}


def test_samples_without_a_partner_are_a_warning():
    """Samples that the reference lacks are not passed over."""
    base = BASES[3]
    dump, reference = loaded(base.dump), loaded(base.reference)
    found = check(dump, part_of(reference, range(90)), options=CheckOptions(by_tokens=False))
    assert only(found, "R719").samples == 6


def test_a_shift_is_named_with_its_size():
    """A lag of one position is said in words, with the mismatch that it leaves."""
    base = BASES[3]
    bad = spoilt(fault_named("rows shifted by +1"), base, loaded(base.dump), 0.5)
    found = check(bad, loaded(base.reference))
    shifted = [f for f in found.findings if f.code == "R701"]
    assert {dict(f.facts)["lag"] for f in shifted} == {-1}
    best = found.explanation.estimates[0]
    assert (best.code, best.name) == ("R701", "rows of the token one position later")
    assert best.rate < 0.05 < 0.9 < best.rate_before
    assert 0.95 < found.explanation.explained / found.explanation.mismatched <= 1


def test_ordinals_are_recognised():
    """MoE layers counted from 0 on one side are named; by the right numbers nothing is."""
    base = BASES[0]
    reference = loaded(base.reference)
    layers = tuple(range(len(reference.meta.layers_L)))
    found = check(loaded(base.dump), reference.renumbered(layers))
    assert codes(found, "error") == {"R704"}
    assert only(found, "R704").detail == "the reference's layers 0 to 3 fit in their order"


def test_renumbered_experts_are_restored():
    """The map that is recovered makes the dump what it was, but for experts never taken."""
    base = BASES[3]
    clean, reference = loaded(base.dump), loaded(base.reference)
    bad = spoilt(fault_named("experts renumbered, all layers"), base, clean, 1.0)
    found = check(bad, reference)
    assert codes(found, "error") == {"R706"}
    (one,) = found.explanation.maps
    assert [layer for layer, _ in one.to] == list(clean.meta.layers_L)
    fixed = restored_dump(bad, found.explanation)
    assert diff(fixed, clean).rows_mismatched == 0
    assert codes(check(fixed, reference), "error") == set()


@pytest.mark.parametrize(("added", "name"), [(1, "every id +1"), (31, "every id -1")])
def test_ids_off_by_one_are_restored(added, name):
    """A shift around the end is named, its cause is no load balancer, and it is undone."""
    clean, reference = loaded(BASES[3].dump), loaded(BASES[3].reference)
    bad = changed_ids(clean, lambda index, ids_TLK: (ids_TLK + added) % 32)
    found = check(bad, reference, options=CheckOptions(by_tokens=False))
    one = only(found, "R706")
    assert dict(one.facts) == {"map": name}
    assert "off by the same number" in one.cause
    assert "EPLB" not in one.cause
    assert diff(restored_dump(bad, found.explanation), clean).rows_mismatched == 0


def test_edges_of_shifted_rows_are_no_other_weights():
    """With margins nothing asks for them: edge rows are the shift's, flips elsewhere weights'."""
    newer, reference = (
        loaded(f"tiny_rl/routes_{n}") for n in ("v2.fp32.npz", "v0.margins.parquet")
    )
    options = CheckOptions(by_tokens=False)

    def shifted(count):
        return lambda i, ids_TLK: np.roll(ids_TLK, 1, axis=0) if i < count else ids_TLK

    found = check(changed_ids(reference, shifted(96)), reference, options=options)
    assert codes(found) - {"R004"} == {"R701"}
    found = check(changed_ids(newer, shifted(60)), reference, options=options)
    assert codes(found) - {"R004"} == {"R701", "R716"}
    parts = [part_of(one, range(60, 96)) for one in (newer, reference)]
    assert only(found, "R716").rows == diff(*parts).rows_mismatched


def changed_ids(dump, change):
    """The dump with other ids: ``change`` takes a sample's index and its ids."""
    samples = [
        replace(s, routes=replace(s.routes, ids_TLK=change(i, s.routes.ids_TLK)))
        for i, s in enumerate(dump)
    ]
    return replace_samples(dump, samples)


def test_experts_renumbered_in_part_are_restored_where_they_are():
    """A map that holds for some of a layer's rows is undone in these; where there is none, none."""
    base = BASES[3]
    clean, reference = loaded(base.dump), loaded(base.reference)
    bad = spoilt(fault_named("experts renumbered, one layer"), base, clean, 0.2)
    found = check(bad, reference)
    assert "R706" in codes(found)
    fixed = restored_dump(bad, found.explanation)
    assert diff(fixed, clean).rows_mismatched <= 0.02 * diff(bad, clean).rows_mismatched
    with pytest.raises(MismatchError, match="nothing to fix"):
        restored_dump(clean, check(clean, reference).explanation)


def test_wrong_routes_that_nothing_explains():
    """Rows in place whose sets keep half their experts are wrong from the first such layer on."""
    base = BASES[3]
    clean, reference = loaded(base.dump), loaded(base.reference)
    rng = np.random.default_rng(0)

    def changed(sample):
        ids = sample.routes.ids_TLK.copy()
        for t, row in enumerate(ids):
            for column in range(2, len(row)):
                free = np.setdiff1d(np.arange(32), row[column])
                ids[t, column, :2] = rng.choice(free, 2, replace=False)
        return replace(sample, routes=replace(sample.routes, ids_TLK=ids))

    few = [changed(clean[i]) for i in range(12)]
    bad = replace_samples(part_of(clean, range(12)), few)
    found = check(bad, reference)
    assert "R711" in codes(found)
    assert codes(found, "error") <= {"R711", "R601"}
    first = min(
        int(f.detail.split("layer ")[1].split()[0]) for f in found.findings if f.code == "R711"
    )
    assert first == 2


def replace_samples(dump, samples):
    """The dump with other samples of the same tokens."""
    from routectl.dump import Dump

    return Dump(dump.meta, dump.keys, samples.__getitem__)


def test_other_models_are_refused():
    """A reference with another E or K cannot be a reference; nor can one of other tokens."""
    dump = loaded(BASES[0].dump)
    with pytest.raises(MismatchError, match="different models"):
        check(dump, loaded(BASES[2].dump))
    other = make_sample(make_routes([[[0, 1, 2, 3]] * 4], (1, 2, 3, 4), 32), "x", [1], [2])
    with pytest.raises(MismatchError, match="nothing to compare"):
        check(dump, make_dump([other], (1, 2, 3, 4), 32, 4))


def test_explanations_of_shards_add_up():
    """Rows, mismatched rows and scores of two halves are those of the whole."""
    base = BASES[1]
    bad = spoilt(fault_named("rows shifted by -1"), base, loaded(base.dump), 0.3)
    reference = loaded(base.reference)
    whole = check(bad, reference).explanation
    halves = [check(part_of(bad, part), reference) for part in (range(23), range(23, len(bad)))]
    both = (halves[0] + halves[1]).explanation
    assert (both.rows, both.mismatched) == (whole.rows, whole.mismatched)
    assert {(e.name, e.rows) for e in both.estimates} == {(e.name, e.rows) for e in whole.estimates}
    with pytest.raises(ValueError, match="other layers"):
        _ = both + replace(both, layers=(9,))


def test_opened_fixture_is_what_bench_uses():
    """The bases of the faults are recordings whose every sample has routes."""
    for base in BASES:
        assert all(s.routes is not None for s in opened(base.dump))


def test_rows_between_two_renumbered_runs_are_left_alone():
    """A map that holds in two runs of a sample is undone in these, and not in what is between."""
    base = BASES[3]
    clean, reference = loaded(base.dump), loaded(base.reference)
    to_E = np.random.default_rng(7).permutation(32)

    def spoil(sample):
        ids = sample.routes.ids_TLK.copy()
        for part in (slice(0, 30), slice(70, None)):
            ids[part] = to_E[ids[part]]
        return replace(sample, routes=replace(sample.routes, ids_TLK=ids))

    bad = replace_samples(clean, [spoil(sample) for sample in clean])
    found = check(bad, reference, options=CheckOptions(by_tokens=False))
    assert codes(found, "error") == {"R706"}
    fixed = restored_dump(bad, found.explanation)
    assert diff(fixed, clean).rows_mismatched <= 0.005 * diff(bad, clean).rows_mismatched


def test_few_rows_do_not_say_other_weights():
    """Three of 20 rows of the first layer are 15 %, no more than chance: undecided, no error."""
    rows = [[[i % 6, (i + 1) % 6], [i % 5, 5], [0, 1 + i % 5]] for i in range(20)]
    moved = [[[(i + 3) % 6, (i + 1) % 6], *rows[i][1:]] if i < 3 else rows[i] for i in range(20)]
    dumps = [
        make_dump([make_sample(make_routes([r]), f"s{i}", [i], [1]) for i, r in enumerate(of)])
        for of in (rows, moved)
    ]
    assert set(codes(check(dumps[1], dumps[0]))) == {"R715"}


@pytest.mark.parametrize("count", [8, 40])
def test_front_rows_of_one_id_are_no_map(count):
    """Rows of one id in all slots are R102's: that all experts became that id is not said too."""
    reference = loaded(BASES[0].dump)

    def cut(index):
        sample = reference[index]
        ids_TLK = sample.routes.ids_TLK.copy()
        ids_TLK[:count] = 0
        return replace(sample, routes=replace(sample.routes, ids_TLK=ids_TLK))

    samples = [cut(i) for i in range(len(reference))]
    bad = Dump(reference.meta, reference.keys, samples.__getitem__)
    found = check(bad, reference, options=CheckOptions(by_tokens=False))
    assert codes(found, "error") == {"R102"}
