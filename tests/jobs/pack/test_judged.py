"""routectl verify: what makes a folder right or wrong, and where a layout is looked for."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl import Packing, Rank
from routectl.formats.native.container import write_native
from routectl.ops.pack.suspects import find_suspects
from routectl.ops.pack.verify import Tally, Verification
from support.dumps import make_dump, make_sample
from support.packs import as_settings, routes_like
from support.shell import DUMPS, complaint, document, run

LENS = (40, 32, 16, 24, 8)
LAYERS = (1, 2, 3, 4)
KIND = (4, 32, None)


def write_dump(path, lens=LENS, missing=0.0, stop=0, tokens=True):
    """A native file with samples of such lengths, of N - 1 + stop rows; some may be missing."""
    rng = random.Random(5)
    routes = [routes_like(rng, n - 1 + stop, LAYERS, KIND, 0, missing) for n in lens]
    sides = [([1] * (n - 1), [2]) if tokens else () for n in lens]
    samples = [make_sample(r, f"s{i}", *sides[i]) for i, r in enumerate(routes)]
    dump = make_dump(samples, LAYERS, 32, 4)
    write_native(dump, dump.meta, path, force=False)
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """Five samples with random routes."""
    return write_dump(tmp_path_factory.mktemp("judged") / "dump.parquet")


@pytest.fixture
def pack(capsys, tmp_path):
    """Pack a dump with such options; the folder."""

    def packed(dump, options=""):
        done = run(capsys, "pack", dump, "--save", tmp_path / "r", *options.split())
        assert done.code == 0, done.err
        return tmp_path / "r"

    return packed


def verify(capsys, folder, dump, options="", code=0):
    """The document of verify and the report for people."""
    args = ("verify", folder, "--against", dump, *as_settings(*options.split()))
    found = document(capsys, *args, code=code)
    assert found["ok"] == (code == 0)
    return SimpleNamespace(**found, text=run(capsys, *args).out)


def damage(path, change):
    """Rewrite a rank's file with ``change`` applied to its arrays."""
    arrays = {key: array.copy() for key, array in load_file(path).items()}
    save_file(change(arrays) or arrays, path)


def roll(folder, names="*"):
    """Every layer of the files with such a path moved by a row."""
    for path in folder.glob(f"{names}.safetensors"):
        damage(
            path,
            lambda arrays: {
                key: np.roll(a, 1, axis=0) if "layer" in key else a for key, a in arrays.items()
            },
        )


class TestLengths:
    """A dump whose samples have other lengths than the manifest's."""

    def test_other_lengths(self, capsys, tmp_path, pack, dump):
        """The first sample with another length is named with both numbers."""
        folder = pack(dump)
        other = write_dump(tmp_path / "other.parquet", (40, 32, 17, 25, 8))
        said = complaint(capsys, "verify", folder, "--against", other)
        manifest = folder / "manifest.json"
        assert said == f"routectl: {other}: sample 2 has 17 tokens, {manifest} gives it 16\n"

    def test_routes_beyond(self, capsys, tmp_path, pack):
        """Where the dump tells no lengths, routes beyond the manifest's length are refused."""
        folder = pack(write_dump(tmp_path / "a.parquet", (5, 6), tokens=False), "--layout rows=n-1")
        for lens, code in (((5, 6), 0), ((5, 7), 0), ((5, 8), 2)):
            other = write_dump(tmp_path / f"{lens[1]}.parquet", lens, tokens=False)
            args = ("verify", folder, "--against", other)
            if code:
                said = complaint(capsys, *args)
                assert f"sample 1 has a route at position 6, {folder}/manifest.json" in said
                assert said.endswith("gives it 6 tokens\n")
            else:
                assert run(capsys, *args).code in (0, 1)


