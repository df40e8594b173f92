"""What check says of a dump with no reference but its own tokens."""

from dataclasses import replace

import numpy as np
import pytest

from routectl.dump import Dump
from routectl.ops.check.check import CheckOptions, check
from routectl.ops.pairs.align import name_of
from support.checks import codes, loaded, only
from support.faults import BASES, FAULTS, spoilt, with_ids
from support.more_faults import MORE_FAULTS

TRAINED = BASES[3]
FOUND = {  # fault: the code that the tokens alone give it
    "late by 2 from the first row": "R701",
    "late by 7": "R707",
    "late by 20": "R707",
    "hole of 12": "R405",
    "nine rows put in": "R406",
    "branches swapped": "R710",
}


def fault_of(name):
    """The fault of a name."""
    return next(fault for fault in (*MORE_FAULTS, *FAULTS) if fault.name == name)


@pytest.mark.parametrize("base", BASES, ids=lambda b: b.name)
def test_clean_recordings(base):
    """Clean recordings of both engines, of random and trained weights, have nothing wrong."""
    found = check(loaded(base.dump))
    assert codes(found) == set()
    assert found.power.enough
    assert all(bits > 0 for bits in found.power.lift_L)


@pytest.mark.parametrize("name", ["late by 7", "late by 20", "branches swapped"])
def test_rows_of_other_tokens(name):
    """Rows that are late, or another sample's, are named with no reference, in those samples."""
    bad = spoilt(fault_of(name), TRAINED, loaded(TRAINED.dump), 0.05)
    found = check(bad)
    assert FOUND[name] in codes(found, "error")
    assert codes(found, "error") <= {FOUND[name], "R402", "R701", "R601"}


def test_a_finding_of_many_layers_counts_a_sample_once():
    """Ids that are one more in every eighth sample are named so, in as many samples."""
    clean = loaded(TRAINED.dump)

    def one(index):
        routes = clean[index].routes
        ids_TLK = (routes.ids_TLK + (index % 8 == 0)) % 32
        return replace(clean[index], routes=replace(routes, ids_TLK=ids_TLK.astype(np.uint8)))

    found = check(Dump(clean.meta, clean.keys, one))
    named = only(found, "R706")
    assert (named.samples, named.layers) == (12, clean.meta.layers_L)
    assert dict(named.facts)["map"] == "every id +1"
    assert len({p.sample for p in named.places}) == 5


def test_late_by_one_from_a_position_on():
    """Rows late by one, their number being right, were called clean; the lag is told."""
    bad = spoilt(fault_of("rows shifted by -1"), TRAINED, loaded(TRAINED.dump), 0.3)
    found = [f for f in check(bad).findings if f.kind.severity == "error" and f.code != "R601"]
    assert {f.code for f in found} <= {"R701", "R402"}
    assert 1 in {dict(f.facts).get("lag") for f in found}


def spoil_rows(chosen, change, **more):
    """The trained recording, the rows of some samples changed; what is known of them, too."""
    dump = loaded(TRAINED.dump)
    samples = [dump[i] for i in range(len(dump))]
    for index in chosen:
        made = with_ids(samples[index], change(samples[index].routes.ids_TLK), **more)
        samples[index] = replace(made, start_inferred="start" in more)
    return Dump(dump.meta, dump.keys, samples.__getitem__)


def test_all_rows_of_a_shift_are_counted():
    """The last two thirds of ten samples late by a row: all rows of that part, in each layer."""
    chosen, late = range(0, 90, 9), 0

    def shifted(ids_TLK):
        nonlocal late
        first = len(ids_TLK) // 3 + 1
        late += ids_TLK[first:, :, 0].size
        return np.concatenate([ids_TLK[:first], ids_TLK[first - 1 : -1]])

    found = only(check(spoil_rows(chosen, shifted)), "R701")
    assert dict(found.facts)["lag"] == 1
    assert (found.samples, late) == (10, 6552)
    assert abs(found.rows - late) <= 6 * 10  # a row a sample, where its token came before


