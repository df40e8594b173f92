"""The layout that verify holds tensors against: it is said, and what of it nobody said; the keys
that would explain what is wrong; samples by their keys.
"""

import json
import random
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import routectl
from routectl import Pipeline
from routectl.cli.main import main
from routectl.formats.native.container import write_native
from support.dumps import make_dump, make_sample
from support.packs import routes_like
from support.shell import document, run

LAYERS = (1, 2, 3, 5)
LENS = (40, 33, 18, 23, 9, 27)
KEYS = ("framework", "tp", "cp", "pp", "dp", "max-tokens-per-gpu")
MORE = "max-tokens-per-gpu=N (or micro-batch-size=N, plan=PLAN.json)"
WHICH = "max-tokens-per-gpu, micro-batch-size, balance or plan says which samples form each"


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """A native file of samples whose ids are 7/0, 7/1, ..., the last without one."""
    rng, samples = random.Random(5), []
    for i, tokens in enumerate(LENS):
        routes = routes_like(rng, tokens - 1, LAYERS, (4, 32, None))
        name = None if i == len(LENS) - 1 else f"7/{i}"
        samples.append(make_sample(routes, name, [1] * (tokens - 2), [2, 2]))
    held = make_dump(samples, LAYERS, 32, 4)
    path = tmp_path_factory.mktemp("declared") / "d.parquet"
    write_native(held, held.meta, path, force=False)
    return path


@pytest.fixture(scope="module")
def packed(dump):
    """The folder that pack writes of a layout, once a layout."""
    made = {}

    def folder(*layout):
        if layout not in made:
            made[layout] = dump.parent / f"r{len(made)}"
            said = [word for key in layout for word in ("--layout", key)]
            assert main(["pack", str(dump), "--save", str(made[layout]), *said]) == 0
        return made[layout]

    return folder


@pytest.fixture
def bare(packed, tmp_path):
    """A copy of such a folder, without its manifest."""

    def folder(*layout):
        path = tmp_path / "bare"
        shutil.copytree(packed(*layout), path)
        (path / "manifest.json").unlink()
        return path

    return folder


def verified(capsys, folder, dump, *layout, code=0):
    """The document, and the lines of the answer by their labels."""
    args = ["verify", folder, "--against", dump, *(w for key in layout for w in ("--layout", key))]
    found = document(capsys, *args, code=code)
    lines: dict[str, list[str]] = {}
    for line in run(capsys, *args).out.splitlines()[1:]:
        label, _, words = line.partition(" ")
        lines.setdefault(label, []).append(words.strip())
    return found, lines


def test_a_layout_that_nobody_said(capsys, bare, dump):
    """What is assumed is said where all is right, too, and nothing is hinted at then."""
    found, lines = verified(capsys, bare(), dump)
    assert found["layout"]["assumed"] == list(KEYS)
    assert not found["layout"]["from_manifest"]
    assert found["hint"] is None
    told = "verl, thd; 1 micro-batch  (assumed: no manifest, and --layout does not say it)"
    assert (lines["layout"], "hint" in lines) == ([told], False)


def test_a_layout_that_a_manifest_says(capsys, packed, dump, tmp_path):
    """Nothing of it is assumed; where rows are wrong, --layout is not hinted at."""
    folder = tmp_path / "r"
    shutil.copytree(packed("cp=2", "micro-batch-size=2"), folder)
    for file in folder.glob("*/*.safetensors"):
        arrays = load_file(file)
        arrays["layer.1"] = np.zeros_like(arrays["layer.1"])
        save_file(arrays, file)
    found, lines = verified(capsys, folder, dump, code=1)
    assert found["layout"] == {
        **{"framework": "verl", "form": "thd", "dp": 1, "cp": 2, "tp": 1, "pp": 1, "vpp": 1},
        "micro_batches": 3,
        "from_manifest": True,
        "assumed": [],
        "named": {"dp": 1, "cp": 2, "tp": 1, "pp": 1, "micro_batches": 3},
    }
    assert lines["layout"] == ["verl, thd, cp 2; 3 micro-batches"]
    assert found["hint"] is None


