"""Every command that reads a dump, of physical ids with their map: as of the logical ids.

The map is one of 40 physical to 32 logical experts in six layers; the oracle of the ids is
support/expert_maps.py.
"""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from routectl.formats import open_dump
from support.building import as_npy
from support.capturing import FAST, captured, prompts_file
from support.engine_server import EngineServer, reply
from support.expert_maps import RECORDED, a_map, physical_of, saved, truths
from support.recordings import FIXTURES
from support.shell import complaint, document, run
from support.tiny_rl import TINY

MAP = a_map(7, layers=6, experts=32, physical=40)
CONFIG = json.loads((TINY / "config.json").read_text("utf-8"))
PROMPT = 17
_NAMES = re.compile(r"\b(DUMP|OTHER|OUT|v0)\b")
NOTE = re.compile(r"routectl: (model|logical ids) of ")
ASIDE = ("file_bytes", "bytes", "provenance", "asked")


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
    experts = saved(folder / "map.json", MAP)
    physical = lines(folder / "physical.jsonl", lambda ids, i: physical_of(ids, MAP, seed=i))
    return {
        "logical": lines(folder / "logical.jsonl", lambda ids, _: ids),
        "physical": physical,
        "mapped": f"{physical}::expert_map={experts}",
        "other": lines(folder / "other.jsonl", flipped),
        "map": experts,
        "folder": folder,
        "v0": None,
    }


def without(value):
    """A document without sizes of its files, and without how its ids were made."""
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if key not in ASIDE}
    return [without(one) for one in value] if isinstance(value, list) else value


def told_of(capsys, files, side, folder, case):
    """Of the command lines of a case: exit codes, documents, and what was written, by name."""
    names = {"DUMP": files[side], "OTHER": files["other"], "v0": files["v0"], "OUT": folder}
    places = sorted(("mapped", "physical", "logical"), key=lambda one: -len(str(files[one])))

    def plain(text):
        for place in (*(str(files[one]) for one in places), str(folder)):
            text = text.replace(place, "PLACE")
        return text

    found = []
    for line in case.split("; "):
        words = [_NAMES.sub(lambda m: str(names[m[0]]), word) for word in line.split()]
        told = run(capsys, *words, *(() if words[0] == "layout" else ("--json",)))
        if told.code == 2:
            return told.err
        found.append((told.code, document_in(plain(told.out))))
    written = sorted(path for path in folder.rglob("*.*") if path.is_file())
    return found, [(str(path.relative_to(folder)), content(path, plain)) for path in written]


def document_in(text):
    """A document without what is the source's own; text that is none as it is."""
    return without(json.loads(text)) if text.startswith("{") else text


def content(path, plain):
    """What a file holds but for the names of sources; of a file of another form its bytes."""
    if path.suffix == ".parquet":
        dump = open_dump(path)
        assert dump.meta.id_space == "logical"
        return pq.read_table(path).replace_schema_metadata().to_pylist()
    if path.suffix == ".json":
        return document_in(plain(path.read_text("utf-8")))
    return path.read_bytes()


SIDES = ("logical", "mapped")
COMMANDS = {
    "show": "show DUMP",
    "check": "check DUMP",
    "check against another": "check DUMP --against OTHER",
    "a reference": "check OTHER --against DUMP",
    "a candidate": "check OTHER --against OTHER --candidates 1=OTHER --candidates 2=DUMP",
    "diff, OLD": "diff DUMP OTHER",
    "diff, NEW": "diff OTHER DUMP",
    "diff, a rerun": "diff DUMP OTHER --rerun DUMP",
    "staleness": "staleness DUMP --at v3=DUMP --at v4=OTHER",
    "convert, native": "convert DUMP --save OUT/a.parquet",
    "convert, two processes": "convert DUMP --save OUT/a.parquet --jobs 2",
    "convert, a delta": "convert DUMP --save OUT/a.parquet --codec delta --base OTHER",
    "convert, arrays": "convert DUMP --save OUT/a.npz",
    "convert, an engine's": "convert DUMP --save OUT/a.jsonl",
    "convert, a trainer's": "convert DUMP --save OUT/a.pt --to slime",
    "convert, counts": "convert DUMP --save OUT/a.json --to eplb",
    "pack": "pack DUMP --save OUT/p; verify OUT/p --against DUMP; "
    "unpack OUT/p --save OUT/b.parquet; diff OUT/b.parquet DUMP",
    "layout": "layout DUMP --cp 2",
    "merge, check": "check DUMP --shard 1/2 --partial OUT/1; check DUMP --shard 2/2 --partial "
    "OUT/2; merge OUT/1 OUT/2",
    "merge, diff": "diff DUMP OTHER --shard 1/1 --partial OUT/1; merge OUT/1",
    "merge, staleness": "staleness DUMP --at v3=DUMP --at v4=OTHER --shard 1/1 --partial OUT/1; "
    "merge OUT/1",
    "recompute": "recompute v0 DUMP --save OUT/r.parquet --mode both --gate-logprobs",
    "diff, a checkpoint": "diff DUMP v0",
    "check, a checkpoint": "check DUMP --against v0",
    "staleness, a checkpoint": "staleness DUMP --at v3=v0 --at v4=OTHER --forward mode=both",
}
FORWARD = [name for name in COMMANDS if name == "recompute" or "checkpoint" in name]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.models if n in FORWARD else ()) for n in COMMANDS]
)
def test_a_command_of_physical_ids_and_their_map(capsys, tmp_path, files, request, name):
    """What a command says and writes of DUMP::expert_map=FILE is what it does of the dump whose
    ids were mapped before, the names of files aside.
    """
    if name in FORWARD:
        files = {**files, "v0": request.getfixturevalue("tiny_checkpoints")["v0"]}
    told = []
    for side in SIDES:
        folder = tmp_path / side
        folder.mkdir()
        told.append(told_of(capsys, files, side, folder, COMMANDS[name]))
    assert not isinstance(told[0], str), told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["show", "check", "convert, native", "layout", "recompute"])
