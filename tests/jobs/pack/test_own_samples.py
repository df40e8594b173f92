"""samples.parquet of a packed folder, replaced: verify names what of it is not what was packed."""

import random
import shutil

import numpy as np
import pytest

from routectl.formats.native.container import write_native
from support.dumps import make_dump, make_sample
from support.packs import routes_like
from support.shell import document, run

LENS = (20, 17, 9, 12)
LAYERS = (1, 2, 3)
EXPERTS, TOP_K = 32, 4


def samples(lens=LENS, name="s", token=1, layers=LAYERS):
    """Samples of so many tokens, which are all the same."""
    rng = random.Random(3)
    return [
        make_sample(
            routes_like(rng, n - 1, layers, (TOP_K, EXPERTS, None)),
            None if name is None else f"{name}{i}",
            [token] * (n - 2),
            [2, 2],
        )
        for i, n in enumerate(lens)
    ]


def bare(of):
    """The samples without tokens, of as many."""
    return [
        make_sample(
            one.routes,
            one.sample_id,
            prompt_length=one.prompt_length,
            response_length=one.response_length,
        )
        for one in of
    ]


def native(path, of, layers=LAYERS, experts=EXPERTS):
    """A native file of samples."""
    dump = make_dump(of, layers, experts, TOP_K)
    write_native(dump, dump.meta, path, force=True)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A dump, and the folder that pack made of it."""
    from routectl import PackRequest
    from routectl.jobs.pack.request import pack_dump

    folder = tmp_path_factory.mktemp("own")
    dump = native(folder / "d.parquet", samples())
    pack_dump(PackRequest(dump=str(dump), save=folder / "r"))
    return dump, folder / "r"


def verified(capsys, folder, dump, code, *more):
    """The document of a folder beside its dump."""
    return document(capsys, "verify", folder, "--against", dump, *more, code=code)


OTHERS = {
    "ids": (bare(samples(name="x")), {}, ["4 of 4 samples: s0 (got id x0), s1 (got id x1), "]),
    "lengths": (
        samples((20, 17, 9, 13)),
        {},
        ["1 of 4 samples: s3 (got 13 tokens, expected 12)"],
    ),
    "tokens": (
        [*samples()[:2], *samples(token=7)[2:]],
        {},
        ["2 of 4 samples: s2 (got other token ids), s3 (got other token ids)"],
    ),
    "fewer": (samples()[:3], {}, ["got 3 samples, expected 4"]),
    "experts": (samples(), {"experts": 64}, ["num_experts: got 64, expected 32"]),
    "layers": (
        samples(layers=(1, 2)),
        {"layers": (1, 2)},
        ["layers: got [1, 2], expected [1, 2, 3]"],
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_of_another_dump(capsys, tmp_path, packed, other):
    """What unpack would give with another dump's samples is named by sample, beside right rows."""
    dump, folder = packed
    shutil.copytree(folder, tmp_path / "r")
    held, shape, lines = OTHERS[other]
    native(tmp_path / "r" / "samples.parquet", held, **shape)
    found = verified(capsys, tmp_path / "r", dump, 1)
    assert (found["ok"], found["rows_wrong"], found["unusable_files"]) == (False, 0, 1)
    assert len(found["faults"]) == len(lines)
    for line, told in zip(found["faults"], lines, strict=True):
        assert line.startswith("samples.parquet: ")
        assert told in line
    again = verified(capsys, tmp_path / "r", dump, 1, "--jobs", 2)
    assert again == found


def test_missing_or_damaged(capsys, tmp_path, packed):
    """One that is gone or cut short is wrong, and the line says what it is for."""
    dump, folder = packed
    shutil.copytree(folder, tmp_path / "r")
    own = tmp_path / "r" / "samples.parquet"
    own.write_bytes(own.read_bytes()[:200])
    (line,) = verified(capsys, tmp_path / "r", dump, 1)["faults"]
    assert line.startswith("samples.parquet: damaged Parquet")
    own.unlink()
    done = run(capsys, "verify", tmp_path / "r", "--against", dump)
    assert (done.code, done.out.splitlines()[0]) == (1, "WRONG  1 file that cannot be used")
    told = "samples.parquet: not there: all of the samples but their routes; unpack needs it"
    assert done.out.count(told) == 1
    (tmp_path / "r" / "manifest.json").unlink()  # a trainer's folder, which has none
    assert verified(capsys, tmp_path / "r", dump, 0, "--layout", "tp=1")["faults"] == []


def test_of_parts_that_are_merged(capsys, tmp_path, packed):
    """What is merged of parts says it as one run does, once."""
    dump, folder = packed
    shutil.copytree(folder, tmp_path / "r")
    native(tmp_path / "r" / "samples.parquet", samples(token=7))
    whole = verified(capsys, tmp_path / "r", dump, 1)
    parts = [tmp_path / f"{n}.partial" for n in (1, 2)]
    for n, part in enumerate(parts, 1):
        asked = ("verify", tmp_path / "r", "--against", dump, "--shard", f"{n}/2")
        assert run(capsys, *asked, "--partial", part).code == 0
    assert document(capsys, "merge", *parts, code=1) == whole


def test_other_names(capsys, tmp_path, packed):
    """The same tokens by other names are the same samples."""
    dump, folder = packed
    renamed = native(tmp_path / "d.parquet", samples(name="x"))
    found = verified(capsys, folder, renamed, 0)
    assert found | {"dump": str(dump)} == verified(capsys, folder, dump, 0)


@pytest.mark.parametrize("side", ["packed", "dump"])
def test_without_tokens_or_ids(capsys, tmp_path, side):
    """Ids of samples and tokens are held against each other where both sides have them."""
    known = samples()
    less = bare(samples(name=None))
    first, second = (less, known) if side == "packed" else (known, less)
    one, two = native(tmp_path / "1.parquet", first), native(tmp_path / "2.parquet", second)
    assert run(capsys, "pack", one, "--save", tmp_path / "r").code == 0
    assert np.array_equal(first[0].routes.ids_TLK, second[0].routes.ids_TLK)
    assert verified(capsys, tmp_path / "r", two, 0)["ok"]