@pytest.mark.parametrize(
    ("said", "assumed", "told"),
    [
        ("framework=verl,micro-batch-size=9,cp=1", ("tp", "pp", "dp"), ""),
        ("framework=verl,cp=1", KEYS[1:2] + KEYS[3:], "one micro-batch a rank"),
        ("micro-batch-size=9,cp=1", ("framework", "tp", "pp", "dp"), "framework"),
    ],
)
def test_a_layout_that_is_said_in_part(capsys, bare, dump, said, assumed, told):
    """The framework and micro-batches that nobody said are named; sizes are in the document."""
    found, lines = verified(capsys, bare(), dump, said)
    assert found["layout"]["assumed"] == list(assumed)
    assert lines["layout"] == ["verl, thd; 1 micro-batch" + (told and f"  (assumed: {told})")]


def test_a_plan_says_dp(capsys, bare, dump, tmp_path):
    """A plan says how many ranks of data there are, so that dp is not assumed."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([[0, 1], [2, 3], [4, 5]]), "utf-8")
    found, _ = verified(capsys, bare("micro-batch-size=2"), dump, f"plan={plan}")
    assert found["layout"]["assumed"] == ["framework", "tp", "cp", "pp"]


@pytest.mark.parametrize(
    ("made", "said", "hint"),
    [
        (  # sizes and micro-batches that files are named by
            ("framework=verl,cp=2,tp=2,micro-batch-size=2",),
            (),
            "files are named as of cp 2, tp 2, 3 micro-batches: --layout cp=2,tp=2,"
            f"framework=NAME,{MORE}",
        ),
        (
            ("framework=verl,cp=2,micro-batch-size=2",),
            ("framework=verl,cp=2",),
            f"files are named as of cp 2, 3 micro-batches: --layout {MORE}",
        ),
        (  # a size alone: files have other rows for it
            ("framework=verl,dp=2",),
            ("framework=verl",),
            "files are named as of dp 2, 1 micro-batch: --layout dp=2",
        ),
        (  # another number of samples in each
            ("framework=verl,micro-batch-size=2",),
            ("framework=verl,micro-batch-size=3",),
            f"files are named as of 3 micro-batches, and the layout has 2: {WHICH}",
        ),
        (
            ("framework=verl,micro-batch-size=2",),
            ("framework=verl,micro-batch-size=1",),
            f"files are named as of 3 micro-batches, and the layout has 6: {WHICH}",
        ),
        (  # as many, of other samples
            ("framework=verl,max-tokens-per-gpu=100",),
            ("framework=verl,micro-batch-size=3",),
            f"files have other rows or layers than the layout says: {WHICH}; "
            "decoder-layers, moe-layer-freq and pp say which layers",
        ),
        (  # another framework, another option of it
            ("framework=slime,cp=2",),
            ("framework=verl,cp=2",),
            "--layout framework=slime",
        ),
        (
            ("framework=slime,cp=2",),
            ("framework=slime,cp=2,pad-multiplier=4",),
            "--layout pad-multiplier=128",
        ),
        (
            ("framework=verl,form=bshd",),
            ("framework=verl",),
            "--layout form=bshd",
        ),
    ],
)
def test_what_to_type(capsys, bare, dump, made, said, hint):
    """The keys that would explain what is wrong are named; typed, they do."""
    folder = bare(*made)
    found, lines = verified(capsys, folder, dump, *said, code=1)
    assert found["hint"] == hint
    assert lines["hint"] == [hint]
    assert "matches" not in lines or found["suspects"]
    typed = hint.partition("--layout ")[2]
    if typed and MORE not in typed:
        more = (*said, typed)
        verified(capsys, folder, dump, *more)


def test_wrong_rows_of_a_layout_that_is_whole(capsys, bare, dump):
    """Where rows alone are wrong and every key was said, no key is to blame."""
    folder = bare("cp=2")
    file = next(folder.glob("dp0-cp1*/*.safetensors"))
    arrays = load_file(file)
    arrays["layer.3"] = arrays["layer.3"].copy()
    arrays["layer.3"][2] = 31 - arrays["layer.3"][2]
    save_file(arrays, file)
    said = "framework=verl,cp=2,tp=1,pp=1,dp=1,micro-batch-size=6"
    found, lines = verified(capsys, folder, dump, said, code=1)
    assert (found["rows_wrong"], found["hint"], "hint" in lines) == (1, None, False)


def test_samples_by_their_keys(capsys, bare, dump):
    """A wrong row is of the sample's id in text and JSON; without one it is of its place."""
    folder = bare("micro-batch-size=1")
    for step in (1, 5):
        file = folder / f"dp0-cp0-tp0-pp0/mb{step:04d}.safetensors"
        arrays = load_file(file)
        arrays["layer.2"] = arrays["layer.2"].copy()
        arrays["layer.2"][3] = 31 - arrays["layer.2"][3]
        save_file(arrays, file)
    found, lines = verified(capsys, folder, dump, "micro-batch-size=1", code=1)
    names = [(e["sample"], e["sample_id"]) for e in found["examples"]]
    assert names == [(1, "7/1"), (5, None)]
    told = [line.partition(", sample ")[2].partition(" has")[0] for line in lines["row"]]
    assert told == ["7/1 position 3", "#5 position 3"]