@pytest.mark.parametrize("reference", [None, TRAINED.reference], ids=["alone", "against"])
@pytest.mark.parametrize("size", [2, 9])
def test_rows_that_were_cut_off(size, reference):
    """Where nobody said the start, rows that lack the last ones are counted back from the tokens'
    end: neither shifted nor padded, they begin at 0 and end before the tokens do.
    """
    bad = spoil_rows([5], lambda ids_TLK: ids_TLK[:-size], start=size)
    found = check(bad, None if reference is None else loaded(reference))
    assert codes(found, "error") == {"R003"}  # which says why the start is none of a rule's
    short = only(found, "R003")
    assert (short.samples, short.rows) == (1, 6 * size)
    assert short.places[0].position == loaded(TRAINED.dump)[5].routes.stop - size
    assert short.places[0].note == f"the last {size} tokens"


HOLES = [  # index of a sample: first row and size of each hole
    {62: [(150, 20)], 75: [(80, 13)], 88: [(100, 5)], 89: [(100, 1)]},
    {90: [(60, 7), (150, 6)]},
]


@pytest.mark.parametrize("holes", HOLES, ids=["one", "two"])
@pytest.mark.parametrize("reference", [None, TRAINED.reference], ids=["alone", "against"])
@pytest.mark.parametrize("said", [True, False], ids=["said", "unsaid"])
def test_holes_are_told_whether_the_start_is_said(holes, said, reference):
    """Rows that are lost in between are a hole at its place, of its size, and nothing else.

    Where nobody said the start, the last rows are in place by their number, the first ones late.
    """
    clean = loaded(TRAINED.dump)
    names, expected = {}, set()
    samples = [clean[i] for i in range(len(clean))]
    for index, of_sample in holes.items():
        lost = np.concatenate([np.arange(first, first + size) for first, size in of_sample])
        ids_TLK = np.delete(samples[index].routes.ids_TLK, lost, axis=0)
        made = with_ids(samples[index], ids_TLK, start=0 if said else len(lost))
        samples[index] = replace(made, start_inferred=not said)
        names[name_of(made, index)] = index
        before = 0  # rows that are lost are not counted at the next hole
        for first, size in of_sample:
            expected.add((index, first - before, size))
            before += size
    bad = Dump(clean.meta, clean.keys, samples.__getitem__)
    found = check(bad, None if reference is None else loaded(reference))
    assert codes(found, "error") == {"R405", "R003" if said else "R013"}
    told = [f for f in found.findings if f.code == "R405"]
    assert expected == {
        (names[p.sample], p.position, dict(f.facts)["size"]) for f in told for p in f.places
    }


@pytest.mark.parametrize("size", [2, 9])
def test_first_rows_that_were_cut_off(size):
    """Rows that lack the first ones stand early and end too soon: it is the front that is cut."""
    bad = spoil_rows([5], lambda ids_TLK: ids_TLK[size:])
    found = check(bad, loaded(TRAINED.reference))
    assert codes(found, "error") == {"R003"}
    (place,) = only(found, "R003").places
    assert (place.position, place.note) == (0, f"the first {size} tokens")
    assert only(found, "R003").rows == 6 * size


def test_a_hole_is_told_with_its_size():
    """Rows of twelve tokens that are gone in the middle are named as so many."""
    bad = spoilt(fault_of("hole of 12"), TRAINED, loaded(TRAINED.dump), 0.1)
    holes = [f for f in check(bad).findings if f.code == "R405"]
    assert {dict(f.facts)["size"] for f in holes} == {12}


def test_both_witnesses_are_heard():
    """What a reference explains is not said twice; a reference with the same fault is found out."""
    fault = fault_of("late by 7")
    bad = spoilt(fault, TRAINED, loaded(TRAINED.dump), 0.05)
    named = [f for f in check(bad, loaded(TRAINED.reference)).findings if f.code == "R707"]
    assert [dict(f.facts) for f in named] == [{"lag": 7}]
    agreeing = check(bad, bad)
    assert agreeing.explanation.mismatched == 0
    assert "R720" in codes(agreeing, "warning")


def test_too_few_tokens_to_tell():
    """Where nothing can be told, that is said, and nothing is found."""
    from support.dumps import part_of

    found = check(part_of(loaded(TRAINED.dump), range(2)))
    assert not found.power.enough
    assert found.power.reason.startswith("too few tokens")
    assert codes(found) == set()


def test_tokens_are_not_asked():
    """Without by_tokens the dump is read once and nothing is said of its tokens."""
    assert check(loaded(TRAINED.dump), options=CheckOptions(by_tokens=False)).power is None
