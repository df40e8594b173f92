"""routectl.run: each request gives what its command prints, or writes what its command writes."""

import dataclasses
import json
from pathlib import Path

import pytest

import routectl
from routectl.errors import RoutectlError
from routectl.jobs.run import JOBS
from support.ci_configs import CHECK, DIFF, V0, V1, config
from support.engine_server import EngineServer, rollouts
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, QWEN
from support.shell import document, run
from support.tiny_rl import ENGINE

DUMP = str(DEEPSEEK / "samples.jsonl")
AT = (f"v0={V0}", f"v1={V1}")
SIX = routectl.LayoutOptions(tp=2, cp=2, decoder_layers=6)
SIX_FLAGS = ("--tp", 2, "--cp", 2, "--decoder-layers", 6)


def files_of(folder):
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (("show", DUMP), routectl.ShowRequest(path=DUMP)),
        (
            ("show", FIXTURES / "checkpoints" / "megatron-0.15.3"),
            routectl.ShowRequest(path=str(FIXTURES / "checkpoints" / "megatron-0.15.3")),
        ),
        (
            ("diff", ENGINE, V0, "--layers", "0-2", "--fail-over", "mismatch:5%"),
            routectl.DiffRequest(
                old=str(ENGINE), new=str(V0), layers="0-2", fail_over=("mismatch:5%",)
            ),
        ),
        (
            ("check", ENGINE, "--against", V0, "--ignore", "R7"),
            routectl.CheckRequest(dump=str(ENGINE), against=str(V0), ignore=("R7",)),
        ),
        (
            ("staleness", ENGINE, "--at", AT[0], "--at", AT[1]),
            routectl.StalenessRequest(dump=str(ENGINE), at=AT),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_documents_are_those_of_the_command(capsys, line, request_):
    """A request for a document gives what the command prints with --json, and prints nothing."""
    told = document(capsys, *line)
    found = routectl.run(request_)
    assert capsys.readouterr() == ("", "")
    assert json.loads(json.dumps(found)) == told


def test_ci_is_that_of_the_command(capsys, tmp_path):
    """CiRequest runs the checks of a config; times aside, its document is that of the command."""
    path = config(tmp_path, sound=CHECK, mismatch={**DIFF, "fail-over": "mismatch:5%"})
    told = document(capsys, "ci", path)
    found = routectl.run(routectl.CiRequest(config=path))
    for doc in (told, found):
        for entry in doc["runs"]:
            entry.pop("seconds")
    assert found == told


@pytest.mark.parametrize(("name", "more"), [("x.parquet", {}), ("x.npz", {"missing": "zero"})])
def test_convert_writes_the_same_bytes(capsys, tmp_path, name, more):
    """ConvertRequest writes the file of the command, and says what is in it."""
    flags = [word for key, value in more.items() for word in (f"--{key}", value)]
    assert run(capsys, "convert", DUMP, "--save", tmp_path / name, *flags).code == 0
    mine = tmp_path / f"mine-{name}"
    saved = routectl.run(routectl.ConvertRequest(src=DUMP, save=mine, **more))
    assert (saved["samples"], saved["bytes"]) == (46, mine.stat().st_size)
    assert mine.read_bytes() == (tmp_path / name).read_bytes()


def test_pack_verify_and_unpack(capsys, tmp_path):
    """Requests write the folder of pack and the dump of unpack, and verify it, as commands do."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    manifest = document(capsys, "pack", DUMP, "-o", theirs, *SIX_FLAGS)
    found = routectl.run(routectl.PackRequest(dump=DUMP, output=mine, layout=SIX))
    assert json.loads(json.dumps(found)) == manifest
    assert files_of(mine) == files_of(theirs)
    told = document(capsys, "pack", "--verify", mine, "--against", DUMP)
    verified = routectl.run(routectl.VerifyRequest(folder=mine, against=DUMP))
    assert verified["ok"]
    assert json.loads(json.dumps(verified)) == told
    request = routectl.UnpackRequest(folder=mine, output=tmp_path / "back.parquet")
    assert routectl.run(request) == 46
    assert run(capsys, "unpack", mine, "-o", tmp_path / "their.parquet").code == 0
    assert (tmp_path / "back.parquet").read_bytes() == (tmp_path / "their.parquet").read_bytes()


def test_a_layout_beside_a_manifest_is_refused(tmp_path):
    """VerifyRequest takes the manifest's layout, and refuses another one beside it."""
    routectl.run(routectl.PackRequest(dump=DUMP, output=tmp_path / "replay", layout=SIX))
    request = routectl.VerifyRequest(folder=tmp_path / "replay", against=DUMP, layout=SIX)
    with pytest.raises(RoutectlError, match=r"manifest\.json says the layout"):
        routectl.run(request)


def test_a_layout_is_a_packing():
    """LayoutRequest gives the Packing that pack --explain draws."""
    packing = routectl.run(routectl.LayoutRequest(lens="9,17,3", layout=SIX))
    assert isinstance(packing, routectl.Packing)
    assert (list(packing.lens), packing.tp, packing.cp) == ([9, 17, 3], 2, 2)
    with pytest.raises(RoutectlError, match="expected a DUMP"):
        routectl.run(routectl.LayoutRequest())


def test_check_writes_a_fixed_dump_or_says_why_not(tmp_path):
    """CheckRequest(save=...) is check --save: nothing to fix is an error, and nothing written."""
    request = routectl.CheckRequest(dump=str(V0), against=str(V0), save=tmp_path / "fixed.parquet")
    with pytest.raises(RoutectlError, match="nothing to fix"):
        routectl.run(request)
    assert list(tmp_path.iterdir()) == []


def test_capture_asks_a_server(tmp_path):
    """CaptureRequest writes what a server answers and says how many samples there are."""
    answers = {tuple(ids): outputs for ids, outputs in rollouts()}
    prompt = next(iter(answers))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "p0", "prompt_token_ids": list(prompt)}) + "\n", "utf-8")
    notes = []
    with EngineServer("sglang", answers) as server:
        request = routectl.CaptureRequest(
            url=server.url,
            prompts=str(prompts),
            save=tmp_path / "captured.parquet",
            max_tokens=24,
            model=QWEN,
        )
        assert routectl.run(request, routectl.Progress(note=notes.append))["samples"] == 1
    assert len(routectl.open_dump(tmp_path / "captured.parquet")) == 1
    assert notes[-1].endswith("captured.parquet: 1 sample")