class TestFiles:
    """Files of too many or too few ranks."""

    def test_files_beyond_the_layout(self, capsys, pack, dump):
        """Files of ranks and micro-batches that the layout does not have make a folder wrong."""
        folder = pack(dump)
        shutil.copytree(folder / "dp0-cp0-tp0-pp0", folder / "dp7-cp0-tp0-pp0")
        rank = folder / "dp0-cp0-tp0-pp0"
        shutil.copy(rank / "mb0000.safetensors", rank / "mb0003.safetensors")
        found = verify(capsys, folder, dump, code=1)
        assert sorted(found.extra_files) == [
            "dp0-cp0-tp0-pp0/mb0003.safetensors",
            "dp7-cp0-tp0-pp0/mb0000.safetensors",
        ]
        assert (found.files, found.rows_wrong, found.suspects_of) == (1, 0, None)
        line = "\nfile      dp7-cp0-tp0-pp0/mb0000.safetensors: the layout has no such rank"
        assert line in found.text

    def test_files_of_ranks_not_asked_for(self, capsys, pack, dump):
        """Ranks of the layout that --rank leaves out are not too many, and not read."""
        folder = pack(dump, "--cp 2")
        found = verify(capsys, folder, dump, "--rank cp=1")
        assert (found.files, found.extra_files) == (1, [])

    @pytest.mark.parametrize(
        ("layout", "only"),
        [
            ("--framework megatron --pp 5 --rank pp=0", ""),
            ("--framework megatron --pp 5", "--rank pp=0"),
            ("--framework slime --tp 2", "--rank tp=1"),
        ],
    )
    def test_nothing_to_compare(self, capsys, pack, dump, layout, only):
        """A stage without MoE layers and a rank of padding alone are right as they are."""
        folder = pack(dump, layout)
        found = verify(capsys, folder, dump, only)
        assert (found.rows, found.files > 0) == (0, True)
        assert found.text.startswith("VERIFIED  no route belongs on these ranks\n")

    def test_empty_groups(self, capsys, tmp_path, pack, dump):
        """A plan of empty groups alone is right; without its files it is not."""
        (tmp_path / "plan.json").write_text('{"micro_batches": [[[], []]]}', "utf-8")
        folder = pack(dump, f"--plan {tmp_path}/plan.json")
        assert verify(capsys, folder, dump).rows == 0
        shutil.rmtree(folder / "dp1-cp0-tp0-pp0")
        assert "no row could be compared" in verify(capsys, folder, dump, code=1).text

    def test_no_file_at_all(self):
        """Without any file nothing is right."""
        tally = Tally(6, (1,))
        assert not Verification(tally, 0, (), (), None, (), 1).ok

    def test_names_of_a_trainer(self, capsys, tmp_path, pack, dump):
        """Examples and misfits name the files that are there, not those that pack would write."""
        folder = pack(dump, "--cp 2")
        (tmp_path / "t").mkdir()
        for cp in range(2):
            arrays = load_file(folder / f"dp0-cp{cp}-tp0-pp0" / "mb0000.safetensors")
            layers = {key: a for key, a in arrays.items() if "layer" in key}
            layers["layer.2"] = layers["layer.2"][cp:]
            layers["layer.3"][3] = 0
            np.savez(tmp_path / "t" / f"cp{cp}-tp0.npz", **layers)
        found = verify(capsys, tmp_path / "t", dump, "--cp 2", code=1)
        assert [example["file"] for example in found.examples] == ["cp0-tp0.npz"]
        assert found.misfits == ["cp1-tp0.npz: layer 2: got (59, 4), expected (60, 4)"]


