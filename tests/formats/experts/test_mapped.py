"""Dumps of physical ids, read as logical ones, against a slow oracle.

Shape suffixes: T rows, L layers, K top_k, P physical experts.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.damage import DamagedSampleError, Fault
from routectl.dump import WeightSpan
from routectl.errors import FormatError, MismatchError
from routectl.formats import open_dump
from routectl.formats.documents.facts import Physical
from routectl.formats.experts.mapped import mapped
from routectl.formats.experts.maps import expert_map_of
from routectl.model import ModelFacts
from support.building import check_line, record, some_ids, write_lines
from support.dumps import make_dump, make_routes, make_sample
from support.expert_maps import a_map, logical_of, physical_of, saved, some_map

LAYERS = (0, 1, 2)
FACTS = ModelFacts(3, LAYERS, 8, 2, None)
MAP = a_map(5, layers=3, experts=8, physical=11)
LOGICAL = some_ids(9)  # of 8 experts


def dump_of(ids_TLK, experts, missing=(), **more):
    """A dump of one sample with so many experts."""
    routes = make_routes(ids_TLK, LAYERS, experts, missing=missing)
    return make_dump([make_sample(routes, "a", **more)], LAYERS, experts, 2)


@st.composite
def cases(draw):
    """A map, physical rows of logical ones, and the places of those that are missing."""
    map_ = draw(some_map(3, 8))
    seed = draw(st.integers(0, 1 << 30))
    ids = physical_of(some_ids(draw(st.integers(1, 9)), seed=seed), map_, seed)
    lost = np.random.default_rng(seed).random((len(ids), 3)) < 0.2
    missing = [tuple(at) for at in np.argwhere(lost).tolist()]
    return map_, ids, draw(st.sampled_from(([], missing)))


@given(cases())
def test_ids_are_those_of_the_oracle(case):
    """Each id of a row that is there is what the map says; missing rows stay missing, of id 0."""
    map_, ids, missing = case
    found = mapped(dump_of(ids, len(map_[0]), missing), expert_map_of(map_, "m"))
    routes = found[0].routes
    expected = np.array(logical_of(ids, map_))
    for place in missing:
        expected[place] = 0
    assert np.array_equal(routes.ids_TLK, expected)
    assert routes.num_experts == found.meta.num_experts == 8
    gone = [] if routes.missing_TL is None else np.argwhere(routes.missing_TL).tolist()
    assert gone == [list(at) for at in missing]


@given(cases())
def test_some_layers_are_mapped_by_their_own_maps(case):
    """A dump narrowed to layers 0 and 2 has them as the whole one does."""
    map_, ids, _ = case
    found = mapped(dump_of(ids, len(map_[0])), expert_map_of(map_, "m")).select(layers=[0, 2])
    assert found.meta.layers_L == (0, 2)
    assert np.array_equal(found[0].routes.ids_TLK, np.array(logical_of(ids, map_))[:, [0, 2]])


def write_physical(folder, map_=MAP, **more):
    """A JSON lines file of the physical ids of LOGICAL, beside a config of 8 experts."""
    return write_lines(folder / "physical.jsonl", [record(physical_of(LOGICAL, map_), **more)])


def test_files_are_read_with_a_map(tmp_path):
    """A file whose ids go beyond the model's experts opens with the map, and says which."""
    dump = write_physical(tmp_path)
    with pytest.raises(DamagedSampleError) as error:
        open_dump(dump, model=FACTS)[0]
    assert "--expert-map FILE" in error.value.hint
    file = saved(tmp_path / "map.json", MAP)
    found = open_dump(dump, model=Physical(FACTS, file))
    assert np.array_equal(found[0].routes.ids_TLK, LOGICAL)
    assert found.meta.provenance == {"expert_map": f"{file} (11 physical to 8 logical)"}


def test_ids_beyond_the_map_are_refused(tmp_path):
    """An id that no physical expert has is refused in one line, when its sample is read."""
    ids = np.array(physical_of(LOGICAL, MAP))
    ids[4, 1, 0] = 11
    dump = write_lines(tmp_path / "a.jsonl", [record(ids)])
    found = open_dump(dump, model=Physical(FACTS, saved(tmp_path / "map.json", MAP)))
    with pytest.raises(MismatchError, match=r"got id 11, expected 0\.\.10") as error:
        found[0]
    check_line(error.value, dump)


def test_a_sample_of_wrong_rows_has_logical_ids_too(tmp_path):
    """What is read of a sample that has too few rows is mapped, for whoever says what is wrong."""
    cut = record(physical_of(LOGICAL, MAP)[:6])
    cut["token_ids"] = [*cut["token_ids"], 1, 2, 3]
    dump = write_lines(tmp_path / "a.jsonl", [cut], config={})
    found = open_dump(dump, model=Physical(FACTS, saved(tmp_path / "map.json", MAP)), start=0)
    with pytest.raises(DamagedSampleError) as error:
        found[0]
    assert np.array_equal(error.value.ids_TWK, LOGICAL[:6])