def test_a_result_says_what_is_wrong(packed, bare, dump):
    """Its repr is what the text says, in a few lines."""
    path = packed("cp=2")
    right = repr(routectl.verify(path, dump))
    rows = sum(n - 1 for n in LENS) * len(LAYERS)
    assert right == (
        f"<VerifyAnswer of {path}: VERIFIED  {rows} rows, every one its token's route\n"
        " layout: verl, thd, cp 2; 1 micro-batch>"
    )
    path = bare("cp=2")
    wrong = repr(routectl.verify(path, dump, layout="framework=slime,cp=2"))
    assert wrong.startswith(f"<VerifyAnswer of {path}: WRONG  no row could be compared; 2 files")
    assert "\n layout: slime, thd, cp 2; 1 micro-batch  (assumed: one micro-batch a rank)" in wrong
    assert wrong.endswith("\n hint: --layout framework=verl>")
    assert len(wrong.splitlines()) == 5


def test_a_layout_is_a_line():
    """A Packing's repr has its sizes and options, and how many samples, not the length of each."""
    lens = [100] * 1000
    packing = routectl.Packing(lens, "slime", tp=2, pad_multiplier=4, pipeline=Pipeline(8, 2, 2))
    assert repr(packing) == (
        "<Packing slime, thd, tp 2, pad_multiplier 4, pp 2, vpp 2: 1,000 samples, 100,000 tokens>"
    )
    planned = routectl.layout(lens, dp=2, max_tokens_per_gpu=20_000)
    assert repr(planned) == (
        "<Packing verl, thd, dp 2: 1,000 samples, 100,000 tokens in 3 micro-batches>"
    )


