"""Tensors of one rank in another's place: verify says whose rows they are."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl.ops.pack.moves import Move, moves_of
from support.packs import as_settings
from support.shell import DUMPS, document, run

DUMP = DUMPS["jsonl"]
OPTIONS = (
    *("--framework", "slime", "--dp", 2, "--cp", 2, "--tp", 2, "--pp", 2),
    *("--layout", "decoder-layers=6", "--max-tokens-per-gpu", 512),
)
ROUTES = 22_444
STAGES = ((1, 2), (3, 4))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder of 2 x 2 x 2 x 2 ranks with three micro-batches of unlike sizes each."""
    from routectl.cli.main import main

    folder = tmp_path_factory.mktemp("packed") / "r"
    assert main([str(arg) for arg in ("pack", DUMP, "--save", folder, *OPTIONS)]) == 0
    return folder


def place_of(name):
    """(dp, cp, tp, pp, mb) of a file's name."""
    rank, mb = name.split("/")
    return (*(int(part[2:]) for part in rank.split("-")), int(mb[2:6]))


def name_of(place):
    """The file's name of (dp, cp, tp, pp, mb)."""
    dp, cp, tp, pp, mb = place
    return f"dp{dp}-cp{cp}-tp{tp}-pp{pp}/mb{mb:04d}.safetensors"


def moved(packed, folder, whose):
    """A copy in which each place holds the file of the place that ``whose`` gives for it."""
    shutil.copytree(packed, folder)
    for path in sorted(packed.rglob("*.safetensors")):
        name = str(path.relative_to(packed))
        shutil.copyfile(packed / name_of(whose(*place_of(name))), folder / name)
    return folder


AXES = {
    "dp": (lambda dp, cp, tp, pp, mb: (1 - dp, cp, tp, pp, mb), 24),
    "cp": (lambda dp, cp, tp, pp, mb: (dp, 1 - cp, tp, pp, mb), 24),
    "tp": (lambda dp, cp, tp, pp, mb: (dp, cp, 1 - tp, pp, mb), 24),
}


@pytest.mark.parametrize("axis", AXES)
def test_two_ranks_swapped(capsys, packed, tmp_path, axis):
    """Ranks that hold each other's rows are named both ways, and each route is there once."""
    whose, most = AXES[axis]
    folder = moved(packed, tmp_path / "r", whose)
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    named = [(one["place"], one["holds"]) for one in found["moves"]]
    assert named == [({axis: 0}, {axis: 1}), ({axis: 1}, {axis: 0})]
    assert all(most - 4 <= one["files"] <= most for one in found["moves"])
    assert (found["routes"], found["routes_absent"], found["routes_repeated"]) == (ROUTES, 0, 0)
    assert found["rows_wrong"] > 0.9 * found["rows"]
    text = run(capsys, "verify", folder, "--against", DUMP).out
    assert text.startswith("WRONG  ")
    assert "\nonce      22,444 routes: 0 on no rank, 0 more than once\n" in text
    for own, other in ((0, 1), (1, 0)):
        assert f"\nholds     rank {axis}{own} holds {axis}{other}'s rows (" in text
    assert "no layout that is known" not in text


def test_two_axes_at_once(capsys, packed, tmp_path):
    """Where DP and CP ranks are exchanged together, both are named together."""
    folder = moved(packed, tmp_path / "r", lambda dp, cp, tp, pp, mb: (cp, dp, tp, pp, mb))
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    named = [(one["place"], one["holds"]) for one in found["moves"]]
    assert named == [
        ({"dp": 0, "cp": 1}, {"dp": 1, "cp": 0}),
        ({"dp": 1, "cp": 0}, {"dp": 0, "cp": 1}),
    ]
    text = run(capsys, "verify", folder, "--against", DUMP).out
    assert "holds     rank dp0-cp1 holds dp1-cp0's rows (" in text