def test_watch_gives_documents_as_they_come(tmp_path):
    """WatchRequest checks what is there: a document each to ``part``, a summary at the end."""
    (tmp_path / "step-1.jsonl").write_bytes(Path(DUMP).read_bytes())
    reading = routectl.Reading(model=DEEPSEEK_CONFIG)
    parts = []
    request = routectl.WatchRequest(
        folder=tmp_path, settle=0.0, give_up=0.0, interval=0.01, once=True, reading=reading
    )
    found = routectl.run(request, routectl.Progress(part=parts.append))
    assert [doc["file"] for doc in parts] == ["step-1.jsonl"]
    assert (found.dumps, found.unchecked) == (1, 0)
    assert found.exit_code == parts[0]["exit_code"] == 0


def test_every_job_has_its_request():
    """JOBS names every request that routectl offers, each a frozen dataclass with a function."""
    requests = {name for name in routectl.__all__ if name.endswith("Request")}
    assert {name for name, _, _ in JOBS} == requests
    for name in requests:
        kind = getattr(routectl, name)
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen


def test_what_is_no_request_is_a_type_error():
    """run takes requests alone."""
    with pytest.raises(TypeError, match="got str, expected one of CacheRequest"):
        routectl.run("diff")


def test_bounds_hold_in_python_too():
    """A number that the command line refuses is refused by the request."""
    with pytest.raises(RoutectlError, match="--ep 0: expected at least 1"):
        routectl.CheckRequest(dump=DUMP, ep=0)
    with pytest.raises(RoutectlError, match="LAYERS,K,E: got E 70000, expected 1 to 65536"):
        routectl.Reading(model="6,4,70000")
    with pytest.raises(RoutectlError, match="start -1: expected at least 0"):
        routectl.Reading(start=-1)
    with pytest.raises(RoutectlError, match="--tp 0: expected at least 1"):
        routectl.LayoutOptions(tp=0)
    with pytest.raises(RoutectlError, match="--concurrency 2000: expected at most 1024"):
        routectl.CaptureRequest(url="http://a:1", prompts="p", save=Path("x"), concurrency=2000)
