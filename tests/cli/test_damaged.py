"""Damaged files of every reader and every container: file, command, exit code, first words.

What can be made is made by ``support.damaged``; the rest is in ``fixtures/hostile``.
"""

import shutil
from itertools import product
from pathlib import Path

import pytest

from fuzz import seeds
from fuzz.oracle import command
from routectl.checkpoints.predictor import open_predictor
from routectl.errors import RoutectlError
from support.damaged import DAMAGES, DOORS, damaged
from support.recordings import FIXTURES, QWEN

HOSTILE = FIXTURES / "hostile"


def row(name, *values):
    """A row of the table, by its file."""
    return pytest.param(*(values or (name,)), id=name)


SOUND = {  # damage that these do not have, or cannot see, having no checksum
    ("npy", "no tail"): 0,
    ("safetensors", "no tail"): 0,
    ("step", "no tail"): 0,
    ("weights", "no tail"): 0,
    ("shard", "no tail"): 0,
    ("inputs", "no tail"): 0,
    ("predictor", "no tail"): 0,
    ("request", "nothing"): 0,  # null is no request
    ("iteration", "half"): 0,  # its line end
    ("iteration", "a number"): 0,
    ("common", "no tail"): 0,  # where the directory of the zip begins is found without it
    ("router state", "no tail"): 0,  # the same
    ("recorder", "no tail"): 0,  # likewise
    ("counts", "no tail"): 0,
    # verify names it, or that its SHA-256 is not the manifest's, and judges the other files
    **{("rank", damage): 1 for damage in DAMAGES},
}


@pytest.mark.parametrize(("door", "damage"), list(product(DOORS, DAMAGES)))
def test_a_damaged_file_is_refused_in_one_line(door, damage, tmp_path, monkeypatch):
    """Each damage to each door's file: exit 2 and one line that begins with the file's path."""
    monkeypatch.chdir(FIXTURES.parent)
    words = damaged(door, damage, tmp_path)
    done = command(*words)
    assert done.code == SOUND.get((door, damage), 2), done.err
    if done.code == 2:
        assert done.err.startswith(f"routectl: {tmp_path}"), done.err


DS = ("--model", HOSTILE / "ds.json")
SHOW, CHECK = ("show", "FILE", *DS), ("check", "FILE", *DS)
DIFF = ("diff", HOSTILE / "nat.parquet", "FILE", *DS, "--match", "tokens", "--fail-over")
STORED = {  # by file: the command, its exit code, and the words after the file's path
    "bomb_ids.parquet": (("show", "FILE"), 2, ""),
    "bomb_tokens.parquet": (("show", "FILE"), 2, ""),
    "amp_lists.json.gz": (SHOW, 2, ""),
    "punycode.pt": (SHOW, 2, ": refused pickle"),
    "codec_unknown.pt": (SHOW, 2, ": refused pickle"),
    "slime_bitflip_ids_crc_bad.pt": (CHECK, 2, ""),
    "slime_good.pt": (CHECK, 0, ""),
    "zip_case.pt": (("show", "FILE::format=torch"), 2, ""),
    "skyrl03_negative_prompt.pt": (SHOW, 2, ""),
    "delta_base_long.parquet": (("show", "FILE"), 2, ""),
    "logprobs_one_neginf.jsonl": ((*DIFF, "k3:0.001"), 1, ""),
    "logprobs_neginf.jsonl": ((*DIFF, "k1:0.001"), 1, ""),
    "logprobs_posinf.jsonl": ((*DIFF, "k1:0.001"), 1, ""),
    "logprobs_1e308.jsonl": ((*DIFF, "k1:0.001"), 1, ""),
    "inject_finish_reason_nl.jsonl": (SHOW, 0, ""),
    "inject_sample_id_nl.jsonl": (("check", "FILE", "--model", QWEN), 0, ""),
    "inject_weight_version_ansi.jsonl": (SHOW, 0, ""),
    "inject_native_source.parquet": (("show", "FILE"), 0, ""),
}


@pytest.mark.parametrize("name", [row(name) for name in STORED])
def test_a_stored_file_is_judged_as_the_table_says(name):
    """Each file's command, exit code and first words; nothing of it moves a cursor."""
    words, code, after = STORED[name]
    path = HOSTILE / name
    done = command(*(str(word).replace("FILE", str(path)) for word in words))
    assert done.code == code, done.err
    if code == 2:
        assert done.err.startswith(f"routectl: {path}{after}"), done.err


MANIFESTS = [
    row(f"{path.name.split('.')[1]}-{folder}", path, folder)
    for path in sorted((HOSTILE / "fuzz").glob("replay.*.manifest.json"))
    for folder in ("R", "R2")
]


@pytest.mark.parametrize(("path", "folder"), MANIFESTS)
def test_a_stored_manifest_is_refused_or_wrong(path, folder, tmp_path):
    """Manifests that a search found: over either folder, wrong or one line, and no bug."""
    shutil.copytree(HOSTILE / "replay" / folder, tmp_path / "r")
    shutil.copy(path, tmp_path / "r" / "manifest.json")
    samples = tmp_path / "r" / "samples.parquet"
    for words in (("verify",  tmp_path / "r", "--against", samples),
                  ("unpack", tmp_path / "r", "--save", tmp_path / "o.parquet")):  # fmt: skip
        done = command(*words)
        if done.code == 2:
            assert done.err.startswith(f"routectl: {tmp_path}"), done.err


@pytest.mark.parametrize("name", [row("predictor")])
def test_a_stored_predictor_is_refused(name, tmp_path):
    """A predictor whose metadata is of other types is refused when it is opened."""
    path = shutil.copy(HOSTILE / "fuzz" / f"{name}.e96bd3ae.p.safetensors", tmp_path)
    with pytest.raises(RoutectlError):
        open_predictor(Path(path))


@pytest.mark.parametrize("name", [row("index")])
def test_a_stored_index_is_refused(name, tmp_path):
    """An index whose file names are no names is refused in one line."""
    stored = f"checkpoints.c7c7fbc1.model.safetensors.{name}.json"
    (tmp_path / "c").mkdir()
    for file, body in seeds.hf_folder()[0].items():
        (tmp_path / file).write_bytes(body)
    shutil.copy(HOSTILE / "fuzz" / stored, tmp_path / "c" / "model.safetensors.index.json")
    assert command("show", tmp_path / "c").code == 2
