"""Folders that routectl pack may replace, and options that it must not take silently."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from routectl import Packing, open_dump, pack
from routectl.cli.main import main
from routectl.errors import MismatchError
from routectl.formats.native.container import write_native
from support.dumps import make_dump, make_routes, make_sample
from support.recordings import FIXTURES
from support.shell import DUMPS, complaint, document, run, written

SCHEMA = '{"schema": "routectl.pack/1"}'


def content(folder):
    """Every file below a folder with its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_small(path, names, layers=(0, 1, 2)):
    """A native file of samples of three tokens with these ids."""
    sides = ([1], [2, 2])
    samples = [make_sample(make_routes([[[0, 1]] * 3] * 2, layers), n, *sides) for n in names]
    dump = make_dump(samples, layers)
    write_native(dump, dump.meta, path, force=False)
    return path


class TestForce:
    """--force replaces what pack wrote, whole, and nothing else."""

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"manifest.json": "{}", "code.js": ""}, "its manifest.json has not schema"),
            ({"manifest.json": '{"schema": "x/1"}'}, "its manifest.json has not schema"),
            ({"manifest.json": "text"}, "its manifest.json has not schema routectl.pack/1"),
            ({"manifest.json": SCHEMA, "code.js": ""}, "holds code.js, which pack did not write"),
            ({"manifest.json": SCHEMA, "src/code.js": ""}, "holds src, which pack did not write"),
            (
                {"manifest.json": SCHEMA, "dp0-cp0-tp0-pp0/notes.txt": ""},
                "holds dp0-cp0-tp0-pp0/notes.txt, which pack did not write",
            ),
            (
                {"manifest.json": SCHEMA, "dp0-cp0-tp0-pp0/a.safetensors/b": ""},
                "holds dp0-cp0-tp0-pp0/a.safetensors, which pack did not write",
            ),
            ({"manifest.json": SCHEMA, "samples.parquet/b": ""}, "holds samples.parquet, which"),
        ],
    )
    def test_other_folders(self, capsys, tmp_path, files, said):
        """A folder with another manifest, or with anything that pack does not write, is kept."""
        folder = tmp_path / "x"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        before = content(folder)
        message = complaint(capsys, "pack", DUMPS["native"], "--save", folder, "--force")
        assert message.startswith(f"routectl: {folder}: {said}")
        assert message.endswith("so --force does not replace it\n")
        assert content(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_a_link(self, capsys, tmp_path):
        """Of a link to a replay folder the folder is replaced, and the link stays."""
        real, link = tmp_path / "deep" / "real", tmp_path / "x"
        assert run(capsys, "pack", DUMPS["native"], "--save", real, "--cp", "2").code == 0
        link.symlink_to(real)
        assert run(capsys, "pack", DUMPS["native"], "--save", link, "--force").code == 0
        assert link.is_symlink()
        assert set(content(real)) == {
            "dp0-cp0-tp0-pp0/mb0000.safetensors",
            "manifest.json",
            "samples.parquet",
        }
        assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x"]
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["real"]

    def test_a_link_to_another_folder(self, capsys, tmp_path):
        """A link to a folder that pack did not write is refused, and nothing is left behind."""
        (tmp_path / "real").mkdir()
        (tmp_path / "x").symlink_to(tmp_path / "real")
        said = complaint(capsys, "pack", DUMPS["native"], "--save", tmp_path / "x", "--force")
        assert "x: has no manifest.json in it, so --force does not replace it" in said
        assert written(tmp_path) == ["real", "x"]


class TestMoeLayerFreq:
    """moe-layer-freq that does not fit the model."""

    @pytest.mark.parametrize(
        ("freq", "said"),
        [
            ("0", "moe-layer-freq 0: moe_layer_freq must be at least 1, got 0"),
            ("-1", "moe-layer-freq -1: moe_layer_freq must be at least 1, got -1"),
            ("0,1", "moe_layer_freq has 2 entries, expected a 0 or 1 for each of 5 layers"),
            ("0,1,2,1,1", "moe_layer_freq has 5 entries, expected a 0 or 1 for each of 5 layers"),
        ],
    )
    def test_refused(self, capsys, tmp_path, freq, said):
        """A frequency below 1 and a list of another length or content are refused in one line."""
        options = (
            "--save",
            tmp_path / "r",
            "--layout",
            f"moe-layer-freq={freq}",
            "--layout",
            "decoder-layers=5",
        )
        assert said in complaint(capsys, "pack", DUMPS["native"], *options)

    def test_a_list_is_as_long_as_the_model(self, capsys, tmp_path):
        """A list for a dump that counts MoE layers from 0 needs no --decoder-layers."""
        dump = write_small(tmp_path / "d.parquet", ["a"])
        options = ("--save", tmp_path / "r", "--layout", "moe-layer-freq=0,1,0,1,1", "--pp", "5")
        packed = document(capsys, "pack", dump, *options)
        assert packed["tensors"]["layers"] == [1, 3, 4]
        assert packed["layout"]["pipeline"]["num_layers"] == 5

    @pytest.mark.parametrize(
        ("framework", "which", "layers"),
        [("verl", "first", [0, 2, 4]), ("miles", "first", [0, 2, 4]), ("areal", "last", [1, 3, 5])],
    )
    def test_an_integer_goes_by_the_framework(self, capsys, tmp_path, framework, which, layers):
        """Megatron takes the first of N layers and AReaL the last: it is said which was taken."""
        dump = write_small(tmp_path / "d.parquet", ["a"])
        options = (
            "--layout",
            "moe-layer-freq=2",
            "--layout",
            "decoder-layers=6",
            "--framework",
            framework,
        )
        done = run(capsys, "pack", dump, "--save", tmp_path / "r", *options, "--json")
        assert json.loads(done.out)["tensors"]["layers"] == layers
        told = f"of each 2 layers the {which} is MoE: layers {', '.join(map(str, layers))}"
        assert f"routectl: {framework}: {told}\n" in done.err
        named = write_small(tmp_path / "n.parquet", ["a"], tuple(layers))
        done = run(capsys, "pack", named, "--save", tmp_path / "q", *options, "--json")
        assert json.loads(done.out)["tensors"]["layers"] == layers
        other = {"verl": "areal", "miles": "areal", "areal": "verl"}[framework]
        said = complaint(capsys, "pack", named, "--save", tmp_path / "x", *options[:-1], other)
        if other == "areal":
            assert "of 6: of each 2 layers the last, as areal has it\n" in said


class TestDtype:
    """The dtype that a framework's own program would take."""

    @pytest.mark.parametrize(
        ("greatest", "framework", "dtype"),
        [
            (255, "roll", "uint8"),
            (256, "roll", "int16"),
            (255, "prime-rl", "uint16"),
            (255, "verl", "int16"),
        ],
    )
    def test_by_what_the_batch_holds(self, capsys, tmp_path, greatest, framework, dtype):
        """ROLL's tensors are uint8 unless the batch, not just one rank's part, has id 256."""
        rows = [[[0, 1]] * 3] * 3, [[[0, 1]] * 3, [[2, 3]] * 3, [[0, 1], [greatest, 4], [0, 1]]]
        samples = [
            make_sample(make_routes(ids, (0, 1, 2), 300), f"s{i}", [1, 1], [2, 2])
            for i, ids in enumerate(rows)
        ]
        dump = make_dump(samples, (0, 1, 2), 300)
        write_native(dump, dump.meta, tmp_path / "d.parquet", force=False)
        options = ("--framework", framework, "--dp", 2)
        args = ("pack", tmp_path / "d.parquet", "--save", tmp_path / "r", *options)
        assert document(capsys, *args)["tensors"]["dtype"] == dtype
        for path in (tmp_path / "r").rglob("mb*.safetensors"):
            assert load_file(path)["layer.1"].dtype == dtype
        args = ("verify", tmp_path / "r", "--against", tmp_path / "d.parquet")
        assert document(capsys, *args)["ok"]
        assert run(capsys, "unpack", tmp_path / "r", "--save", tmp_path / "u.parquet").code == 0
        assert open_dump(tmp_path / "u.parquet")[1].routes.ids_TLK[2, 1].tolist() == [greatest, 4]


class TestNames:
    """Options whose values are names."""

    @pytest.mark.parametrize("dtype", ["foo", ">i4", "i4,i4", "float32", "int", "O", "(2,)i4"])
    def test_dtypes(self, capsys, tmp_path, dtype):
        """A --dtype that is no native integer dtype's name is refused with the names."""
        said = complaint(
            capsys, "pack", DUMPS["native"], "--save", tmp_path / "r", "--dtype", dtype
        )
        names = "int8, int16, int32, int64, uint8, uint16, uint32, uint64"
        refusal = f"routectl: --dtype {dtype!r} is not known: "
        if dtype == "int":
            assert said == f"{refusal}did you mean int8?\nhint: known: {names}\n"
        else:
            assert said.splitlines()[0] == refusal + names
        assert written(tmp_path) == []

    def test_an_out_of_another_byte_order(self):
        """A tensor to write into that is not in this machine's byte order is refused."""
        out = np.zeros((3, 3, 2), np.dtype(np.int32).newbyteorder())
        with pytest.raises(MismatchError, match="is not known: int8"):
            pack([make_routes([[[0, 1]] * 3] * 2)], Packing([3]), out=out)

    @pytest.mark.parametrize("mode", ["pack", "layout"])
    def test_rows(self, capsys, tmp_path, mode):
        """rows is n-1 or n, whether the dump tells lengths or not."""
        how = ("--save", tmp_path / "r") if mode == "pack" else ()
        said = complaint(capsys, mode, DUMPS["native"], *how, "--layout", "rows=foo")
        assert said == "routectl: --layout rows=foo: rows 'foo' is not known: n-1, n\n"

    @pytest.mark.parametrize("more", [(), ("--dp", "2")])
    def test_balance(self, capsys, tmp_path, more):
        """An unknown --balance is refused, whether micro-batches are balanced or not."""
        options = ("--save", tmp_path / "r", "--balance", "foo", *more)
        said = complaint(capsys, "pack", DUMPS["native"], *options)
        assert said == "routectl: --balance 'foo' is not known: first-fit, karmarkar-karp, verl\n"


class TestPlans:
    """Plans that name samples in a way that is no name."""

    @pytest.mark.parametrize(
        ("partition", "indices", "rank"),
        [
            ([0, 1], [[0, -1]], 0),
            ([0, 1], [[0, 1.7]], 0),
            ([0, 1.9], [[0, 1]], 0),
            ([0, -1], [[0, 1]], 0),
            ([0, 1], [[0, True]], 0),
            ([0, 1], [["0", 1]], 0),
            ([0, 1], [[0, 1]], 0.5),
            ([0, 1], [[0, 1]], "0"),
        ],
    )
    def test_indices(self, capsys, tmp_path, partition, indices, rank):
        """Indices of dp_shards are whole numbers from 0 on; nothing wraps or is rounded."""
        dump = write_small(tmp_path / "d.parquet", ["a", "b"])
        shard = {"data_parallel_rank": rank, "partition": partition, "micro_batch_indices": indices}
        (tmp_path / "plan.json").write_text(json.dumps([shard]), "utf-8")
        options = ("--save", tmp_path / "r", "--plan", tmp_path / "plan.json")
        said = complaint(capsys, "pack", dump, *options)
        assert "expected data_parallel_rank, partition and micro_batch_indices" in said

    def test_an_id_of_two_samples(self, capsys, tmp_path):
        """An id that two samples have names neither; the others can still be named."""
        dump = write_small(tmp_path / "d.parquet", ["a", "b", "a"])
        plan = tmp_path / "plan.json"
        options = ("--plan", plan)
        plan.write_text(json.dumps({"micro_batches": [[["a", "b"]]]}), "utf-8")
        said = complaint(capsys, "pack", dump, "--save", tmp_path / "r", *options)
        assert said == f"routectl: {plan}: micro-batch 0: samples 0 and 2 have the id a\n"
        plan.write_text(json.dumps({"micro_batches": [[[2, "b", 0]]]}), "utf-8")
        assert run(capsys, "pack", dump, "--save", tmp_path / "r", *options).code == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A replay folder in verl's layout of two CP ranks."""
    path = tmp_path_factory.mktemp("effect") / "r"
    assert main(["pack", str(DUMPS["native"]), "--save", str(path), "--cp", "2"]) == 0
    return path


class TestNoEffect:
    """Options that would be ignored are refused in one line."""

    @pytest.mark.parametrize(
        "options",
        [
            "--layout framework=slime",
            "--layout cp=4",
            "--layout cp=2",
            "--layout ep=4,pp=2",
            "--layout form=bshd",
            "--layout rows=n",
            "--layout plan=plan.json",
            "--dtype int32",
            "--skip-damaged",
            "--layout moe-layer-freq=1",
        ],
    )
    def test_a_manifest(self, capsys, folder, options):
        """A manifest says the layout, so options that say it again are refused; ep may differ."""
        args = ("verify", folder, "--against", DUMPS["native"], *options.split())
        said = complaint(capsys, *args)
        first = options.split()[-1].removeprefix("ep=4,").split("=")[0]
        named = f"--layout {first}" if "=" in options else options.split()[0]
        assert said == f"routectl: {named} has no effect: {folder}/manifest.json says the layout\n"

    def test_ep_of_a_manifest(self, capsys, folder):
        """Loads are judged for the EP ranks that are asked for."""
        args = ("verify", folder, "--against", DUMPS["native"], "--layout", "ep=4")
        assert document(capsys, *args)["ep"] == 4

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("pack --verify r --against x", "verify DIR --against DUMP"),
            ("pack x --verify r", "verify DIR --against DUMP"),
            ("pack --explain --lens 3", "layout DUMP"),
            ("pack x -o r", "--save DIR"),
            ("pack x --save r --rows n", "--layout rows=n-1"),
            ("pack x --save r --context 9", "--layout context=N"),
            ("pack x --save r --form bshd", "--layout form=FORM"),
            ("unpack r -o x.parquet", "--save DST"),
            ("predict --fit x", "predict fit"),
            ("predict --eval x", "predict judge"),
            ("predict x --emit y", "predict write"),
            ("verify r --against x --tp 2", "--layout tp=N"),
            ("verify r --against x --framework slime", "--layout framework=NAME"),
        ],
    )
    def test_old_spellings(self, capsys, line, said):
        """What was typed before is answered with what is typed now."""
        assert said in complaint(capsys, *line.split()).splitlines()[0]

    def test_unpack_of_no_folder_of_pack(self, capsys, tmp_path):
        """A checkpoint, a file and a folder of others are no replay folders: no manifest.json."""
        for place in (FIXTURES / "checkpoints" / "megatron-0.15.3", DUMPS["native"], tmp_path):
            said = complaint(capsys, "unpack", place, "--save", tmp_path / "x.parquet")
            assert said.startswith(f"routectl: {place}: no manifest.json: not a replay folder\n")

    def test_help_of_lens(self, capsys):
        """A drawing takes no tensors' options."""
        out = run(capsys, "layout", "--help").out
        assert "--padding POLICY" not in out
        assert "--dtype DTYPE" not in out


@pytest.mark.parametrize(("lens", "cell"), [([1] * 27, "s26.0"), ([1] * 26 + [700], "s26.0-699")])
def test_samples_beyond_z(capsys, lens, cell):
    """The 27th sample is named s26 and a dot parts its name from the token's number."""
    done = run(capsys, "layout", "--lens", ",".join(map(str, lens)))
    assert cell in done.out.split()
    assert "s26 = sample 26" in done.out