def test_maps_by_the_numbers_of_weight_versions():
    """The row that made an output token has the map of its version; prompt rows the first's."""
    steps = {"v3": MAP, "v4": a_map(6, 3, 8, 11)}
    prompt, spans = 3, (WeightSpan("v3", 0, 4), WeightSpan("v4", 4, 7))
    ids = physical_of(LOGICAL[:6], MAP) + physical_of(LOGICAL[6:], steps["v4"])  # P - 1 + 4 = 6
    dump = dump_of(ids, 11, prompt=range(prompt), response=range(7), weight_spans=spans)
    found = mapped(dump, expert_map_of(list(steps.values()), "m", [3, 4]))
    assert np.array_equal(found[0].routes.ids_TLK, LOGICAL)


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({}, "does not say the weight versions"),
        ({"weight_spans": (WeightSpan("default", 0, 7),)}, "of version 'default'"),
        ({"weight_spans": (WeightSpan("v1", 0, 7),)}, "no map of step 1"),
    ],
)
def test_rows_of_no_known_step_are_refused(about, told):
    """With a map a step, a sample without versions, or of others, is refused."""
    dump = dump_of(physical_of(LOGICAL, MAP), 11, prompt=range(3), response=range(7), **about)
    found = mapped(dump, expert_map_of([MAP, MAP], "m", [3, 4]))
    with pytest.raises(MismatchError, match=told):
        found[0]


def test_a_dump_is_mapped_once(tmp_path):
    """One whose ids were mapped or recomputed is refused, and one of another number of experts."""
    experts = expert_map_of(MAP, "m")
    recomputed = dump_of(LOGICAL.tolist(), 8)
    recomputed.meta = replace(recomputed.meta, provenance={"mode": "free"})
    with pytest.raises(MismatchError, match="logical: recomputed, mode free"):
        mapped(recomputed, experts)
    once = mapped(dump_of(physical_of(LOGICAL, MAP), 11), experts)
    with pytest.raises(MismatchError, match="mapped already, by m"):
        mapped(once, experts)
    with pytest.raises(MismatchError, match="has ids of 9"):
        mapped(dump_of(LOGICAL.tolist(), 9), experts)


@given(st.integers(0, 1 << 30), st.integers(1, 2))
def test_two_copies_of_one_expert_are_refused(seed, steps):
    """The first row whose two ids are copies of one expert is told, of one map and of several;
    fillers 0, 1 and rows that are missing are none.
    """
    maps = [a_map(seed + i, 3, 8, 11) for i in range(steps)]
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 11, (6, 3, 2)).tolist()
    missing = [(0, 0)]
    spans = (WeightSpan("v0", 0, 2), WeightSpan("v1", 2, 4))
    about = {"prompt": range(3), "response": range(4), "weight_spans": spans}
    step_of = [0, 0, 0, 0, steps - 1, steps - 1]  # rows 0 to 3 made the first two tokens

    def copies(row, layer):
        first, second = ids[row][layer]
        map_P = maps[step_of[row]][layer]
        there = (row, layer) not in missing and [first, second] != [0, 1]
        return there and first != second and map_P[first] == map_P[second]

    bad = [(t, n) for t in range(6) for n in range(3) if copies(t, n)]
    experts = expert_map_of(maps if steps > 1 else maps[0], "m")
    found = mapped(dump_of(ids, 11, missing, **about), experts)
    if not bad:
        assert found[0].routes.num_experts == 8
        return
    row, layer = bad[0]
    with pytest.raises(DamagedSampleError, match=rf"row {row} .*, layer {layer}: got") as error:
        found[0]
    assert error.value.ids_TWK[0, 0].tolist() == [-1, -1]
    check_line(error.value, "memory: sample a: row")


def test_faults_under_maps_by_step_are_told_without_rows():
    """Of a damaged sample and several maps no ids are given: their steps are not known."""
    experts = expert_map_of([MAP, MAP], "m", [3, 4])
    dump = dump_of(physical_of(LOGICAL, MAP), 11)

    def broken(_):
        raise DamagedSampleError("a", [Fault("rows", "wrong")], dump[0], LOGICAL, 0)

    other = make_dump([dump[0]], LAYERS, 11, 2)
    other._load = broken
    with pytest.raises(FormatError) as error:
        mapped(other, experts)[0]
    assert not isinstance(error.value, DamagedSampleError)