@pytest.mark.parametrize(
    ("whose", "lines"),
    [
        (lambda mb: max(mb - 1, 0), ["micro-batch i holds i-1's rows: i = 1, 2 (32 files)"]),
        (
            lambda mb: (mb - 1) % 3,
            [
                "micro-batch i holds i-1's rows: i = 1, 2 (32 files)",
                "micro-batch 0 holds 2's rows (16 files)",
            ],
        ),
        (
            lambda mb: (mb + 1) % 3,
            [
                "micro-batch i holds i+1's rows: i = 0, 1 (32 files)",
                "micro-batch 2 holds 0's rows (16 files)",
            ],
        ),
    ],
    ids=["late", "late and round", "early"],
)
def test_a_queue_that_is_off_by_one(capsys, packed, tmp_path, whose, lines):
    """Micro-batches one behind or ahead are named, though their row counts differ."""
    folder = moved(packed, tmp_path / "r", lambda dp, cp, tp, pp, mb: (dp, cp, tp, pp, whose(mb)))
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    assert found["misfits"]
    expected = {mb: whose(mb) for mb in range(3) if whose(mb) != mb}
    assert {one["place"]["mb"]: one["holds"]["mb"] for one in found["moves"]} == expected
    lost = len(set(range(3))) - len({whose(mb) for mb in range(3)})
    assert (found["routes_absent"] > 0, found["routes_repeated"] > 0) == (lost > 0, lost > 0)
    text = run(capsys, "verify", folder, "--against", DUMP).out
    assert [line[10:] for line in text.splitlines() if line.startswith("holds ")] == lines


def test_a_rank_that_holds_anothers_rows_twice(capsys, packed, tmp_path):
    """Where two ranks hold the rows of one, those of the other are on no rank."""
    folder = moved(packed, tmp_path / "r", lambda dp, cp, tp, pp, mb: (0, cp, tp, pp, mb))
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    assert [(one["place"], one["holds"]) for one in found["moves"]] == [({"dp": 1}, {"dp": 0})]
    assert found["routes_absent"] > 0
    assert found["routes_repeated"] > 0


def relabelled(folder):
    """Each file's arrays named as those of its stage: rows of a stage under another's layers."""
    for path in folder.rglob("*.safetensors"):
        arrays = load_file(path)
        own = STAGES[place_of(str(path.relative_to(folder)))[3]]
        held = sorted(key for key in arrays if key.startswith("layer."))
        named = {f"layer.{n}": arrays.pop(key) for n, key in zip(own, held, strict=True)}
        save_file(arrays | named, path)


@pytest.mark.parametrize("named", [True, False], ids=["by their arrays", "by their rows"])
@pytest.mark.parametrize(
    ("whose", "places"),
    [
        (lambda dp, cp, tp, pp, mb: (dp, cp, tp, 1 - pp, mb), [{"pp": 0}, {"pp": 1}]),
        (lambda dp, cp, tp, pp, mb: (dp, cp, tp, 1, mb), [{"pp": 0}]),
    ],
    ids=["exchanged", "twice"],
)
def test_stages_swapped(capsys, packed, tmp_path, whose, places, named):
    """Files that hold another stage's layers are named, by the layers of their arrays or rows."""
    folder = moved(packed, tmp_path / "r", whose)
    if not named:
        relabelled(folder)
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    assert [one["place"] for one in found["moves"]] == places
    assert [one["holds"] for one in found["moves"]] == [{"pp": 1 - p["pp"]} for p in places]
    assert bool(found["misfits"]) == named
    assert (found["routes_absent"] > 0) == (len(places) == 1 or not named)
    text = run(capsys, "verify", folder, "--against", DUMP).out
    for place in places:
        assert f"\nholds     rank pp{place['pp']} holds pp{1 - place['pp']}'s rows (24 file" in text
    assert "\nmatches" not in text


def test_a_stage_and_a_rank_at_once(capsys, packed, tmp_path):
    """Files of another stage and of another rank there are named by both."""
    folder = moved(packed, tmp_path / "r", lambda dp, cp, tp, pp, mb: (dp, 1 - cp, tp, 1 - pp, mb))
    found = document(capsys, "verify", folder, "--against", DUMP, code=1)
    named = [(one["place"], one["holds"]) for one in found["moves"]]
    whole = [({"cp": c, "pp": p}, {"cp": 1 - c, "pp": 1 - p}) for c in (0, 1) for p in (0, 1)]
    assert named == whole


def test_layers_within_a_stage_are_no_stage(capsys, packed, tmp_path):
    """Two layers of one stage exchanged are told of as layers, and no rank is named."""
    shutil.copytree(packed, tmp_path / "r")
    for path in (tmp_path / "r").rglob("*pp0/*.safetensors"):
        arrays = load_file(path)
        one, two = (f"layer.{n}" for n in STAGES[0])
        arrays[one], arrays[two] = arrays[two], arrays[one]
        save_file(arrays, path)
    found = document(capsys, "verify", tmp_path / "r", "--against", DUMP, code=1)
    assert found["moves"] == []
    assert {(e["layer"], e["holds"]) for e in found["wrong"]} == {STAGES[0], STAGES[0][::-1]}


