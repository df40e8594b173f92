"""Every command that reads a dump, of physical ids with their map: as of the logical ids.

The map is one of 40 physical to 32 logical experts in six layers; the oracle of the ids is
support/expert_maps.py.
"""

import json
import re

import numpy as np
import pytest

from routectl.formats import open_dump
from support.building import as_npy
from support.expert_maps import RECORDED, a_map, physical_of, saved, truths
from support.shell import complaint, document, run
from support.tiny_rl import TINY

MAP = a_map(7, layers=6, experts=32, physical=40)
CONFIG = json.loads((TINY / "config.json").read_text("utf-8"))
PROMPT = 17
NOTE = re.compile(r"routectl: (model|logical ids) of ")
ASIDE = ("path", "file_bytes", "provenance", "wire_dtype", "asked", "facts_source", "input")


def lines(path, routes_of, count=6):
    """A JSON lines file of the first sequences of tiny_rl, with the ids that a function makes."""
    documents = [
        {
            "id": f"s{i}",
            "prompt_token_ids": ids[:PROMPT].tolist(),
            "token_ids": ids[PROMPT:49].tolist(),
            "routed_experts": as_npy(np.array(routes_of(routes[:48], i), np.uint8)),
            "weight_versions": [{"version": "v3", "start": 0, "end": 32}],
        }
        for i, (ids, routes) in enumerate(truths(count))
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in documents), "utf-8")
    return path


def flipped(routes, seed):
    """The same routes with one id of some rows another."""
    rng = np.random.default_rng(seed)
    found = routes.copy()
    for row, layer in np.argwhere(rng.random(found.shape[:2]) < 0.1):
        others = np.setdiff1d(np.arange(32), found[row, layer])
        found[row, layer, 0] = rng.choice(others)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Logical and physical dumps of the same, another logical dump, and the map."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    return {
        "logical": lines(folder / "logical.jsonl", lambda ids, _: ids),
        "physical": lines(folder / "physical.jsonl", lambda ids, i: physical_of(ids, MAP, seed=i)),
        "other": lines(folder / "other.jsonl", flipped),
        "map": saved(folder / "map.json", MAP),
        "folder": folder,
    }


def without(value):
    """A document without what names a file, and without how its ids were made."""
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if key not in ASIDE}
    return [without(one) for one in value] if isinstance(value, list) else value


def both(capsys, files, *args, code=0, more=()):
    """The documents of a command of the logical dump, and of the physical one with its map."""
    options = ("--expert-map", files["map"])
    one = [files["logical"] if arg is files else arg for arg in args]
    two = [files["physical"] if arg is files else arg for arg in args]
    old = document(capsys, *one, *more, code=code)
    new = document(capsys, *two, *more, *options, code=code)
    return without(old), without(new)


def test_show(capsys, files):
    """show counts the load of logical experts, and says by which map."""
    old, new = both(capsys, files, "show", files)
    assert old == new
    told = run(capsys, "show", files["physical"], "--expert-map", files["map"])
    assert "map.json (40 physical to 32 logical)" in told.out


def test_check(capsys, files):
    """check finds nothing in mapped ids, as in the logical ones, and much in the physical ones."""
    old, new = both(capsys, files, "check", files)
    assert old == new
    told = run(capsys, "check", files["physical"])
    assert told.code == 1
    assert "R101" in told.out
    assert "--expert-map FILE" in told.out


def test_diff_of_one_side_alone(capsys, files):
    """PATH::expert_map=FILE maps one side: a diff with the other counts as of logical ids."""
    other = files["other"]
    old = document(capsys, "diff", files["logical"], other, code=1)
    side = f"{files['physical']}::expert_map={files['map']}"
    assert without(old) == without(document(capsys, "diff", side, other, code=1))
    assert old["rows_mismatched"] > 0


def test_diff_of_both_sides(capsys, files):
    """--expert-map maps both sides of a diff: copies of an expert are the same."""
    options = ("--expert-map", files["map"], "--json")
    other = lines(files["folder"] / "again.jsonl", lambda ids, i: physical_of(ids, MAP, 90 + i))
    told = run(capsys, "diff", files["physical"], other, *options)
    assert told.code == 0, told.err
    assert told.err.count("logical ids of") == 2


def test_staleness(capsys, files):
    """staleness of a physical dump against a logical later one is that of the logical dump."""
    at = ("--at", f"v3={files['logical']}", "--at", f"v4={files['other']}")
    old = document(capsys, "staleness", files["logical"], *at)
    side = f"{files['physical']}::expert_map={files['map']}"
    assert without(old) == without(document(capsys, "staleness", side, *at))