class TestSuspects:
    """The layout that tensors match is looked for where something is wrong."""

    def test_another_top_k(self, capsys, pack, dump):
        """Tensors of another K above 1 are misfits with both numbers, and match nothing."""
        folder = pack(dump)
        damage(
            folder / "dp0-cp0-tp0-pp0" / "mb0000.safetensors",
            lambda arrays: {
                key: np.ascontiguousarray(a[:, :3]) if "layer" in key else a
                for key, a in arrays.items()
            },
        )
        found = verify(capsys, folder, dump, code=1)
        assert found.misfits[0].endswith("layer 1: got (120, 3), expected (120, 4)")
        assert found.suspects == []
        assert "no layout that is known" in found.text

    @pytest.mark.parametrize(
        "layout",
        [
            "--framework prime-rl --cp 2 --layout form=bshd --layout seq-len=42",
            "--framework prime-rl --cp 2 --layout min-local-rows=121",
        ],
    )
    def test_a_layout_that_verl_cannot_have(self, capsys, pack, dump, layout):
        """Rows moved by one in a layout that verl refuses are told, without a traceback."""
        folder = pack(dump, layout)
        (folder / "manifest.json").unlink()
        roll(folder, "*/*")
        found = verify(capsys, folder, dump, layout, code=1)
        assert found.rows_wrong > 0
        assert all(s["rate"] >= 0.9 for s in found.suspects)

    def test_a_first_stage_without_layers(self, capsys, pack, dump):
        """The first stage has no MoE layer, and the true layout is still named."""
        folder = pack(dump, "--cp 2 --pp 5")
        (folder / "manifest.json").unlink()
        options = "--cp 2 --pp 5 --framework verl-contiguous"
        found = verify(capsys, folder, dump, options, code=1)
        assert any("verl" in suspect["frameworks"] for suspect in found.suspects)
        assert found.suspects_of["pp"] > 0
        assert found.suspects_of["layer"] == found.suspects_of["pp"]

    def test_a_first_group_without_samples(self, capsys, tmp_path, pack, dump):
        """The first micro-batch's first group is empty, and the true layout is still named."""
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps({"micro_batches": [[[], [0, 1]], [[2, 3], [4]]]}), "utf-8")
        folder = pack(dump, f"--cp 2 --plan {plan}")
        (folder / "manifest.json").unlink()
        options = f"--cp 2 --plan {plan} --framework verl-contiguous"
        found = verify(capsys, folder, dump, options, code=1)
        assert any("verl" in suspect["frameworks"] for suspect in found.suspects)

    def test_a_later_micro_batch(self, capsys, pack, dump):
        """Only a later micro-batch is wrong: it is the one that is looked at."""
        folder = pack(dump, "--max-tokens-per-gpu 64")
        roll(folder, "*/mb0001")
        found = verify(capsys, folder, dump, code=1)
        assert found.suspects_of["micro_batch"] == 1
        assert {s["shift"] for s in found.suspects} == {-1}
        matches = [line for line in found.text.splitlines() if line.startswith("matches")]
        assert matches
        assert all("rows of the token -1 away" in line for line in matches)

    def test_one_wrong_layer(self, capsys, pack, dump):
        """Only one layer is wrong: it is looked at, and told whose routes it has."""
        folder = pack(dump)
        for wrong in (1, 4):
            damage(
                folder / "dp0-cp0-tp0-pp0" / "mb0000.safetensors",
                lambda arrays, n=wrong: {**arrays, f"layer.{n}": arrays["layer.2"]},
            )
            found = verify(capsys, folder, dump, code=1)
            assert found.suspects_of["layer"] == wrong
            assert found.suspects == []
            assert [(e["layer"], e["holds"]) for e in found.wrong] == [(wrong, 2)]
            assert f"layer {wrong}: 115 of 115 rows, layer {wrong} holds layer 2's" in found.text
            assert "\nmatches" not in found.text
            folder = pack(dump, "--force")

    @pytest.mark.parametrize("files", ["*/*", "*-cp0-*/*"])
    def test_exchanged_layers(self, capsys, pack, dump, files):
        """Two layers exchanged, in every file or in one: each is told whose routes it has."""
        folder = pack(dump, "--cp 2")
        exchanged = {"layer.2": "layer.3", "layer.3": "layer.2"}
        for path in folder.glob(f"{files}.safetensors"):
            damage(path, lambda a: {key: a[exchanged.get(key, key)] for key in a})
        found = verify(capsys, folder, dump, code=1)
        assert {(e["layer"], e["holds"]) for e in found.wrong} == {(2, 3), (3, 2)}
        assert "rows, layer 2 holds layer 3's routes, layer 3 holds layer 2's routes" in found.text
        assert (found.suspects, "\nmatches" in found.text) == ([], False)

    @pytest.mark.parametrize("by", [1, -2])
    def test_shifted_layers(self, capsys, pack, dump, by):
        """Every layer holds another's, as many further on: that is said of all."""
        folder = pack(dump, "--cp 2")
        for path in folder.glob("*/*.safetensors"):
            named = {f"layer.{n}": f"layer.{min(max(n + by, 1), 4)}" for n in LAYERS}
            damage(path, lambda a, named=named: {key: a[named.get(key, key)] for key in a})
        found = verify(capsys, folder, dump, code=1)
        assert {s["layer_shift"] for s in found.suspects} == {by}
        assert f"of the MoE layer {by:+d} away" in found.text

    def test_an_absent_layer(self, capsys, pack, dump):
        """A layer is absent and the others are right: no layout is said to match, or not to."""
        folder = pack(dump)
        damage(
            folder / "dp0-cp0-tp0-pp0" / "mb0000.safetensors",
            lambda arrays: {k: a for k, a in arrays.items() if k != "layer.2"},
        )
        found = verify(capsys, folder, dump, code=1)
        assert found.misfits[0].endswith("got layers [1, 3, 4], expected [1, 2, 3, 4]")
        assert (found.suspects, found.suspects_of) == ([], None)
        assert "\nmatches" not in found.text

    def test_missing_rows(self, capsys, tmp_path, pack):
        """Rows that the dump does not have do not count against a layout."""
        dump = write_dump(tmp_path / "dump.parquet", missing=0.15)
        folder = pack(dump, "--framework slime --cp 2 --layout pad-multiplier=1 --allow-missing")
        (folder / "manifest.json").unlink()
        options = "--framework slime-allgather --cp 2 --layout pad-multiplier=1"
        found = verify(capsys, folder, dump, options, code=1)
        assert any("slime" in suspect["frameworks"] for suspect in found.suspects)
        assert {suspect["rate"] for suspect in found.suspects} == {1.0}

    def test_missing_rows_alone(self):
        """A tensor of which only rows are wrong that are missing matches wholly."""
        routes = routes_like(random.Random(1), 50, (0,), KIND, 0, 0.3)
        ids = np.vstack([routes.ids_TLK[:, 0], np.zeros((1, 4))]).astype(np.int64)
        ids[:-1][routes.missing_TL[:, 0]] = 31
        found = find_suspects(Packing([51]), [(Rank(), ids)], [routes], 0)
        assert found[0].rate == 1.0

    @pytest.mark.parametrize(
        ("written", "declared", "framework", "options", "text"),
        [
            (
                "--framework verl --cp 2",
                "--framework verl --cp 2 --layout form=bshd --layout seq-len=64",
                "verl",
                {},
                "(thd)",
            ),
            (
                "--framework verl --cp 2",
                "--framework verl --cp 2 --layout min-local-rows=200",
                "verl",
                {"min_local_rows": None},
                "no min_local_rows (thd)",
            ),
            (
                "--framework slime --cp 2 --layout pad-multiplier=1",
                "--framework slime --cp 2",
                "slime",
                {"pad_multiplier": 1},
                "pad_multiplier 1 (thd)",
            ),
            (
                "--framework slime --cp 2",
                "--framework slime --cp 2 --layout pad-multiplier=3",
                "slime",
                {"pad_multiplier": 128},
                "pad_multiplier 128 (thd)",
            ),
            (
                "--framework verl --cp 2 --layout form=bshd",
                "--framework verl --cp 2 --layout form=bshd --layout seq-len=64",
                "verl",
                {"seq_len": None},
                "no seq_len (bshd)",
            ),
        ],
    )
    def test_options(self, capsys, pack, dump, written, declared, framework, options, text):
        """Tensors in the declared layout but for an option: the option is named."""
        folder = pack(dump, written)
        (folder / "manifest.json").unlink()
        found = verify(capsys, folder, dump, declared, code=1)
        (suspect,) = (s for s in found.suspects if framework in s["frameworks"])
        assert (suspect["options"], suspect["rate"]) == (options, 1.0)
        assert (suspect["shift"], suspect["layer_shift"]) == (0, 0)
        line = next(n for n in found.text.splitlines() if f" {framework}" in n and "matches" in n)
        assert line.endswith(text)


