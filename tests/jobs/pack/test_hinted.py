"""What verify hints at is a layout that is not refused, and all of it is said at once."""

import json
import random
import re
import shutil

import pytest

from routectl.cli.main import main
from routectl.formats.native.container import write_native
from routectl.layouts.rules import FRAMEWORKS
from support.dumps import make_dump, make_sample
from support.packs import routes_like
from support.shell import run

LAYERS = (1, 2)
HINT = re.compile(r"--layout (\S+)(?: without (.+))?")
GIVEN = (  # each with a key that other frameworks, or forms, lack
    "framework=slime,cp=2,pad-multiplier=8",
    "framework=verl,cp=2,fp8=blockwise",
    "framework=verl,cp=2,form=bshd,seq-len=64",
    "framework=nemo-rl,cp=2,bucket=64",
    "framework=xtuner,cp=2,pack-max-length=256",
    "framework=nemo-rl-automodel",
    "framework=areal,moe-layer-freq=1,decoder-layers=2",
    "",
)


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """A native file of a few samples."""
    rng = random.Random(7)
    samples = [
        make_sample(routes_like(rng, n - 1, LAYERS, (4, 32, None)), f"{n}", [1] * (n - 2), [2, 2])
        for n in (40, 33, 9)
    ]
    held = make_dump(samples, LAYERS, 32, 4)
    path = tmp_path_factory.mktemp("hinted") / "d.parquet"
    write_native(held, held.meta, path, force=False)
    return path


@pytest.fixture
def bare(dump, tmp_path):
    """What pack writes of a layout, without the manifest."""

    def folder(layout):
        path = tmp_path / "r"
        shutil.rmtree(path, ignore_errors=True)
        assert main(["pack", str(dump), "--save", str(path), "--layout", layout]) == 0
        (path / "manifest.json").unlink()
        return path

    return folder


def verified(capsys, folder, dump, said):
    """The document of verify; None where it is trouble."""
    more = ("--layout", said) if said else ()
    done = run(capsys, "verify", folder, "--against", dump, *more, "--json")
    return None if done.code == 2 else json.loads(done.out)


def typed(said, hint):
    """What is said when a hint is followed; None where it asks for what nobody knows."""
    found = HINT.search(hint)
    if found is None or "=N" in found[1]:
        return None
    without = {name for name in (found[2] or "").split(", ") if name}
    pairs = [pair for pair in said.split(",") if pair and pair.partition("=")[0] not in without]
    return ",".join([*pairs, found[1]])


FEW = ("slime", "xtuner", "nemo-rl-automodel")
REST = (pytest.param(name, marks=pytest.mark.slow) for name in FRAMEWORKS if name not in FEW)


@pytest.mark.parametrize("framework", [*FEW, *REST])
def test_it_is_not_refused(capsys, bare, dump, framework):
    """Followed, whatever was given before, a hint is no trouble, and explains the tensors where
    it names a layout that they match.
    """
    own = f"framework={framework}" + (",cp=2" if framework != "nemo-rl-automodel" else "")
    folder = bare(own)
    followed = 0
    for said in GIVEN:
        done = verified(capsys, folder, dump, said)
        if done is None or done["hint"] is None:
            continue
        after = typed(said, done["hint"])
        if after is not None:
            followed += 1
            now = verified(capsys, folder, dump, after)
            assert now is not None, (said, done["hint"])
            assert now["ok"] or not done["suspects"], (said, done["hint"])
    assert followed


NAMED = "files are named as of"


@pytest.mark.parametrize(
    ("made", "said", "hint"),
    [
        (
            "verl,cp=2,tp=2",
            "framework=slime,cp=2,tp=2,pad-multiplier=8",
            "--layout framework=verl without pad-multiplier",
        ),
        ("slime,cp=2,tp=2", "", "--layout cp=2,tp=2,framework=slime"),
        ("slime,cp=2", "tp=1", "--layout cp=2,framework=slime"),
        ("verl,cp=2", "", f"{NAMED} cp 2, 1 micro-batch: --layout cp=2"),
        (
            "slime,cp=2,dp=2",
            "",
            f"{NAMED} dp 2, cp 2, 1 micro-batch: --layout dp=2,cp=2,framework=NAME",
        ),
        (
            "verl,cp=2",
            "framework=nemo-rl-automodel",
            f"{NAMED} cp 2, 1 micro-batch, which the layout cannot be: nemo-rl-automodel has no "
            "cp, got 2",
        ),
    ],
)
def test_all_at_once(capsys, bare, dump, made, said, hint):
    """One line has sizes that files are named by, the framework, and what must not be given."""
    assert verified(capsys, bare(f"framework={made}"), dump, said)["hint"] == hint