@pytest.mark.models
def test_the_option_is_of_every_dump(capsys, tmp_path, files, tiny_checkpoints, name):
    """--expert-map FILE says of the one dump of a command what PATH::expert_map=FILE does."""
    files = {**files, "v0": tiny_checkpoints["v0"]}
    told = []
    for side, more in (("mapped", ""), ("physical", f" --expert-map {files['map']}")):
        folder = tmp_path / side
        folder.mkdir()
        told.append(told_of(capsys, files, side, folder, COMMANDS[name] + more))
    assert not isinstance(told[0], str), told[0]
    assert told[0] == told[1]


def test_physical_ids_without_a_map(capsys, files):
    """Without the map check finds them out of range, and names the option."""
    told = run(capsys, "check", files["physical"])
    assert told.code == 1
    assert "R101" in told.out
    assert "PATH::expert_map=FILE" in told.out


def test_diff_of_both_sides(capsys, files):
    """--expert-map maps both sides of a diff: copies of an expert are the same."""
    options = ("--expert-map", files["map"], "--json")
    other = lines(files["folder"] / "again.jsonl", lambda ids, i: physical_of(ids, MAP, 90 + i))
    told = run(capsys, "diff", files["physical"], other, *options)
    assert told.code == 0, told.err
    assert told.err.count("logical ids of") == 2


@pytest.mark.parametrize("command", ["diff DUMP OTHER", "check DUMP --against OTHER"])
def test_a_logical_side_is_not_mapped(capsys, files, command):
    """A map of both dumps, of which one has logical ids, is refused: a row of them has two copies
    of one expert by the map. The hint says how the other is mapped alone.
    """
    words = [
        {"DUMP": files["physical"], "OTHER": files["other"]}.get(w, w) for w in command.split()
    ]
    done = run(capsys, *words, "--expert-map", files["map"])
    assert (done.code, done.out) == (2, "")
    assert re.search(r"other.jsonl: sample s0: row \d+ .*, both of them expert \d+ by", done.err)
    assert "its ids are logical already" in done.err
    assert "PATH::expert_map=FILE maps one dump alone" in done.err


def test_check_says_of_a_wrong_map(capsys, files):
    """check of a dump and another's map names the rows: no token takes an expert twice."""
    wrong = saved(files["folder"] / "wrong.json", a_map(99, 6, 32, 40))
    told = run(capsys, "check", files["physical"], "--expert-map", wrong)
    assert told.code == 1
    assert "R001" in told.out
    assert "R102" in told.out
    assert "or of another map" in told.out


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


def test_tokens_of_physical_ids(capsys, files, tmp_path):
    """A trainer's layers take their tokens from an engine's dump, whose ids are let be."""
    dump = open_dump(files["logical"])
    ids = [np.concatenate([s.routes.ids_TLK, s.routes.ids_TLK[-1:]]) for s in dump]
    layers = [torch.from_numpy(np.concatenate(ids)[:, n].astype(np.int64)) for n in range(6)]
    torch.save(layers, tmp_path / "layers.pt")
    for side in ("logical", "physical"):
        named = f"{tmp_path / 'layers.pt'}::tokens={files[side]}"
        told = document(capsys, "diff", files["mapped"], named, "--model", TINY)
        assert (told["rows"], told["rows_mismatched"]) == (1728, 0)


