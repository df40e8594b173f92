"""routectl verify, on tensors that are wrong on purpose.

Folders are written by pack and then damaged, or by the test itself as a trainer would. The tests
work out which token belongs in which row, and what is wrong, on their own.
"""

import json
import random
import re
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl import Packing, Rank, open_dump
from routectl.cli.main import main
from routectl.formats.native.container import write_native
from routectl.ops.pack.once import Landed, Once, keys_of
from routectl.ops.pack.suspects import Suspect, find_suspects
from routectl.ops.pack.verify import (
    RankIds,
    Tally,
    Verification,
    check_tensors,
    padding_kind,
)
from support.dumps import make_dump, make_routes, make_sample
from support.packs import as_settings, routes_like
from support.shell import DUMPS, complaint, document, on_terminal, run

EVEN = (40, 32, 16, 24, 8)  # every rule pads these to the same lengths, for cp 2 and tp 2
ODD = (41, 33, 18, 23, 9)
LAYERS = (1, 2, 3, 5, 6, 8)
EXPERTS, TOP_K = 32, 4


def write_batch(path, lens):
    """A native file of samples with N - 1 random routes each; their ids beside it."""
    rng = random.Random(3)
    routes = [routes_like(rng, n - 1, LAYERS, (TOP_K, EXPERTS, None)) for n in lens]
    samples = [
        make_sample(r, f"s{i}", [1] * (len(r.ids_TLK) - 1), [2, 2]) for i, r in enumerate(routes)
    ]
    dump = make_dump(samples, LAYERS, EXPERTS, TOP_K)
    write_native(dump, dump.meta, path, force=False)
    return SimpleNamespace(path=path, lens=lens, ids=[r.ids_TLK for r in routes])


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """A batch by its lengths."""
    folder = tmp_path_factory.mktemp("batches")
    return {lens: write_batch(folder / f"{lens[0]}.parquet", lens) for lens in (EVEN, ODD)}


@pytest.fixture
def batch(batches):
    """The samples of EVEN."""
    return batches[EVEN]


# Rows of a CP rank as (sample, position); a position beyond the sample is padding.