def test_convert_records_the_map(capsys, files, tmp_path):
    """A native file has the logical ids and says that they were mapped; it is not mapped again."""
    made = tmp_path / "a.parquet"
    options = ("--expert-map", files["map"])
    assert run(capsys, "convert", files["physical"], "--save", made, *options).code == 0
    dump, logical = open_dump(made), open_dump(files["logical"])
    assert dump.meta.id_space == "logical"
    assert "map.json (40 physical to 32 logical)" in dump.meta.provenance["expert_map"]
    for mine, true in zip(dump, logical, strict=True):
        assert np.array_equal(mine.routes.ids_TLK, true.routes.ids_TLK)
    error = complaint(capsys, "show", made, *options)
    assert "mapped already" in error


def test_targets_and_pack(capsys, files, tmp_path):
    """What trainers read has logical ids: the bytes are those of the logical dump."""
    for name, side in (("old", files["logical"]), ("new", files["physical"])):
        options = () if name == "old" else ("--expert-map", files["map"])
        folder = tmp_path / name
        folder.mkdir()
        done = run(capsys, "convert", side, "--save", folder / "a.pt", "--to", "slime", *options)
        assert done.code == 0, done.err
        told = run(capsys, "pack", side, "--save", folder / "packed", *options)
        assert told.code == 0, told.err
    old, new = (open_dump(tmp_path / name / "a.pt", model=TINY) for name in ("old", "new"))
    for mine, true in zip(new, old, strict=True):
        assert np.array_equal(mine.routes.ids_TLK, true.routes.ids_TLK)
    old, new = (
        [path.read_bytes() for path in sorted((tmp_path / name / "packed").rglob("*.safetensors"))]
        for name in ("old", "new")
    )
    assert old == new
    assert old


def test_a_map_by_step(capsys, files, tmp_path):
    """A map a step is that of the weight versions' numbers."""
    steps = [
        {"step": 0, "physical_to_logical_map": a_map(8, 6, 32, 40)},
        {"step": 3, "physical_to_logical_map": MAP},
    ]
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({"maps": steps}), "utf-8")
    told = document(capsys, "show", files["physical"], "--expert-map", path)
    assert without(told) == without(document(capsys, "show", files["logical"]))


@pytest.mark.parametrize(
    ("map_", "told"),
    [
        ([row[:39] for row in a_map(7, 6, 32, 39)], "expected 0..38"),
        (MAP[:5], "a map of 5 layers"),
        ([[0] * 40] * 6, "is logical expert 1"),
    ],
)
def test_maps_that_do_not_fit(capsys, files, tmp_path, map_, told):
    """A map too short, of other layers, or without some expert is refused, exit 2."""
    path = saved(tmp_path / "map.json", map_)
    for command in (("show",), ("check",)):
        done = run(capsys, *command, files["physical"], "--expert-map", path)
        (error,) = (line for line in done.err.splitlines() if not NOTE.match(line))
        assert (done.code, done.out) == (2, "")
        assert told in error


def test_a_recorders_dump_on_the_command_line(capsys):
    """A per_token dump is compared with transformers' routes: no row differs."""
    truth = TINY / "routes_v0.fp32.npz"
    dump = RECORDED / "per_token.pt"
    limits = ("--match", "prefix", "--allow-unmatched")
    found = document(capsys, "diff", dump, truth, *limits)
    assert found["rows"] == 402
    assert found["rows_mismatched"] == 0
    again = (RECORDED / "per_token.rebalanced.pt", truth, *limits)
    assert document(capsys, "diff", *again, code=1)["rows_mismatched"] > 100
    maps = f"{again[0]}::expert_map={RECORDED / 'maps.json'}"
    assert document(capsys, "diff", maps, *again[1:])["rows_mismatched"] == 0


def test_a_check_of_a_config(capsys, files):
    """routectl ci takes expert-map as a key, beside the config as the paths of dumps are."""
    config = files["folder"] / "routectl-ci.toml"
    config.write_text(
        '[checks.engine]\nverb = "check"\ndump = "physical.jsonl"\nexpert-map = "map.json"\n'
        '[checks.load]\nverb = "diff"\nold = "physical.jsonl::expert_map=map.json"\n'
        'new = "logical.jsonl"\n',
        "utf-8",
    )
    told = run(capsys, "ci", config, "--json")
    assert told.code == 0, told.err + told.out


def test_watch(capsys, files, tmp_path):
    """watch checks each dump with its map: one line, CLEAN."""
    (tmp_path / "step_1.jsonl").write_bytes(files["physical"].read_bytes())
    options = ("--model", TINY, "--once", "--expert-map", files["map"])
    told = run(capsys, "watch", tmp_path, *options)
    assert told.code == 0, told.out
    assert "CLEAN" in told.out
    assert "FAULTY" in run(capsys, "watch", tmp_path, "--model", TINY, "--once").out