@pytest.mark.parametrize("command", ["recompute", "predict"])
def test_router_inputs_have_no_ids(capsys, files, tmp_path, command):
    """Router inputs with a map, or a start, are refused: they have no rows."""
    trace = FIXTURES / "megatron-core-0.19.2" / "v0"
    at = ("--at", f"v0={trace}", "--at", f"v1={trace}")
    words = {
        "recompute": ("recompute", trace, "INPUTS", "--save", tmp_path / "r.parquet"),
        "predict": ("predict", "fit", "INPUTS", *at, "--save", tmp_path / "p.safetensors"),
    }[command]
    for said in (f"expert_map={files['map']}", "start=3"):
        error = complaint(capsys, *(f"{trace}::{said}" if w == "INPUTS" else w for w in words))
        assert "router inputs have no rows" in error
    if command == "recompute":
        plain = [trace if word == "INPUTS" else word for word in words]
        error = complaint(capsys, *plain, "--expert-map", files["map"])
        assert "router inputs, which have no ids" in error


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_capture(capsys, files, tmp_path, suffix):
    """capture of an engine that answers with physical ids: a native file has logical ones and
    says by which map; JSON lines have them as they came, and without the map they are refused.
    """
    line = json.loads(files["physical"].read_text("utf-8").splitlines()[0])
    choice = {
        "index": 0,
        "finish_reason": "length",
        "routed_experts": line["routed_experts"],
        "prompt_token_ids": line["prompt_token_ids"],
        "token_ids": line["token_ids"],
        "text": "",
    }
    answer = reply(
        json.dumps({"id": "c", "object": "text_completion", "choices": [choice]}).encode()
    )
    prompts = prompts_file(tmp_path, {"id": "s0", "prompt_token_ids": line["prompt_token_ids"]})
    saved_as, options = tmp_path / f"a.{suffix}", ("--model", TINY, *FAST)
    with EngineServer("vllm", answer) as server:
        refused = captured(capsys, server, prompts, saved_as, *options)
        assert (refused.code, saved_as.exists()) == (2, False)
        assert "--expert-map FILE" in refused.err
        done = captured(capsys, server, prompts, saved_as, *options, "--expert-map", files["map"])
    assert done.code == 0, done.err
    named = f"{saved_as}::expert_map={files['map']}"
    assert (named in done.err) == (suffix == "jsonl")
    named = named if suffix == "jsonl" else saved_as
    told = document(
        capsys, "diff", files["logical"], named, "--match", "prefix", "--allow-unmatched"
    )
    assert (told["rows"], told["rows_mismatched"]) == (48 * 6, 0)
    made = open_dump(saved_as) if suffix == "parquet" else None
    assert made is None or "40 physical to 32 logical" in made.meta.provenance["expert_map"]


def test_a_map_by_step(capsys, files, tmp_path):
    """A map a step is that of the weight versions' numbers."""
    steps = [
        {"step": 0, "physical_to_logical_map": a_map(8, 6, 32, 40)},
        {"step": 3, "physical_to_logical_map": MAP},
    ]
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({"maps": steps}), "utf-8")
    files = {**files, "mapped": f"{files['physical']}::expert_map={path}"}
    old, new = (told_of(capsys, files, side, tmp_path, "show DUMP") for side in SIDES)
    assert old == new


def test_one_map_from_a_later_step_on_is_not_of_all_rows(capsys, files, tmp_path):
    """A map alone that holds from step N on maps no row of an earlier or of no known version."""
    path = tmp_path / "late.json"
    for step, told in ((9, "no map of step 3: the first is of step 9"), (3, "")):
        maps = [{"step": step, "physical_to_logical_map": MAP}]
        path.write_text(json.dumps({"maps": maps}), "utf-8")
        done = run(capsys, "show", files["physical"], "--expert-map", path)
        assert (done.code, told in done.err) == (2 if told else 0, True)


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
    assert "both of them expert 16" in complaint(capsys, "diff", *again)
    maps = f"{again[0]}::expert_map={RECORDED / 'maps.json'}"
    assert document(capsys, "diff", maps, *again[1:])["rows_mismatched"] == 0


@pytest.mark.parametrize("other", ["routes_v0.fp32.npz", "routes_v0.margins.parquet"])
def test_each_dump_that_is_mapped_is_noted(capsys, files, tmp_path, other):
    """A note a dump, whatever its format, and whether it says its own model or not."""
    experts = saved(tmp_path / "map.json", a_map(3, layers=6, experts=32, physical=32))
    for sides in ((files["other"], TINY / other), (TINY / other, files["other"])):
        told = run(capsys, "diff", *sides, "--expert-map", experts, "--allow-unmatched")
        noted = [line for line in told.err.splitlines() if "logical ids of" in line]
        assert sorted(noted) == sorted(
            f"routectl: logical ids of {side} by {experts} (32 physical to 32 logical)"
            for side in sides
        )


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