def zigzag(lens, cp, rank, multiple=1):
    """Of 2 x cp pieces of each sample the rank-th and the rank-th last."""
    rows = []
    for sample, tokens in enumerate(lens):
        size = -(-tokens // (2 * cp * multiple)) * multiple
        for piece in (rank, 2 * cp - 1 - rank):
            rows += [(sample, piece * size + n) for n in range(size)]
    return rows


def contiguous(lens, cp, rank):
    """Of samples padded to cp, end to end, the rank-th of cp equal parts."""
    stream = [
        (sample, n) for sample, tokens in enumerate(lens) for n in range(-(-tokens // cp) * cp)
    ]
    size = len(stream) // cp
    return stream[rank * size : (rank + 1) * size]


def slime(lens, cp, rank):
    """Zigzag, then padding to 128 rows."""
    rows = zigzag(lens, cp, rank)
    return rows + [(0, 10**6)] * (-len(rows) % 128)


def s_major(lens, cp, rank):
    """Samples of 40 places, a row of each in turn; of 2 x cp pieces of the places two."""
    places = [n for _, n in zigzag((40,), cp, rank)] if cp > 1 else range(40)
    return [(sample, n) for n in places for sample in range(len(lens))]


def b_major(lens, cp, rank):
    """The same places sample by sample."""
    return sorted(s_major(lens, cp, rank), key=lambda row: row[0])


def tensor(rows, batch, column, shift=0):
    """A layer's [R, K]: the routes of the token ``shift`` later, random experts where none is."""
    rng = random.Random(column)
    ids = []
    for sample, position in rows:
        there = 0 <= position + shift < batch.lens[sample] - 1 and 0 <= column < len(LAYERS)
        route = batch.ids[sample][position + shift, column].tolist() if there else None
        ids.append(route or rng.sample(range(EXPERTS), TOP_K))
    return np.array(ids, np.int64)


def write_tensors(folder, batch, layout, cp=2, shift=0, layer_shift=0):
    """The .npz files of a trainer that lays samples out like this; rows per rank are returned."""
    folder.mkdir()
    ranks = [layout(batch.lens, cp, rank) for rank in range(cp)]
    for rank, rows in enumerate(ranks):
        arrays = {
            f"layer.{layer}": tensor(rows, batch, column + layer_shift, shift)
            for column, layer in enumerate(LAYERS)
        }
        np.savez(folder / f"cp{rank}-tp0.npz", **arrays)
    return ranks


def once_slowly(folder, batch, cp=2):
    """Routes that no row holds, and rows in a route's place that hold one again, one by one."""
    absent = repeated = 0
    for column, layer in enumerate(LAYERS):
        wanted = Counter(tuple(sorted(row)) for ids in batch.ids for row in ids[:, column].tolist())
        held, anywhere = Counter(), Counter()
        for rank in range(cp):
            arrays = np.load(folder / f"cp{rank}-tp0.npz")
            rows = arrays[f"layer.{layer}"].tolist()
            table = zigzag(batch.lens, cp, rank)
            anywhere.update(tuple(sorted(row)) for row in rows)
            held.update(
                tuple(sorted(row))
                for row, (sample, n) in zip(rows, table, strict=True)
                if n < batch.lens[sample] - 1
            )
        absent += (wanted - anywhere).total()
        repeated += sum(n for row, n in (held - wanted).items() if row in wanted)
    return absent, repeated


def count_wrong(folder, batch, declared, cp=2):
    """Rows that ``declared`` calls routes, and those that hold other experts."""
    real = wrong = 0
    for rank in range(cp):
        arrays = np.load(folder / f"cp{rank}-tp0.npz")
        for column, layer in enumerate(LAYERS):
            for got, (sample, n) in zip(
                arrays[f"layer.{layer}"], declared(batch.lens, cp, rank), strict=True
            ):
                if n < batch.lens[sample] - 1:
                    real += 1
                    wrong += sorted(got.tolist()) != sorted(batch.ids[sample][n, column].tolist())
    return real, wrong


def verify(capsys, folder, batch, *options, code=0):
    """The document of verify, which must exit with ``code``."""
    found = document(
        capsys, "verify", folder, "--against", batch.path, *as_settings(*options), code=code
    )
    assert found["ok"] == (code == 0)
    return found


OTHER_LAYOUTS = {
    "contiguous for zigzag": (EVEN, contiguous, "verl", zigzag, "verl-contiguous"),
    "zigzag for contiguous": (EVEN, zigzag, "verl-contiguous", contiguous, "verl"),
    "contiguous for slime": (
        EVEN,
        contiguous,
        "slime --layout pad-multiplier=1",
        zigzag,
        "slime-allgather",
    ),
    "s-major for b-major": (
        EVEN,
        s_major,
        "verl --layout form=bshd-b-major --layout seq-len=40",
        b_major,
        "verl",
    ),
    "b-major for s-major": (EVEN, b_major, "verl --layout form=bshd", s_major, "verl"),
    "s-major of odd": (
        ODD[2:],
        s_major,
        "verl --layout form=bshd-b-major --layout seq-len=40",
        b_major,
        "verl",
    ),
}
FORMS = {s_major: "bshd", b_major: "bshd-b-major", zigzag: "thd", contiguous: "thd"}


class TestSuspects:
    """A folder in another layout than the declared one is wrong, and its own layout is named."""

    @pytest.mark.parametrize("cp", [2, 4])
    @pytest.mark.parametrize("name", OTHER_LAYOUTS)
    def test_another_layout(self, capsys, tmp_path, name, cp):
        """As many rows, other tokens in them: the true layout is named, the declared is not."""
        lens, layout, declared, told, true = OTHER_LAYOUTS[name]
        batch = write_batch(tmp_path / "batch.parquet", lens)
        write_tensors(tmp_path / "t", batch, layout, cp)
        options = ("--cp", str(cp), "--framework", *declared.split())
        found = verify(capsys, tmp_path / "t", batch, *options, code=1)
        assert (found["rows"], found["rows_wrong"]) == count_wrong(tmp_path / "t", batch, told, cp)
        assert found["rows_wrong"] > found["rows"] / 4
        assert found["misfits"] == found["absent_files"] == []
        suspects = found["suspects"]
        assert any(true in suspect["frameworks"] for suspect in suspects)
        for suspect in suspects:
            assert suspect["form"] == FORMS[layout]
            assert (suspect["shift"], suspect["layer_shift"], suspect["rate"]) == (0, 0, 1.0)
            if suspect["form"] == FORMS[told]:
                assert declared.split()[0] not in suspect["frameworks"]

    @pytest.mark.parametrize(
        ("layout", "true", "told", "declared"),
        [
            (zigzag, "verl", contiguous, "verl-contiguous"),
            (contiguous, "verl-contiguous", zigzag, "verl"),
            (slime, "slime", zigzag, "verl"),
            (zigzag, "verl", slime, "slime"),
        ],
    )
    def test_another_row_count(self, capsys, batches, tmp_path, layout, true, told, declared):
        """Another row count is a misfit with both numbers, and the true layout is named."""
        batch = batches[ODD]
        got, expected = (len(how(ODD, 2, 0)) for how in (layout, told))
        assert got != expected
        write_tensors(tmp_path / "t", batch, layout)
        options = ("--cp", "2", "--framework", declared)
        found = verify(capsys, tmp_path / "t", batch, *options, code=1)
        assert found["misfits"] == [
            f"cp{rank}-tp0.npz: layer 1: got ({got}, 4), expected ({expected}, 4)"
            for rank in range(2)
        ]
        assert (found["rows"], found["routes"]) == (0, sum(n - 1 for n in ODD) * 6)
        assert (found["routes_absent"], found["routes_repeated"]) == (0, 0)  # elsewhere, but there
        suspects = found["suspects"]
        assert any(true in suspect["frameworks"] for suspect in suspects)
        assert {(s["form"], s["shift"], s["layer_shift"], s["rate"]) for s in suspects} == {
            ("thd", 0, 0, 1.0)
        }
        if declared != "slime":  # which without its padding to 128 rows is the same
            assert all(declared not in suspect["frameworks"] for suspect in suspects)

    @pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
    @pytest.mark.parametrize("shift", [1, -1, 2, -2])
    def test_rows_of_another_token(self, capsys, batch, tmp_path, shift, layout):
        """Rows that hold a neighbour's route: its distance is named, with the layout."""
        layout, true = {
            "zigzag": (zigzag, "verl"),
            "contiguous": (contiguous, "verl-contiguous"),
        }[layout]
        write_tensors(tmp_path / "t", batch, layout, shift=shift)
        options = ("--cp", "2", "--framework", "verl")
        found = verify(capsys, tmp_path / "t", batch, *options, code=1)
        assert found["rows_wrong"] == count_wrong(tmp_path / "t", batch, zigzag)[1]
        suspects = found["suspects"]
        assert any(true in suspect["frameworks"] for suspect in suspects)
        assert {(s["form"], s["shift"], s["layer_shift"], s["rate"]) for s in suspects} == {
            ("thd", shift, 0, 1.0)
        }

    @pytest.mark.parametrize("shift", [1, -1, 2, -2])
    def test_another_layer(self, capsys, batch, tmp_path, shift):
        """Tensors that hold another MoE layer's routes: its distance in MoE layers is named."""
        write_tensors(tmp_path / "t", batch, zigzag, layer_shift=shift)
        options = ("--cp", "2", "--framework", "skyrl")
        found = verify(capsys, tmp_path / "t", batch, *options, code=1)
        assert found["rows_wrong"] == found["rows"] == sum(n - 1 for n in EVEN) * 6
        suspects = found["suspects"]
        assert any("skyrl" in suspect["frameworks"] for suspect in suspects)
        assert {(s["shift"], s["layer_shift"], s["rate"]) for s in suspects} == {(0, shift, 1.0)}

    def test_all_at_once(self, capsys, batch, tmp_path):
        """Another layout, token and layer at once."""
        write_tensors(tmp_path / "t", batch, contiguous, shift=-1, layer_shift=1)
        options = ("--cp", "2", "--framework", "verl")
        suspects = verify(capsys, tmp_path / "t", batch, *options, code=1)["suspects"]
        assert any("verl-contiguous" in suspect["frameworks"] for suspect in suspects)
        assert {(s["shift"], s["layer_shift"]) for s in suspects} == {(-1, 1)}

    def test_nothing_known(self, capsys, batch, tmp_path):
        """Tensors of no known layout have no suspect."""
        write_tensors(tmp_path / "t", batch, zigzag, shift=3)
        options = ("--cp", "2", "--framework", "verl")
        assert verify(capsys, tmp_path / "t", batch, *options, code=1)["suspects"] == []
        done = run(
            capsys, "verify", tmp_path / "t", "--against", batch.path, *as_settings(*options)
        )
        assert "\nmatches   no layout that is known\n" in done.out

    @pytest.mark.parametrize(
        ("written", "declared", "true"),
        [
            ("verl-contiguous", "verl", "verl-contiguous"),
            ("megatron", "prime-rl", "megatron"),
            ("slime", "verl", "slime"),
            ("relax-vl", "miles", "relax-vl"),
            ("nemo-rl --layout form=bshd", "nemo-rl", "nemo-rl"),
            ("verl --layout form=bshd-b-major", "verl --layout form=bshd", "verl"),
        ],
    )
    def test_what_pack_wrote(self, capsys, batch, tmp_path, written, declared, true):
        """Without its manifest, a folder of pack's is checked as declared; the truth is named."""
        folder, sizes = tmp_path / "t", ("--cp", "2", "--tp", "2")
        framework, *more = written.split()
        options = ("--framework", framework, *more, *sizes)
        assert run(capsys, "pack", batch.path, "--save", folder, *options).code == 0
        (folder / "manifest.json").unlink()
        assert verify(capsys, folder, batch, *options)["suspects"] == []
        declared = ("--framework", *declared.split(), *sizes)
        suspects = verify(capsys, folder, batch, *declared, code=1)["suspects"]
        wanted = (more or ["", "form=thd"])[1].removeprefix("form=")
        assert {suspect["form"] for suspect in suspects} == {wanted}
        assert any(true in suspect["frameworks"] for suspect in suspects)
        assert {(s["shift"], s["layer_shift"], s["rate"]) for s in suspects} == {(0, 0, 1.0)}


# Two micro-batches on 2 x 2 ranks of two stages, in verl's layout
LAYOUT = (
    "--framework",
    "verl",
    "--cp",
    "2",
    "--tp",
    "2",
    "--pp",
    "2",
    "--layout",
    "decoder-layers=10",
    "--max-tokens-per-gpu",
    "32",
)
STEPS = ([0, 2, 4], [1, 3])
STAGES = ((1, 2, 3), (5, 6, 8))


def place(name):
    """Micro-batch, cp, tp and pp of a rank file's path."""
    _, cp, tp, pp, mb = map(int, re.findall(r"\d+", name))
    return mb, cp, tp, pp


def rows_of(name):
    """Rows of a rank's file as (sample, position) of the dump."""
    mb, cp, tp, _ = place(name)
    rows = zigzag([EVEN[i] for i in STEPS[mb]], 2, cp, 2)
    size = len(rows) // 2
    return [(STEPS[mb][sample], n) for sample, n in rows[tp * size : (tp + 1) * size]]


def damage(folder, name, change):
    """Rewrite a rank's file with ``change`` applied to its arrays, a dict of copies."""
    arrays = {key: array.copy() for key, array in load_file(folder / name).items()}
    arrays = change(arrays) or arrays
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / name)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, batches):
    """The folder that pack writes of EVEN in LAYOUT."""
    folder = tmp_path_factory.mktemp("pristine") / "r"
    assert main(["pack", str(batches[EVEN].path), "--save", str(folder), *LAYOUT]) == 0
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    steps = manifest["layout"]["plan"]["micro_batches"]
    assert [step[0] for step in steps] == list(STEPS)
    return folder


@pytest.fixture(params=["manifest", "options"])
def folder(pristine, tmp_path, request):
    """A copy of it with how to verify it: by its manifest, or without one by options."""
    path = tmp_path / "r"
    shutil.copytree(pristine, path)
    if request.param == "manifest":
        return path, ()
    (path / "manifest.json").unlink()
    return path, LAYOUT


ROUTES = sum(n - 1 for n in EVEN) * len(LAYERS)
PADDING = len(EVEN) * len(LAYERS)  # the samples' last tokens, all zero
NAMES = {
    "first": "dp0-cp0-tp0-pp0/mb0000.safetensors",
    "later": "dp0-cp1-tp0-pp1/mb0001.safetensors",
    "split": "dp0-cp0-tp1-pp0/mb0001.safetensors",
}


class TestDamage:
    """One thing is wrong, and it is told exactly."""

    def test_none(self, capsys, batch, folder):
        """The folder as written is right."""
        path, options = folder
        found = verify(capsys, path, batch, *options)
        wanted = {
            "schema": "routectl.verify/1",
            "ok": True,
            "folder": str(path),
            "dump": str(batch.path),
            "files": 16,
            "absent_files": [],
            "misfits": [],
            "rows": ROUTES,
            "rows_wrong": 0,
            "rows_reordered": 0,
            "routes": ROUTES,
            "routes_absent": 0,
            "routes_repeated": 0,
            "rows_masked": 0,
            "rows_unmasked": 0,
            "padding_rows": {"zero": PADDING},
            "ep": 1,
            "ep_imbalance": 1.0,
            "ep_imbalance_padding": 1.0,
            "examples": [],
            "suspects": [],
        }
        assert {key: found[key] for key in wanted} == wanted

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(("row", "slot"), [(0, 0), (5, 3), (8, 1)])
    def test_one_id(self, capsys, batch, folder, name, row, slot):
        """One id is another expert's: the row is named, with its token and both routes."""
        path, options = folder
        name = NAMES[name]
        layer = STAGES[place(name)[3]][1]
        sample, position = rows_of(name)[row]
        right = batch.ids[sample][position, LAYERS.index(layer)].tolist()
        other = min(set(range(EXPERTS)) - set(right))
        wrong = [other if k == slot else expert for k, expert in enumerate(right)]
        damage(path, name, lambda arrays: arrays[f"layer.{layer}"].__setitem__((row, slot), other))
        found = verify(capsys, path, batch, *options, code=1)
        assert found["examples"] == [
            {
                "file": name,
                "layer": layer,
                "row": row,
                "sample": sample,
                "sample_id": f"s{sample}",
                "position": position,
                "got": wrong,
                "expected": right,
            },
        ]
        assert (found["rows_wrong"], found["rows_reordered"]) == (1, 0)
        assert (found["routes_absent"], found["rows_masked"], found["rows_unmasked"]) == (1, 0, 0)
        assert any("verl" in suspect["frameworks"] for suspect in found["suspects"])
        assert {(s["shift"], s["layer_shift"]) for s in found["suspects"]} == {(0, 0)}

    def test_a_repeated_row(self, capsys, batch, folder):
        """A row that holds its neighbour's route is wrong, the neighbour is not."""
        path, options = folder
        name = NAMES["later"]
        rows = rows_of(name)

        def change(arrays):
            arrays["layer.5"][3] = arrays["layer.5"][2]

        damage(path, name, change)
        found = verify(capsys, path, batch, *options, code=1)
        assert found["rows_wrong"] == 1
        (example,) = found["examples"]
        held = [batch.ids[sample][position, 3].tolist() for sample, position in rows[2:4]]
        assert (example["row"], example["got"], example["expected"]) == (3, *held)
        assert (example["sample"], example["position"]) == rows[3]

    def test_slots_in_another_order(self, capsys, batch, folder):
        """The same experts in other slots are counted, and right."""
        path, options = folder
        rng, moved = np.random.default_rng(5), 0

        def change(arrays):
            nonlocal moved
            for key, ids in arrays.items():
                if key.startswith("layer."):
                    mixed = rng.permuted(ids, axis=1)
                    moved += int((mixed != ids).any(axis=1)[arrays["mask"]].sum())
                    arrays[key] = mixed

        for name in NAMES.values():
            damage(path, name, change)
        found = verify(capsys, path, batch, *options)
        assert found["rows_reordered"] == moved > 100
        assert (found["rows_wrong"], found["examples"], found["suspects"]) == (0, [], [])
        done = run(capsys, "verify", path, "--against", batch.path, *as_settings(*options))
        assert done.code == 0
        assert done.out.startswith("VERIFIED")
        assert f"\norder     {moved} rows in another slot order\n" in done.out

    def test_where_and_by_how_much(self, capsys, batch, folder):
        """A layer that is a row late in one file, beside a file that is not there: the headline has
        both, and a line the file, the layer, how many rows, and the shift.
        """
        path, options = folder
        name, gone = NAMES["later"], NAMES["first"]
        (path / gone).unlink()
        rows = rows_of(name)

        def change(arrays):
            arrays["layer.5"] = np.roll(arrays["layer.5"], 1, axis=0)

        damage(path, name, change)
        owed = sum(n < EVEN[sample] - 1 for sample, n in rows)
        entry = {"file": name, "layer": 5, "rows": owed, "rows_wrong": owed, "shift": -1}
        entry |= dict.fromkeys(("holds", "filled", "renamed", "renamed_by"))
        found = verify(capsys, path, batch, *options, code=1)
        (wrong,) = found["wrong"]
        assert wrong == {**entry, "rows_shifted": owed - 2}  # but the first of each zigzag piece
        said = run(capsys, "verify", path, "--against", batch.path, *as_settings(*options)).out
        assert said.startswith(
            f"WRONG  {owed} of {found['rows']} rows wrong in 1 file, layer 5; 1 file not there"
        )
        told = "shifted by one row: they hold the routes of the token before"
        assert f"\nwrong     {name}: layer 5: {owed} of {owed} rows, {told}\n" in said
        assert "no layout that is known" not in said

    def test_at_most_five_examples(self, capsys, batch, folder):
        """All wrong rows are counted, the first five are shown, layer by layer."""
        path, options = folder
        name = NAMES["first"]

        def change(arrays):
            for layer in (1, 2, 3):
                arrays[f"layer.{layer}"][[0, 2, 4]] = 0

        damage(path, name, change)
        found = verify(capsys, path, batch, *options, code=1)
        assert found["rows_wrong"] == 9
        shown = [(example["layer"], example["row"]) for example in found["examples"]]
        assert shown == [(1, 0), (1, 2), (1, 4), (2, 0), (2, 2)]
        assert {example["file"] for example in found["examples"]} == {name}

    @pytest.mark.parametrize(
        ("held", "kind", "code"),
        [
            ([0, 1, 2, 3], "arange", 0),
            ([3, 2, 1, 0], "distinct", 0),
            ([5, 5, 6, 7], "repeated", 0),
            ([-1] * 4, "minus-one", 0),
            ([-1, 2, 3, 4], "outside", 1),
            ([1, 2, 3, 32], "outside", 1),
            ([-2] * 4, "outside", 1),
        ],
    )
    def test_padding(self, capsys, batch, folder, held, kind, code):
        """Padding is counted by what it holds; an id that no expert has is wrong."""
        path, options = folder
        name = next(
            n for n in sorted(path.rglob("*.safetensors")) if not load_file(n)["mask"].all()
        )
        row = int(np.flatnonzero(~load_file(name)["mask"])[0])
        layer = STAGES[place(str(name.relative_to(path)))[3]][0]
        damage(path, name, lambda arrays: arrays[f"layer.{layer}"].__setitem__(row, held))
        found = verify(capsys, path, batch, *options, code=code)
        assert found["padding_rows"] == {kind: 1, "zero": PADDING - 1}
        assert (found["rows_wrong"], found["suspects"]) == (0, [])

    def test_mask(self, capsys, batch, folder):
        """Routes that the mask calls padding, and padding that it calls real, in every layer."""
        path, options = folder
        masks = {n: load_file(n)["mask"] for n in sorted(path.rglob("*-pp1/*.safetensors"))}
        real = next(n for n, mask in masks.items() if mask.sum() >= 2)
        filler = next(n for n, mask in masks.items() if not mask.all())
        rows = np.flatnonzero(masks[real])[:2]
        damage(path, real, lambda arrays: arrays["mask"].__setitem__(rows, False))
        row = np.flatnonzero(~masks[filler])[0]
        damage(path, filler, lambda arrays: arrays["mask"].__setitem__(row, True))
        found = verify(capsys, path, batch, *options, code=1)
        assert (found["rows_masked"], found["rows_unmasked"]) == (2 * 3, 1 * 3)
        assert (found["rows_wrong"], found["routes_absent"], found["suspects"]) == (0, 0, [])
        done = run(capsys, "verify", path, "--against", batch.path, *as_settings(*options))
        wanted = "\nmask      6 routes marked as padding, 3 padding rows marked as real\n"
        assert wanted in done.out

    def test_no_mask(self, capsys, batch, folder):
        """Files without a mask and cu_seqlens are not checked for them, but where pack wrote them:
        by its manifest each that lacks one is named, and wrong.
        """
        path, options = folder
        lost = ("mask", "cu_seqlens", "cu_seqlens_padded")
        for name in NAMES.values():
            damage(path, name, lambda arrays: {k: a for k, a in arrays.items() if k not in lost})
        found = verify(capsys, path, batch, *options, code=int(not options))
        told = [
            f"{name}: no {key} in it, which pack writes" for name in NAMES.values() for key in lost
        ]
        assert (found["rows"], found["rows_wrong"], found["routes_absent"]) == (ROUTES, 0, 0)
        assert sorted(found["faults"]) == ([] if options else sorted(told))

    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_that_is_not_there(self, capsys, batch, folder, name):
        """A rank's file is missing: it is named, and its routes are on no rank."""
        path, options = folder
        name = NAMES[name]
        lost = sum(n < EVEN[sample] - 1 for sample, n in rows_of(name)) * 3
        (path / name).unlink()
        found = verify(capsys, path, batch, *options, code=1)
        assert (found["absent_files"], found["files"]) == ([name], 15)
        assert (found["routes_absent"], found["rows"]) == (lost, ROUTES - lost)
        assert (found["rows_wrong"], found["suspects"]) == (0, [])

    def test_no_files(self, capsys, batch, tmp_path):
        """A folder without tensors, and one that is not there, are refused."""
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "notes.txt").write_text("none", "utf-8")
        for name, said in (("t", "no .safetensors and no .npz in it"), ("x", "not a folder")):
            args = ("verify", tmp_path / name, "--against", batch.path)
            assert complaint(capsys, *args) == f"routectl: {tmp_path / name}: {said}\n"

    @pytest.mark.parametrize(
        ("change", "said", "lost"),
        [
            (
                lambda arrays: {k: a[1:] if k == "layer.5" else a for k, a in arrays.items()},
                "layer 5: got (13, 4), expected (14, 4)",
                1,
            ),
            (
                lambda arrays: {k: a for k, a in arrays.items() if k != "layer.6"},
                "got layers [5, 8], expected [5, 6, 8]",
                14,
            ),
            (
                lambda arrays: {**arrays, "layer.7": arrays["layer.6"]},
                "got layers [5, 6, 7, 8], expected [5, 6, 8]",
                0,
            ),
            (
                lambda arrays: {**arrays, "mask": arrays["mask"][1:]},
                "mask: got bool (13,), expected bool (14,)",
                0,
            ),
            (
                lambda arrays: {**arrays, "mask": arrays["mask"].astype(np.uint8)},
                "mask: got uint8 (14,), expected bool (14,)",
                0,
            ),
        ],
        ids=["rows", "no layer", "a layer more", "mask rows", "mask dtype"],
    )
    def test_another_shape(self, capsys, batch, folder, change, said, lost):
        """A file of another shape is named with both numbers; the routes in it are there."""
        path, options = folder
        name = NAMES["later"]
        assert sum(n < EVEN[sample] - 1 for sample, n in rows_of(name)) == 14
        damage(path, name, change)
        found = verify(capsys, path, batch, *options, code=1)
        assert found["misfits"] == [f"{name}: {said}"]
        assert (found["routes_absent"], found["rows_wrong"]) == (lost, 0)
        done = run(capsys, "verify", path, "--against", batch.path, *as_settings(*options))
        assert f"\nfile      {name}: {said}\n" in done.out

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda arrays: {**arrays, "layer.5": arrays["layer.5"].astype(np.float32)},
                "layer.5: got float32 (14, 4), expected integers [rows, top_k]",
            ),
            (
                lambda arrays: {**arrays, "layer.6": arrays["layer.6"].ravel()},
                "layer.6: got int16 (56,), expected integers [rows, top_k]",
            ),
            (lambda arrays: {"cu_seqlens": arrays["cu_seqlens"]}, "no tensor named layer.N in it"),
        ],
    )
    def test_no_tensors_of_ids(self, capsys, batch, folder, change, said):
        """A file whose arrays are no ids at all is named, as one that cannot be used."""
        path, options = folder
        damage(path, NAMES["later"], change)
        found = verify(capsys, path, batch, *options, code=1)
        assert found["faults"] == [f"{NAMES['later']}: {said}"]
        assert (found["unusable_files"], found["rows_wrong"]) == (1, 0)

    def test_a_cut_file(self, capsys, batch, folder):
        """A file that ends early is named, the others are judged; where all do, it is trouble."""
        path, options = folder
        name = NAMES["split"]
        lost = sum(n < EVEN[sample] - 1 for sample, n in rows_of(name)) * 3
        (path / name).write_bytes((path / name).read_bytes()[:-40])
        damage(path, NAMES["later"], lambda arrays: arrays["layer.6"].fill(0))
        found = verify(capsys, path, batch, *options, code=1)
        assert [line.split(": ")[:2] for line in found["faults"]] == [
            [name, "damaged .safetensors"]
        ]
        assert (found["files"], found["unusable_files"], found["absent_files"]) == (15, 1, [])
        assert found["rows"] == ROUTES - lost
        assert {one["file"] for one in found["wrong"]} == {NAMES["later"]}
        for file in path.rglob("mb*.safetensors"):
            file.write_bytes(file.read_bytes()[:-40])
        args = ("verify", path, "--against", batch.path, *as_settings(*options))
        assert "damaged .safetensors" in complaint(capsys, *args)

    def test_other_ranks_only(self, capsys, batch, folder):
        """Damage on a rank is not found when other ranks are asked for."""
        path, options = folder
        damage(path, NAMES["later"], lambda arrays: arrays["layer.6"].fill(0))
        (path / NAMES["first"]).unlink()
        args = (path, batch, *options, "--rank")
        assert verify(capsys, *args, "cp=0,tp=1")["rows_wrong"] == 0
        assert verify(capsys, *args, "cp=1", code=1)["rows_wrong"] > 0
        assert verify(capsys, *args, "tp=0", code=1)["absent_files"] == [NAMES["first"]]