NAME = "dp0-cp0-tp0-pp0/mb0000.safetensors"


class TestManifest:
    """What a manifest says beyond the layout."""

    @pytest.mark.parametrize("key", ["cu_seqlens", "cu_seqlens_padded"])
    def test_cu_seqlens(self, capsys, pack, dump, key):
        """cu_seqlens that are not those of the micro-batch make a folder wrong."""
        folder = pack(dump)
        damage(folder / NAME, lambda arrays: arrays[key].fill(0))
        found = verify(capsys, folder, dump, code=1)
        assert found.faults == [f"{NAME}: {key}[1]: got 0, expected 40"]
        assert f"\nfile      {found.faults[0]}\n" in found.text
        damage(folder / NAME, lambda arrays: {**arrays, key: arrays[key][1:]})
        found = verify(capsys, folder, dump, code=1)
        assert found.faults == [f"{NAME}: {key}: got shape (5,), expected (6,)"]

    def test_dtype(self, capsys, pack, dump):
        """Tensors of another dtype than the manifest's, or a given one, make a folder wrong."""
        folder = pack(dump)
        damage(
            folder / NAME,
            lambda arrays: {
                key: a.astype(np.int64) if "layer" in key else a for key, a in arrays.items()
            },
        )
        said = [f"{NAME}: layer 1: got int64, expected int16"]
        assert verify(capsys, folder, dump, code=1).faults == said
        (folder / "manifest.json").unlink()
        assert verify(capsys, folder, dump).faults == []
        assert verify(capsys, folder, dump, "--dtype int64").faults == []
        assert verify(capsys, folder, dump, "--dtype int16", code=1).faults == said

    def test_other_bytes(self, capsys, pack, dump):
        """A file that is not the one of the manifest is named; its rows alone decide."""
        folder = pack(dump)
        assert verify(capsys, folder, dump).changed_files == []
        damage(folder / NAME, lambda arrays: arrays["layer.2"].sort(axis=1))
        found = verify(capsys, folder, dump)
        assert found.changed_files == [NAME]
        assert f"\nchanged   {NAME}: its bytes are not those of the manifest\n" in found.text
        (folder / "manifest.json").unlink()
        assert verify(capsys, folder, dump).changed_files == []

    def test_unpack(self, capsys, tmp_path, pack, dump):
        """unpack refuses a file that is not the one of the manifest."""
        folder = pack(dump)
        roll(folder, "*/*")
        said = complaint(capsys, "unpack", folder, "--save", tmp_path / "again.parquet")
        assert said == (
            f"routectl: {folder}/{NAME}: its bytes are not those of the manifest: another sha256\n"
            f"hint: routectl verify {folder} --against DUMP tells what is wrong\n"
        )
        assert not (tmp_path / "again.parquet").exists()

    @pytest.mark.parametrize("files", [None, 3, [{}], [{"path": "x"}], ["x"]])
    def test_no_digests(self, capsys, tmp_path, pack, files):
        """A manifest that does not say its files' bytes is damaged."""
        folder = pack(DUMPS["native"])
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}), "utf-8")
        for args in (
            ("verify", folder, "--against", DUMPS["native"]),
            ("unpack", folder, "--save", tmp_path / "again.parquet"),
        ):
            assert "manifest.json: damaged: " in complaint(capsys, *args)