@pytest.fixture(scope="module")
def exchanged(packed, tmp_path_factory):
    """A copy in which two layers of a stage stand in each other's place, in some files alone."""
    folder = tmp_path_factory.mktemp("exchanged") / "r"
    shutil.copytree(packed, folder)
    for path in folder.rglob("dp1-*pp1/*.safetensors"):
        arrays = load_file(path)
        one, two = (f"layer.{n}" for n in STAGES[1])
        arrays[one], arrays[two] = arrays[two], arrays[one]
        save_file(arrays, path)
    return folder


@pytest.mark.parametrize("count", [1, 3, 7])
def test_layers_that_are_told_by_parts(capsys, exchanged, tmp_path, count):
    """Parts of any cut, merged in any order, say whose routes layers hold as one run does, to the
    byte.
    """
    asked = ("verify", exchanged, "--against", DUMP)
    parts = [tmp_path / f"part{n}" for n in range(count)]
    for n, path in enumerate(parts, 1):
        done = run(capsys, *asked, "--shard", f"{n}/{count}", "--partial", path)
        assert done.code == 0, done.err
    whole = run(capsys, *asked, "--json")
    for order in (parts, parts[1::2] + parts[::2]):
        assert run(capsys, "merge", *order, "--json").out == whole.out
    wrong = json.loads(whole.out)["wrong"]
    assert {(e["layer"], e["holds"]) for e in wrong} == {STAGES[1], STAGES[1][::-1]}


def test_one_stage_alone(capsys, packed, tmp_path):
    """Of the stage that is asked for, ranks are named by its own tensors."""
    folder = moved(
        packed, tmp_path / "r", lambda dp, cp, tp, pp, mb: (dp ^ (pp == 1), cp, tp, pp, mb)
    )
    verify = ("verify", folder, "--against", DUMP, "--rank")
    assert document(capsys, *verify, "pp=0")["moves"] == []
    found = document(capsys, *verify, "pp=1", code=1)
    assert [one["place"] for one in found["moves"]] == [{"dp": 0}, {"dp": 1}]


def test_damage_is_nobodys(capsys, packed, tmp_path):
    """Rows that are nobody's are not called another rank's."""
    shutil.copytree(packed, tmp_path / "r")
    name = tmp_path / "r" / name_of((0, 0, 0, 0, 0))
    arrays = {key: array.copy() for key, array in load_file(name).items()}
    for key in arrays:
        if "layer" in key:
            arrays[key] = np.ascontiguousarray((arrays[key] + 1) % 32)
    save_file(arrays, name)
    found = document(capsys, "verify", tmp_path / "r", "--against", DUMP, code=1)
    assert found["moves"] == []
    assert found["suspects_of"]["micro_batch"] == 0


def test_tensors_without_a_manifest(capsys, packed, tmp_path):
    """A trainer's own files, without mask and manifest, are looked through as well."""
    folder = moved(packed, tmp_path / "r", AXES["cp"][0])
    (folder / "manifest.json").unlink()
    (folder / "samples.parquet").unlink()
    for path in folder.rglob("*.safetensors"):
        arrays = load_file(path)
        save_file({key: array for key, array in arrays.items() if "layer" in key}, path)
    args = ("verify", folder, "--against", DUMP, *as_settings(*OPTIONS))
    found = document(capsys, *args, code=1)
    assert [one["place"] for one in found["moves"]] == [{"cp": 0}, {"cp": 1}]
    assert (found["routes_absent"], found["routes_repeated"]) == (0, 0)


def test_moves_of():
    """Files of the same two places are one move, by the axes in which they differ."""
    owners = [((m, d, c, 0, 1), (m, 1 - d, c, 0, 1)) for m, d, c in product(range(2), repeat=3)]
    owners += [((1, 0, 0, 0, 0), (0, 0, 0, 1, 0)), ((0, 0, 0, 0, 1), (0, 0, 0, 0, 0))]
    assert moves_of(owners) == (
        Move((("dp", 0, 1),), 4),
        Move((("dp", 1, 0),), 4),
        Move((("mb", 1, 0), ("tp", 0, 1)), 1),
        Move((("pp", 1, 0),), 1),
    )
    assert json.dumps([move.files for move in moves_of([])]) == "[]"