class TestAnotherDump:
    """Tensors against a dump that they were not made from."""

    def test_other_routes(self, capsys, batch, pristine, tmp_path):
        """Routes of the same shape that are others are all wrong, and nothing is suspected."""
        rng = random.Random(99)
        samples = [
            make_sample(
                routes_like(rng, n - 1, LAYERS, (TOP_K, EXPERTS, None)), None, [1] * (n - 2), [2, 2]
            )
            for n in EVEN
        ]
        dump = make_dump(samples, LAYERS, EXPERTS, TOP_K)
        write_native(dump, dump.meta, tmp_path / "other.parquet", force=False)
        other = SimpleNamespace(path=tmp_path / "other.parquet")
        found = verify(capsys, pristine, other, code=1)
        assert found["rows_wrong"] > 0.99 * ROUTES
        assert found["suspects"] == []

    def test_other_samples(self, capsys, batches, pristine):
        """A dump of another number of samples or layers is refused with both."""
        args = ("verify", pristine, "--against")
        said = complaint(capsys, *args, DUMPS["native"])
        assert f"has 4 MoE layers, {pristine}/manifest.json 6" in said
        said = complaint(capsys, *args, DUMPS["trainer"])
        assert f"has 96 samples, {pristine}/manifest.json 5" in said

    def test_no_dump(self, capsys, pristine):
        """verify needs a dump to compare with."""
        assert "Missing option '--against'" in complaint(capsys, "verify", pristine)