def damaged(folder, change):
    """Rewrite every file of a folder with ``change`` applied to its tensors."""
    for file in folder.glob("*/*.safetensors"):
        arrays = {key: array.copy() for key, array in load_file(file).items()}
        for key in arrays:
            if key.startswith("layer."):
                arrays[key] = change(arrays[key], arrays["mask"])
        save_file(arrays, file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda ids, mask: ((ids * 7 + 3) % 32).astype(ids.dtype),
            ", in which experts have other ids, one for one: physical ids?",
        ),
        (lambda ids, mask: ids + 1, ", in which every id is the expert's +1"),
        (lambda ids, mask: ids * 0 + 5, ", which all hold [5, 5, 5, 5]"),
        (lambda ids, mask: np.random.default_rng(1).permuted(31 - ids, axis=1), ""),
    ],
    ids=["renamed", "one more", "filled", "nobody's"],
)
def test_what_wrong_rows_hold(capsys, bare, dump, change, told):
    """Ids of another space and rows that were never written are told where they are summed up."""
    folder, said = bare("cp=2"), "framework=verl,cp=2,micro-batch-size=6"
    damaged(folder, change)
    found, lines = verified(capsys, folder, dump, said, code=1)
    assert all(line.partition(" rows")[2] == told for line in lines["wrong"])
    assert ("matches" in lines) == (not told)
    for one in found["wrong"]:
        assert (one["filled"], one["renamed_by"]) == (
            [5, 5, 5, 5] if "hold" in told else None,
            1 if "+1" in told else None,
        )
        assert (one["renamed"] is not None) == ("id" in told)


def test_padding_that_is_no_expert(capsys, packed, dump, tmp_path):
    """Padding alone that holds ids beyond E is what the verdict says; files are said last."""
    folder = tmp_path / "r"
    shutil.copytree(packed("cp=2"), folder)
    damaged(folder, lambda ids, mask: np.where(mask[:, None], ids, 40).astype(ids.dtype))
    text = run(capsys, "verify", folder, "--against", dump).out
    count = json.loads((folder / "manifest.json").read_text("utf-8"))["padding_rows"] * len(LAYERS)
    told = f"WRONG  {count} padding rows with ids that are no expert, 2 files changed since written"
    assert text.splitlines()[0] == told


def test_a_file_is_counted_once(capsys, packed, dump, tmp_path):
    """A file of another shape, dtype and cu_seqlens is one that cannot be used, by its shape."""
    folder = tmp_path / "r"
    shutil.copytree(packed("cp=2", "micro-batch-size=2"), folder)
    rank = folder / "dp0-cp0-tp0-pp0"
    arrays = load_file(rank / "mb0001.safetensors")
    save_file(
        {**arrays, "layer.1": arrays["layer.1"].astype(np.int64)}, rank / "mb0000.safetensors"
    )
    found = document(capsys, "verify", folder, "--against", dump, code=1)
    assert (len(found["misfits"]), found["faults"], found["unusable_files"]) == (
        1,
        ["dp0-cp0-tp0-pp0/mb0000.safetensors: layer 1: got int64, expected int16"],
        1,
    )


def test_a_layout_that_most_rows_match(capsys, bare, dump):
    """Where few rows are wrong, the layout that was said is told to be it, once."""
    folder = bare("cp=2")

    def two(ids, mask):
        ids[:2] = 31 - ids[:2]
        return ids

    damaged(folder, two)
    found, lines = verified(capsys, folder, dump, "framework=verl,cp=2,micro-batch-size=6", code=1)
    assert len(found["suspects"]) > 1
    assert len(lines["matches"]) == 1
    assert lines["matches"][0].endswith(" % of rows match the layout as it is, no other more")
    assert found["hint"] is None


@pytest.mark.parametrize(
    ("options", "note", "drawn"),
    [
        (("--pp", 2), True, ["layers 0", "layers 1"]),
        (("--pp", 2, "--layout", "decoder-layers=4"), False, ["layers 0-1", "layers 2-3"]),
        ((), False, []),
    ],
)
def test_layers_that_nobody_said(capsys, options, note, drawn):
    """Of lengths alone, layers of stages that nobody said are told to be assumed."""
    done = run(capsys, "layout", "--lens", "9,17", *options)
    told = "routectl: 2 decoder layers are assumed, one of each stage and chunk: --layout "
    assert done.err == (f"{told}decoder-layers=N says how many\n" if note else "")
    lines = [line[10:] for line in done.out.splitlines() if line.startswith("pp")]
    assert lines == drawn
