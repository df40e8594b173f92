"""Layouts of vime, AReaL, xtuner and NeMo-RL's Automodel: packed, verified, unpacked, checked."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl import open_dump
from support.shell import DUMPS, complaint, document, run

LAYOUTS = {
    "areal": "--framework areal --tp 2 --cp 2",
    "vime": "--framework vime --tp 2 --cp 2 --layout pad-multiplier=4",
    "vime-allgather": "--framework vime-allgather --cp 2 --layout pad-multiplier=4",
    "xtuner": "--framework xtuner --cp 2 --layout pack-max-length=6000",
    "nemo-rl-automodel": "--framework nemo-rl-automodel --layout micro-batch-size=2",
}
PADDING = {
    "areal": "repeat",
    "vime": "spread",
    "vime-allgather": "spread",
    "xtuner": "random",
    "nemo-rl-automodel": "minus-one",
}


def changed(path, layer, row, ids):
    """Write other ids into a row of a rank's file."""
    tensors = load_file(path)
    tensors[f"layer.{layer}"][row] = ids
    save_file(tensors, path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_round_trip(capsys, tmp_path, name):
    """What is packed verifies, unpacks to the dump's routes and checks without fault; another row
    where a route belongs is found, and what a filler row holds is none.
    """
    folder, back = tmp_path / "replay", tmp_path / "back.parquet"
    verify = ("verify", folder, "--against", DUMPS["native"])
    run(capsys, "pack", DUMPS["native"], "--save", folder, *LAYOUTS[name].split())
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert (manifest["layout"]["framework"], manifest["tensors"]["padding"]) == (
        name,
        PADDING[name],
    )
    assert run(capsys, "unpack", folder, "--save", back).code == 0
    for one, two in zip(open_dump(DUMPS["native"]), open_dump(back), strict=True):
        np.testing.assert_array_equal(one.routes.ids_TLK, two.routes.ids_TLK)
    assert document(capsys, "check", back)["findings"] == []
    path = next(iter(sorted(folder.glob("*/*.safetensors"))))
    mask = load_file(path)["mask"]
    changed(path, 1, np.flatnonzero(~mask)[:1], 1)
    verified = document(capsys, *verify)
    assert (verified["rows_wrong"], verified["ok"]) == (0, True)
    changed(path, 1, np.flatnonzero(mask)[0], 1)
    assert document(capsys, *verify, code=1)["rows_wrong"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--layout pack-max-length=9", "verl has no pack-max-length: it is xtuner's"),
        (
            "--framework xtuner --layout pack-max-length=9,min-local-rows=9",
            "pack-max-length and min-local-rows cannot both be given",
        ),
        ("--framework nemo-rl-automodel --tp 2", "nemo-rl-automodel has no tp, got 2"),
        (
            "--framework nemo-rl-automodel --layout form=bshd",
            "nemo-rl-automodel has form bshd-b-major, got bshd",
        ),
    ],
)
def test_refused(capsys, tmp_path, words, said):
    """What a framework does not have is refused in one line."""
    options = ("--save", tmp_path / "r", *words.split())
    assert said in complaint(capsys, "pack", DUMPS["native"], *options)