class TestTrainersOwn:
    """Folders of .npz and .safetensors that a trainer dumped."""

    NAMES = (
        "cp{}-tp0.npz",
        "cp{}.npz",
        "rank_cp{}_tp0_mb0.npz",
        "step/pp0/cp{}/mb000000.npz",
        "dp0/tp0-cp{}.safetensors",
    )

    def folder(self, tmp_path, batch, name):
        """A folder in skyrl's layout with files of such names, and what a trainer leaves there."""
        write_tensors(tmp_path / "npz", batch, zigzag)
        for rank in range(2):
            path = tmp_path / "t" / name.format(rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = dict(np.load(tmp_path / "npz" / f"cp{rank}-tp0.npz"))
            arrays["step"] = np.array([7])
            np.savez(path, **arrays) if path.suffix == ".npz" else save_file(arrays, path)
        (tmp_path / "t" / "config.json").write_text("{}", "utf-8")
        return tmp_path / "t"

    @pytest.mark.parametrize("name", NAMES)
    def test_names(self, capsys, batch, tmp_path, name):
        """The rank is read off the path; after damage the row is named."""
        folder = self.folder(tmp_path, batch, name)
        options = ("--framework", "skyrl", "--cp", "2")
        found = verify(capsys, folder, batch, *options)
        assert (found["files"], found["rows"], found["routes"]) == (2, ROUTES, ROUTES)
        assert found["rows_masked"] == found["rows_unmasked"] == 0
        assert sum(found["padding_rows"].values()) == PADDING
        path = folder / name.format(1)
        arrays = dict(np.load(path)) if path.suffix == ".npz" else load_file(path)
        arrays["layer.5"][4, 1] = 31 - arrays["layer.5"][4, 1]
        np.savez(path, **arrays) if path.suffix == ".npz" else save_file(arrays, path)
        found = verify(capsys, folder, batch, *options, code=1)
        (example,) = found["examples"]
        assert "cp1" in example["file"]
        sample, position = zigzag(EVEN, 2, 1)[4]
        assert [example[key] for key in ("layer", "row", "sample", "position", "got")] == [
            5,
            4,
            sample,
            position,
            arrays["layer.5"][4].tolist(),
        ]

    def test_ranks_swapped(self, capsys, batch, tmp_path):
        """Files of two ranks under each other's names are wrong, and no layout explains it."""
        folder = self.folder(tmp_path, batch, "cp{}.npz")
        (folder / "cp0.npz").rename(folder / "old")
        (folder / "cp1.npz").rename(folder / "cp0.npz")
        (folder / "old").rename(folder / "cp1.npz")
        options = ("--framework", "skyrl", "--cp", "2")
        found = verify(capsys, folder, batch, *options, code=1)
        assert found["rows_wrong"] > 0.99 * ROUTES
        assert found["suspects"] == []

    def test_two_files_of_a_rank(self, capsys, batch, tmp_path):
        """Two files of one rank and micro-batch are refused with both names."""
        folder = self.folder(tmp_path, batch, "cp{}.npz")
        shutil.copy(folder / "cp1.npz", folder / "tp0-cp1.npz")
        args = ("verify", folder, "--against", batch.path, "--layout", "cp=2")
        said = complaint(capsys, *args)
        assert f"{folder}/tp0-cp1.npz: the same rank and micro-batch as {folder}/cp1.npz" in said
        assert "hint: expected a folder with the tensors of one run alone" in said

    def test_other_dtypes(self, capsys, batch, tmp_path):
        """Any integer dtype will do."""
        folder = self.folder(tmp_path, batch, "cp{}.npz")
        for rank, dtype in enumerate(("uint8", "int32")):
            arrays = dict(np.load(folder / f"cp{rank}.npz"))
            np.savez(folder / f"cp{rank}.npz", **{k: a.astype(dtype) for k, a in arrays.items()})
        assert verify(capsys, folder, batch, "--framework", "skyrl", "--cp", "2")["rows"] == ROUTES


def busiest(loads, ep):
    """Over layers, the greatest load of a rank of E / ep experts as a multiple of the mean."""
    worst = None
    for load in loads:
        ranks = [int(part.sum()) for part in np.split(load, ep)]
        if sum(ranks):
            worst = max(worst or 0, max(ranks) / (sum(ranks) / ep))
    return worst


class TestLoads:
    """How evenly the tensors load the expert-parallel ranks."""

    @pytest.mark.parametrize("padding", ["zero", "arange", "spread", "minus-one"])
    @pytest.mark.parametrize("ep", [1, 4, 8, 32])
    def test_loads(self, capsys, batches, tmp_path, padding, ep):
        """They are what numpy counts in the files, of real rows and of padding apart."""
        folder, batch = tmp_path / "r", batches[ODD]
        sizes = (
            "--framework slime --tp 2 --cp 2 --pp 2 --layout pad-multiplier=32,decoder-layers=10"
        )
        options = (*sizes.split(), "--padding", padding)
        assert run(capsys, "pack", batch.path, "--save", folder, *options).code == 0
        real = {layer: np.zeros(EXPERTS, np.int64) for layer in LAYERS}
        filler = {layer: np.zeros(EXPERTS, np.int64) for layer in LAYERS}
        for path in folder.rglob("*.safetensors"):
            arrays = load_file(path)
            for layer in LAYERS:
                ids = arrays.get(f"layer.{layer}", np.zeros((len(arrays["mask"]), 4), np.int32))
                if f"layer.{layer}" in arrays:
                    padded = ids[~arrays["mask"]]
                    real[layer] += np.bincount(ids[arrays["mask"]].ravel(), minlength=EXPERTS)
                    filler[layer] += np.bincount(padded[padded >= 0], minlength=EXPERTS)
        assert sum(load.sum() for load in real.values()) == sum(n - 1 for n in ODD) * 6 * 4
        found = verify(capsys, folder, batch, "--ep", str(ep))
        assert found["ep"] == ep
        assert found["ep_imbalance"] == pytest.approx(busiest(real.values(), ep))
        alone = busiest(filler.values(), ep)
        assert found["ep_imbalance_padding"] == (alone if alone is None else pytest.approx(alone))
        assert (alone is None) == (padding == "minus-one")
        if padding == "zero":
            assert alone == ep
        done = run(capsys, "verify", folder, "--against", batch.path, "--layout", f"ep={ep}")
        if ep == 1:
            assert "\nload " not in done.out
        else:
            line = f"\nload      busiest of {ep} EP ranks, worst layer: "
            more = "" if alone is None else f", padding alone {alone:.3f} x"
            assert f"{line}{found['ep_imbalance']:.3f} x mean{more}\n" in done.out

    def test_spread_is_even(self, capsys, batches, tmp_path):
        """Padding that was spread over EP ranks loads them within one id a tensor."""
        folder, batch = tmp_path / "r", batches[ODD]
        options = ("--framework", "slime", "--ep", "4")
        assert run(capsys, "pack", batch.path, "--save", folder, *options).code == 0
        found = verify(capsys, folder, batch)  # 4 ranks, from the manifest
        assert found["ep"] == 4
        assert found["ep_imbalance_padding"] == 1.0
        assert verify(capsys, folder, batch, "--ep", "2")["ep"] == 2

    def test_ranks_that_do_not_divide(self, capsys, batch, pristine):
        """Without a whole number of experts a rank there is no load."""
        found = verify(capsys, pristine, batch, "--ep", "5")
        assert (found["ep"], found["ep_imbalance"], found["ep_imbalance_padding"]) == (
            5,
            None,
            None,
        )


class TestReport:
    """The report for people."""

    def reports(self, capsys, monkeypatch, *args):
        """What is printed in a pipe and on a terminal of 60 columns, and the exit code."""
        done = run(capsys, *args)
        assert done.err == ""
        code, page = on_terminal(monkeypatch, 60, *args)
        assert code == done.code
        plain = re.sub(r"\x1b\[[0-9;]*m", "", page)
        assert max(map(len, plain.splitlines())) <= 60
        assert "".join(plain.split()) == "".join(done.out.split())
        return done.out, page, done.code

    def test_wrong(self, capsys, monkeypatch, batch, tmp_path):
        """WRONG first, then examples and the layout that matches; nothing is cut on a terminal."""
        write_tensors(tmp_path / "t", batch, contiguous, shift=1, layer_shift=-1)
        options = ("--framework", "verl", "--cp", "2")
        args = ("verify", tmp_path / "t", "--against", batch.path, *as_settings(*options))
        piped, shown, code = self.reports(capsys, monkeypatch, *args)
        assert code == 1
        _, wrong = count_wrong(tmp_path / "t", batch, zigzag)
        lines = piped.splitlines()
        where = "in 2 files, layers 1-3, 5-6, 8"
        assert lines[0] == f"WRONG  {wrong} of {ROUTES} rows wrong {where}"
        assert f"tensors   {tmp_path}/t  (2 files)" in lines
        assert f"dump      {batch.path}" in lines
        found = verify(capsys, tmp_path / "t", batch, *options, code=1)
        absent, again = found["routes_absent"], found["routes_repeated"]
        assert (absent, again) == once_slowly(tmp_path / "t", batch)
        assert f"once      {ROUTES} routes: {absent} on no rank, {again} more than once" in lines
        for example in found["examples"]:
            assert (
                f"row       {example['file']} layer {example['layer']} row {example['row']}: got "
                f"{example['got']}, sample s{example['sample']} position {example['position']} has "
                f"{example['expected']}"
            ) in lines
        matches = [line for line in lines if line.startswith("matches ")]
        assert len(matches) == len(found["suspects"]) >= 1
        assert matches[0].startswith("matches   100.00 % of rows match ")
        assert any("verl-contiguous" in line for line in matches)
        assert all(
            line.endswith("(thd), rows of the token +1 away, of the MoE layer -1 away")
            for line in matches
        )
        assert "\x1b" not in piped
        assert "\x1b[" in shown

    def test_written(self, capsys, batch, tmp_path):
        """A judge: -o writes each form, --exit-zero keeps a wrong folder from failing a script."""
        write_tensors(tmp_path / "t", batch, contiguous)
        args = ("verify", tmp_path / "t", "--against", batch.path, "--layout", "cp=2")
        found = document(capsys, *args, code=1)
        assert found["verdict"] == {"exit_code": 1}
        assert document(capsys, *args, "--exit-zero") == found
        for name in ("x.json", "x.html", "x.txt", "x.md", "x.csv"):
            done = run(capsys, *args, "-o", tmp_path / name)
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(f"routectl: wrote {tmp_path / name}: WRONG")
        assert json.loads((tmp_path / "x.json").read_text("utf-8")) == found
        assert (tmp_path / "x.txt").read_text("utf-8") == run(capsys, *args).out
        assert run(capsys, "report", tmp_path / "x.json").out == run(capsys, *args).out
        assert ".json, .html, .txt, .md, .csv" in complaint(capsys, *args, "-o", tmp_path / "x.pt")
        short = run(capsys, *args, "--summary").out.splitlines()
        assert (short[0].split()[0], len(short) <= 10) == ("WRONG", True)

    def test_right(self, capsys, monkeypatch, batch, pristine):
        """VERIFIED first, in a pipe as on a terminal."""
        args = ("verify", pristine, "--against", batch.path, "--layout", "ep=8")
        piped, _, code = self.reports(capsys, monkeypatch, *args)
        assert code == 0
        assert piped.startswith(f"VERIFIED  {ROUTES} rows, every one its token's route\n")
        assert f"\npadding   {PADDING} zero\n" in piped
        assert "matches" not in piped

    def test_some_files_absent(self, capsys, monkeypatch, batch, pristine, tmp_path):
        """Three files that are not there are named, and how many more there are."""
        shutil.copytree(pristine, tmp_path / "r")
        names = sorted(str(path.relative_to(pristine)) for path in pristine.rglob("*-pp0/*"))
        for name in names:
            (tmp_path / "r" / name).unlink()
        args = ("verify", tmp_path / "r", "--against", batch.path)
        piped, _, code = self.reports(capsys, monkeypatch, *args)
        assert code == 1
        assert piped.startswith("WRONG  ")
        assert piped.count(": not there") == 3
        assert f": not there (and {len(names) - 3} more)\n" in piped
        assert f"once      {ROUTES} routes: {ROUTES // 2} on no rank, 0 more than once" in piped

    def test_nothing_to_compare(self, capsys, monkeypatch, batch, tmp_path):
        """Where no file fits, it says that no row could be compared."""
        write_tensors(tmp_path / "t", batch, zigzag)
        options = ("--framework", "slime", "--cp", "2")
        args = ("verify", tmp_path / "t", "--against", batch.path, *as_settings(*options))
        piped, _, code = self.reports(capsys, monkeypatch, *args)
        assert code == 1
        assert piped.startswith("WRONG  no row could be compared; 2 files that cannot be used\n")


def test_masks_of_each_layer(capsys, tmp_path):
    """Where rows are missing in some layers only, each layer's mask is checked."""
    routes = make_routes([[[0, 1], [2, 3], [4, 5]]] * 5, missing=[(1, 0), (3, 2)])
    dump = make_dump([make_sample(routes, "a", [1] * 3, [2] * 3)])
    write_native(dump, dump.meta, tmp_path / "dump.parquet", force=False)
    batch = SimpleNamespace(path=tmp_path / "dump.parquet")
    options = ("--save", tmp_path / "r", "--allow-missing")
    assert run(capsys, "pack", batch.path, *options).code == 0
    name = "dp0-cp0-tp0-pp0/mb0000.safetensors"
    mask = load_file(tmp_path / "r" / name)["mask"]
    assert np.argwhere(~mask).tolist() == [[0, 1], [0, 5], [1, 5], [2, 3], [2, 5]]
    found = verify(capsys, tmp_path / "r", batch)
    assert (found["rows"], found["routes"], found["padding_rows"]) == (13, 13, {"zero": 5})

    def change(arrays):
        arrays["mask"][0, 1] = True
        arrays["mask"][1, :3] = False

    damage(tmp_path / "r", name, change)
    found = verify(capsys, tmp_path / "r", batch, code=1)
    assert (found["rows_masked"], found["rows_unmasked"]) == (3, 1)
    damage(tmp_path / "r", name, lambda arrays: {**arrays, "mask": mask[0]})
    found = verify(capsys, tmp_path / "r", batch, code=1)
    assert (found["rows_masked"], found["rows_unmasked"]) == (2, 1)


def kinds_slowly(rows, experts):
    """What filler rows hold, by the words of docs/replay.md, one row at a time."""
    found = Counter()
    for row in rows:
        if set(row) == {-1}:
            found["minus-one"] += 1
        elif min(row) < 0 or max(row) >= experts:
            found["outside"] += 1
        elif set(row) == {0}:
            found["zero"] += 1
        elif row == list(range(len(row))):
            found["arange"] += 1
        else:
            found["distinct" if len(set(row)) == len(row) else "repeated"] += 1
    return found


class TestUnits:
    """What the command line does not reach."""

    @pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint16"])
    @pytest.mark.parametrize("top_k", [1, 2, 3])
    def test_padding_kind(self, dtype, top_k):
        """Every row of small ids is of the kind that the slow words say."""
        low = 0 if dtype.startswith("u") else -2
        rows = np.stack(np.meshgrid(*[range(low, 5)] * top_k), -1).reshape(-1, top_k)
        found = padding_kind(rows.astype(dtype), 4)
        assert found == kinds_slowly(rows.tolist(), 4)
        assert sum(found.values()) == len(rows)
        assert padding_kind(rows[:0].astype(dtype), 4) == Counter()

    def test_landed(self):
        """Routes below a position, in some layers: those on no rank, and those on ranks again."""
        routes = make_routes(
            [[[0, t]] * 3 for t in (1, 2, 3, 4)], start=2, missing=[(1, 0), (2, 1)]
        )
        column = routes.ids_TLK[:, 0]
        cases = [  # rows that stray, in layer 1; of the routes below a position, in these layers
            ([], 6, [0, 1, 2], Landed(10, 10, 0)),
            ([], 4, [0, 1, 2], Landed(5, 5, 0)),
            ([], 2, [0, 1, 2], Landed(0, 0, 0)),
            ([[1, 0], [0, 4]], 6, [0], Landed(3, 1, 0)),
            ([[1, 0], [0, 1], [0, 4]], 6, [0], Landed(3, 1, 1)),
            ([[0, 2], [5, 5], [-1, -1]], 6, [0], Landed(3, 3, 0)),  # what no token has
            ([[0, 4]], 5, [0], Landed(2, 2, 1)),  # a route that the ranks should not have
        ]
        for strays, stop, columns, expected in cases:
            once = Once()
            once.stray(0, np.array(strays, np.int64).reshape(-1, 2))
            once.owe(0, routes, stop, columns)
            assert once.landed([None, routes]) == expected
        once = Once()
        once.stray(0, np.array([[0, 4], [0, 4], [0, 1]]), spare=True)
        once.stray(0, np.array([[1, 0]]))
        once.owe(0, routes, 6, [0])
        assert once.landed([routes]) == Landed(3, 1, 0)
        once = Once()
        there = np.array([True, False, True, True])
        right = np.array([True, False, True])
        assert not once.meet(7, routes, (slice(0, 4), 0), there, right).any()
        once.stray(0, column[2:3])
        once.owe(7, routes, 6, [0])
        assert once.landed([routes]) == Landed(3, 0, 0)
        assert once.meet(7, routes, (slice(0, 4), 0), there, right).tolist() == right.tolist()

    def test_rows_are_alike_in_any_order_of_slots(self):
        """Two rows have one key exactly when their sets are one; negative ids have none."""
        rows = np.array([[3, 1], [1, 3], [0, 259], [259, 0], [1, 2], [-1, -1], [70000, 1]])
        keys = keys_of(rows).tolist()
        assert [keys.index(key) for key in keys] == [0, 0, 2, 2, 4]
        assert len(keys_of(rows[:0])) == 0

    @pytest.mark.parametrize(
        ("landed", "absent", "misfits", "counts", "ok"),
        [
            (Landed(5, 0, 0), (), (), {}, True),
            (None, (), (), {}, True),
            (Landed(5, 1, 0), (), (), {}, False),
            (Landed(5, 0, 1), (), (), {}, False),
            (Landed(5, 0, 0), ("x",), (), {}, False),
            (Landed(5, 0, 0), (), ("x",), {}, False),
            (None, (), (), {"rows": 0}, True),
            (None, (), (), {"wrong": 1}, False),
            (None, (), (), {"masked": 1}, False),
            (None, (), (), {"unmasked": 1}, False),
            (None, (), (), {"made_up": 1}, False),
            (None, (), (), {"missing": 1}, True),
            (None, (), (), {"reordered": 5}, True),
            (None, (), (), {"padding": Counter(outside=1)}, False),
            (None, (), (), {"padding": Counter(repeated=1)}, True),
        ],
    )
    def test_ok(self, landed, absent, misfits, counts, ok):
        """Each thing alone makes a folder wrong; order and repeated padding do not."""
        tally = Tally(6, (1,), **{"rows": 5, **counts})
        assert Verification(tally, 1, absent, misfits, landed, (), 1).ok is ok

    def test_a_rank_checked_twice(self):
        """Tensors that are added twice hold every route twice."""
        routes = make_routes([[[0, 1]] * 3] * 3)
        tally, packing = Tally(6, (1, 2, 4)), Packing([4])
        ids = np.array([[1, 0], [0, 1], [0, 1], [0, 0]])
        tensors = RankIds("somewhere", dict.fromkeys((1, 2, 4), ids), None)
        for _ in range(2):
            check_tensors(tally, tensors, packing, Rank(), [(7, routes)])
        assert (tally.rows, tally.wrong, tally.reordered) == (18, 0, 6)
        tally.once.owe(7, routes, 4, [0, 1, 2])
        assert tally.once.landed([routes]) == Landed(9, 0, 9)
        assert tally.load_LE.tolist() == [[6, 6, 0, 0, 0, 0]] * 3
        assert tally.filler_LE.tolist() == [[4, 0, 0, 0, 0, 0]] * 3
        assert tally.padding == Counter(zero=6)

    def test_samples_without_routes(self):
        """All rows of a sample without routes are padding, real for no mask."""
        tally, packing = Tally(6, (1, 2, 4)), Packing([2, 3])
        ids, mask = np.array([[3, 2]] * 5), np.array([0, 1, 1, 1, 0], np.bool_)
        routes = make_routes([[[2, 3]] * 3] * 2)
        tensors = RankIds("somewhere", {2: ids}, mask)
        check_tensors(tally, tensors, packing, Rank(), [(0, None), (1, routes)])
        assert (tally.rows, tally.wrong, tally.reordered) == (2, 0, 2)
        assert (tally.masked, tally.unmasked) == (0, 1)
        assert tally.padding == Counter(distinct=3)

    def test_suspects_of_no_routes(self):
        """Where no sample has routes there is nothing to go by."""
        tensors = [(Rank(), np.zeros((5, 2), np.int64))]
        assert find_suspects(Packing([2, 3]), tensors, [None, None], 0) == []

    @pytest.mark.parametrize(("wrong", "rate"), [(0, 1.0), (10, 0.9), (11, None)])
    def test_nine_tenths(self, wrong, rate):
        """A layout that explains nine tenths of the rows is named, one that explains less not."""
        routes = routes_like(random.Random(1), 100, (0,), (4, 200, None))
        ids = np.vstack([routes.ids_TLK[:, 0], np.zeros((1, 4))]).astype(np.int64)
        ids[:wrong] = 0
        found = find_suspects(Packing([101]), [(Rank(), ids)], [routes], 0)
        assert [suspect.rate for suspect in found[:1]] == ([] if rate is None else [rate])
        if rate is not None:
            assert "verl" in found[0].frameworks
            assert (found[0].form, found[0].shift, found[0].layer_shift) == ("thd", 0, 0)

    def test_the_nearest(self):
        """Where tokens and layers are all alike, the layout is named without any distance."""
        routes = make_routes([[[0, 1]] * 3] * 8)
        tensors = [(Rank(c), np.array([[1, 0]] * 6)) for c in range(2)]
        found = find_suspects(Packing([9], cp=2), tensors, [routes], 1)
        assert any("verl" in suspect.frameworks for suspect in found)
        assert {(suspect.shift, suspect.layer_shift) for suspect in found} == {(0, 0)}

    def test_only_the_first_rows_are_looked_at(self):
        """Of many rows the first 20,000 decide."""
        ids = np.random.default_rng(0).integers(0, 2**15, (30_001, 2))
        routes = make_routes(ids[:30_000, None].tolist(), (0,), 2**15)
        damaged = ids.copy()
        damaged[20_000:] = 0
        found = find_suspects(Packing([30_001]), [(Rank(), damaged)], [routes], 0)
        assert isinstance(found[0], Suspect)
        assert found[0].rate == 1.0
        damaged[:2_001] = 0
        assert find_suspects(Packing([30_001]), [(Rank(), damaged)], [routes], 0) == []


def test_a_recording(capsys, tmp_path):
    """A recorded batch, one of whose layers a trainer read from the wrong column."""
    dump = open_dump(DUMPS["native"])
    options = ("--framework", "megatron", "--cp", "2")
    assert run(capsys, "pack", DUMPS["native"], "--save", tmp_path / "r", *options).code == 0
    for name in ("dp0-cp0-tp0-pp0/mb0000.safetensors", "dp0-cp1-tp0-pp0/mb0000.safetensors"):
        damage(tmp_path / "r", name, lambda arrays: {**arrays, "layer.3": arrays["layer.2"]})
    found = verify(capsys, tmp_path / "r", SimpleNamespace(path=DUMPS["native"]), code=1)
    two, three = (np.concatenate([np.sort(s.routes.ids_TLK[:, c]) for s in dump]) for c in (1, 2))
    assert found["rows_wrong"] == int((two != three).any(axis=1).sum())
    assert {example["layer"] for example in found["examples"]} == {3}
    assert {(entry["layer"], entry["holds"]) for entry in found["wrong"]} == {(3, 2)}
    assert found["suspects"] == []  # other layers are as they should be
