"""Plans, stages, ranks, rows, --force and drawings of layouts, through the command line.

Where rows are expected on a rank, the test works them out itself, token by token.
"""

import json
import random
import re
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from routectl import open_dump
from routectl.cli.main import main
from routectl.formats.native.container import write_native
from support.dumps import make_dump, make_sample
from support.packs import routes_like
from support.shell import DUMPS, complaint, document, on_terminal, run, written

LENS = (9, 17, 3, 12, 5, 8, 21, 4)
LAYERS = (1, 2, 4)


def write_batch(path, lens=LENS, layers=LAYERS, *, tokens=True):
    """A native file of samples s0, s1, ... with N - 1 random routes each; the ids beside it."""
    rng = random.Random(7)
    routes = [routes_like(rng, n - 1, layers, (4, 32, None)) for n in lens]
    sides = [([1] * (n - 1), [2]) if tokens else () for n in lens]
    samples = [make_sample(r, f"s{i}", *sides[i]) for i, r in enumerate(routes)]
    dump = make_dump(samples, layers, 32, 4)
    write_native(dump, dump.meta, path, force=False)
    return SimpleNamespace(path=path, lens=lens, ids=[r.ids_TLK for r in routes])


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Eight samples of LENS tokens."""
    return write_batch(tmp_path_factory.mktemp("plans") / "batch.parquet")


def zigzag(lens, cp, cp_rank, multiple=1):
    """A CP rank's rows as (sample, position), None for padding.

    Of each sample's 2 x cp pieces, all of a size that ``multiple`` divides, the r-th and the r-th
    last; without CP all of it.
    """
    pieces = 2 * cp if cp > 1 else 1
    held = [cp_rank, pieces - 1 - cp_rank] if cp > 1 else [0]
    rows = []
    for sample, tokens in enumerate(lens):
        size = -(-tokens // (pieces * multiple)) * multiple
        positions = [k * size + n for k in held for n in range(size)]
        rows += [(sample, n) if n < tokens else None for n in positions]
    return rows


def cut(rows, tp, tp_rank):
    """The tp_rank-th of tp equal runs of rows."""
    assert len(rows) % tp == 0
    size = len(rows) // tp
    return rows[tp_rank * size : (tp_rank + 1) * size]


def verl_rows(lens, tp, cp, cp_rank, tp_rank):
    """A rank's rows under verl's rule: samples padded to 2 x cp x tp, zigzag, then cut in tp."""
    return cut(zigzag(lens, cp, cp_rank, tp), tp, tp_rank)


def slime_rows(lens, tp, cp, multiplier, cp_rank, tp_rank):
    """A rank's rows under slime's rule: no row for a last token, rows padded to tp x multiplier."""
    rows = [
        None if place is None or place[1] == lens[place[0]] - 1 else place
        for place in zigzag(lens, cp, cp_rank)
    ]
    rows += [None] * (-len(rows) % (tp * multiplier))
    return cut(rows, tp, tp_rank)


def check_tensors(folder, batch, steps, dp=1, cp=1, tp=1):
    """Every rank's file of every micro-batch holds its tokens' routes, and no other file is there.

    steps has (CP size, samples of each group) for every micro-batch.
    """
    names = set()
    for (mb, (own, groups)), g, t in product(enumerate(steps), range(dp * cp), range(tp)):
        group, local = divmod(g, own)
        samples = groups[group]
        rows = verl_rows([batch.lens[i] for i in samples], tp, own, local, t)
        names.add(f"dp{g // cp}-cp{g % cp}-tp{t}-pp0/mb{mb:04d}.safetensors")
        arrays = load_file(folder / f"dp{g // cp}-cp{g % cp}-tp{t}-pp0" / f"mb{mb:04d}.safetensors")
        routed = [p is not None and p[1] < batch.lens[samples[p[0]]] - 1 for p in rows]
        assert arrays["mask"].tolist() == routed
        for column, layer in enumerate(LAYERS):
            ids = arrays[f"layer.{layer}"]
            assert ids.shape == (len(rows), 4)
            for r in np.flatnonzero(routed).tolist():
                sample, position = rows[r]
                assert ids[r].tolist() == batch.ids[samples[sample]][position, column].tolist()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")} == names


def check_back(capsys, folder, batch, samples=None):
    """Verify passes, and unpack gives back the routes of ``samples`` (all) and every token."""
    samples = range(len(batch.lens)) if samples is None else samples
    found = document(capsys, "verify", folder, "--against", batch.path)
    assert found["ok"]
    routes = sum(batch.lens[i] - 1 for i in samples) * batch.ids[0].shape[1]
    assert (found["routes"], found["rows"], found["rows_wrong"]) == (routes, routes, 0)
    again = folder.with_name("again.parquet")
    assert run(capsys, "unpack", folder, "--save", again).code == 0
    for i, (old, new) in enumerate(zip(open_dump(batch.path), open_dump(again), strict=True)):
        assert new.sample_id == old.sample_id
        assert np.array_equal(new.token_ids, old.token_ids)
        if i in samples:
            assert np.array_equal(new.routes.ids_TLK, batch.ids[i])
            assert (new.routes.start, new.routes.missing_TL) == (0, None)
        else:
            assert new.routes is None


STEPS = (((3, 0), (1,)), ((7, 2, 5), (4, 6)))
SHARDS = (
    {"data_parallel_rank": 1, "partition": [6, 4, 1], "micro_batch_indices": [[2], [1, 0]]},
    {
        "data_parallel_rank": 0,
        "partition": [0, 2, 3, 5, 7],
        "micro_batch_indices": [[2, 0], [4, 1, 3]],
    },
)
FORMS = {
    "index": {"micro_batches": STEPS},
    "id": {"micro_batches": [[["s3", "s0"], ["s1"]], [["s7", "s2", "s5"], ["s4", "s6"]]]},
    "both": {"micro_batches": [[[3, "s0"], ["s1"]], [["s7", 2, 5], [4, "s6"]]]},
    "objects": {"micro_batches": [{"samples": STEPS[0]}, {"cp": None, "samples": STEPS[1]}]},
    "dp_shards": {"dp_shards": SHARDS, "rollout_id": 4},
    "shards": list(SHARDS),
    "shards twice": [*SHARDS, SHARDS[0]],
}


class TestPlanFiles:
    """--plan: what is packed is what the file says."""

    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, capsys, tmp_path, batch, form):
        """By index, by id, by both, and as slime's dp_shards: the same micro-batches."""
        plan, folder = tmp_path / "plan.json", tmp_path / "r"
        plan.write_text(json.dumps(FORMS[form]), "utf-8")
        options = ("--plan", plan, "--cp", "2", "--tp", "2")
        layout = document(capsys, "pack", batch.path, "--save", folder, *options)["layout"]
        assert layout["dp"] == 2
        steps = [[list(group) for group in step] for step in STEPS]
        assert layout["plan"] == {"micro_batches": steps}
        check_tensors(folder, batch, [(2, step) for step in STEPS], dp=2, cp=2, tp=2)
        check_back(capsys, folder, batch)

    def test_cp_of_its_own(self, capsys, tmp_path, batch):
        """A micro-batch with a CP size of its own is laid out with that, over the same ranks."""
        steps = [
            {"cp": 1, "samples": [[0], [1, 5], [2], [3]]},
            [[4], [7]],
            {"cp": 4, "samples": [[6]]},
        ]
        plan, folder = tmp_path / "plan.json", tmp_path / "r"
        plan.write_text(json.dumps({"micro_batches": steps}), "utf-8")
        options = ("--plan", plan, "--cp", "2", "--tp", "2")
        packed = document(capsys, "pack", batch.path, "--save", folder, *options)
        assert packed["layout"]["plan"] == {"micro_batches": steps}
        assert (packed["layout"]["dp"], packed["layout"]["cp"]) == (2, 2)
        wanted = [(1, steps[0]["samples"]), (2, steps[1]), (4, steps[2]["samples"])]
        check_tensors(folder, batch, wanted, dp=2, cp=2, tp=2)
        check_back(capsys, folder, batch)

    def test_samples_left_out(self, capsys, tmp_path, batch):
        """A sample in no micro-batch has no row; unpack gives its tokens without routes."""
        steps = [[[6], []], [[1], [0]]]
        plan, folder = tmp_path / "plan.json", tmp_path / "r"
        plan.write_text(json.dumps({"micro_batches": steps}), "utf-8")
        packed = document(capsys, "pack", batch.path, "--save", folder, "--plan", plan, "--cp", "2")
        # 21, 17 and 9 tokens, each padded to a multiple of 4; their last tokens have no route
        assert (packed["rows"], packed["padding_rows"]) == (24 + 20 + 12, 4 + 4 + 4)
        check_tensors(folder, batch, [(2, step) for step in steps], dp=2, cp=2)
        check_back(capsys, folder, batch, samples=(0, 1, 6))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"micro_batches": [[[0, 8]]]}, "no sample 8 among 8"),
            ({"micro_batches": [[[0, -1]]]}, "no sample -1 among 8"),
            ({"micro_batches": [[["s0", "s8"]]]}, "got s8, expected a sample's index or id"),
            (
                {"micro_batches": [[[0, 1.0]]]},
                "Expected `int | str`, got `float` - at `$.micro_batches[0][0][1]`",
            ),
            (
                {"micro_batches": [[[True]]]},
                "Expected `int | str`, got `bool` - at `$.micro_batches[0][0][0]`",
            ),
            ({"micro_batches": [[[0, 1, 0]]]}, "sample 0 is in 2 micro-batches"),
            ({"micro_batches": [[[5, 1]], [["s5"]]]}, "sample 5 is in 2 micro-batches"),
            (
                {"micro_batches": []},
                "not a plan: Expected `array` of length >= 1 - at `$.micro_batches`",
            ),
            (
                {"micro_batches": {"0": [[0]]}},
                "Expected `array`, got `object` - at `$.micro_batches`",
            ),
            (
                {"micro_batches": [[0, 1]]},
                "Expected `array`, got `int` - at `$.micro_batches[0][0]`",
            ),
            (
                {"micro_batches": [[[0]], 3]},
                "Expected `object | array`, got `int` - at `$.micro_batches[1]`",
            ),
            (
                {"micro_batches": [[[0], [1]], [[2]]]},
                "micro-batch 1 has 1 groups, expected dp 2 x cp 2 / 2 = 2",
            ),
            (
                {"micro_batches": [[[0]], [[1], [2]]]},
                "micro-batch 1 has 2 groups, expected dp 1 x cp 2 / 2 = 1",
            ),
            (
                {"micro_batches": [[[0], [1]], {"cp": 1, "samples": [[2], [3], [4]]}]},
                "micro-batch 1 has 3 groups, expected dp 2 x cp 2 / 1 = 4",
            ),
            (
                {"micro_batches": [[[0], [1]], {"cp": 3, "samples": [[2]]}]},
                "micro-batch 1 has 1 groups, expected dp 2 x cp 2 / 3 = 4/3",
            ),
            (
                {"micro_batches": [{"cp": 1, "samples": [[0], [1], [2]]}]},
                "micro-batch 0 does not fill whole data-parallel ranks of cp 2",
            ),
            (
                {"micro_batches": [[[0]], {"cp": 0, "samples": [[1]]}]},
                "Expected `int` >= 1 - at `$.micro_batches[1].cp`",
            ),
            (
                {"micro_batches": [[[0]], {"cp": "2", "samples": [[1]]}]},
                "Expected `int | null`, got `str` - at `$.micro_batches[1].cp`",
            ),
            ({"steps": [[[0]]]}, "not a plan: expected one of micro_batches, dp_shards (slime), "),
            ("text", "not a plan: expected one of micro_batches, dp_shards (slime), "),
            ([], "dp_shards: got ranks [] with [] micro-batches"),
            (
                [{"data_parallel_rank": 0, "partition": [0]}],
                "expected data_parallel_rank, partition and micro_batch_indices",
            ),
            (
                [{"data_parallel_rank": 0, "partition": [0], "micro_batch_indices": [[1]]}],
                "expected data_parallel_rank, partition and micro_batch_indices",
            ),
            (
                [{"data_parallel_rank": 0, "partition": [0, 9], "micro_batch_indices": [[0], [1]]}],
                "no sample 9 among 8",
            ),
            (
                [{"data_parallel_rank": 1, "partition": [0], "micro_batch_indices": [[0]]}],
                "dp_shards: got ranks [1] with [1] micro-batches, expected every rank from 0 on",
            ),
            (
                [*SHARDS, {"data_parallel_rank": 2, "partition": [], "micro_batch_indices": []}],
                "got ranks [0, 1, 2] with [0, 2] micro-batches",
            ),
            (
                [
                    *SHARDS,
                    {"data_parallel_rank": 0, "partition": [0], "micro_batch_indices": [[0]]},
                ],
                "dp_shards disagree about data-parallel rank 0",
            ),
        ],
    )
    def test_refused(self, capsys, tmp_path, batch, content, said):
        """A plan that does not fit the samples or ranks is refused, and nothing is written."""
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps(content), "utf-8")
        options = ("--plan", plan, "--cp", "2")
        assert said in complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert written(tmp_path) == ["plan.json"]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100, b"samples: 3"])
    def test_not_json(self, capsys, tmp_path, batch, content):
        """A file that is not JSON is refused with its path."""
        plan = tmp_path / "plan.json"
        plan.write_bytes(content)
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", "--plan", plan)
        assert said == f"routectl: {plan}: not JSON, expected a plan\n"
        assert written(tmp_path) == ["plan.json"]

    def test_not_there(self, capsys, tmp_path, batch):
        """A plan that is not there is refused with its path."""
        options = ("--plan", tmp_path / "plan.json")
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert (
            said == f"routectl: {tmp_path}/plan.json: cannot be read: No such file or directory\n"
        )
        assert written(tmp_path) == []

    @pytest.mark.parametrize("more", ["--dp 2", "--max-tokens-per-gpu 64"])
    def test_said_twice(self, capsys, tmp_path, batch, more):
        """A plan beside options that make one is refused."""
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps({"micro_batches": [[[0]]]}), "utf-8")
        options = ("--plan", plan, *more.split())
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert "--plan already says dp and micro-batches" in said
        assert written(tmp_path) == ["plan.json"]


class TestMaxTokens:
    """--max-tokens-per-gpu: micro-batches within a limit."""

    @pytest.mark.parametrize("balance", ["first-fit", "karmarkar-karp"])
    @pytest.mark.parametrize(
        ("limit", "dp", "cp"),
        [(24, 1, 1), (24, 2, 1), (12, 2, 2), (21, 3, 1), (16, 1, 1), (1, 2, 1)],
    )
    def test_limit(self, capsys, tmp_path, batch, balance, limit, dp, cp):
        """No micro-batch is over the limit, but that of one sample longer alone; each is in one."""
        options = f"--max-tokens-per-gpu {limit} --dp {dp} --cp {cp} --balance {balance}".split()
        packed = document(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        steps = packed["layout"]["plan"]["micro_batches"]
        groups = [group for step in steps for group in step]
        assert sorted(i for group in groups for i in group) == list(range(len(LENS)))
        assert {len(step) for step in steps} == {dp}
        for group in groups:
            assert sum(LENS[i] for i in group) <= limit * cp or len(group) == 1
        for file in packed["files"]:
            arrays = load_file(tmp_path / "r" / file["path"])
            held = [LENS[i] for i in steps[file["micro_batch"]][file["dp"]]]
            assert np.diff(arrays["cu_seqlens"])[: len(held)].tolist() == held
        check_tensors(tmp_path / "r", batch, [(cp, step) for step in steps], dp=dp, cp=cp)
        check_back(capsys, tmp_path / "r", batch)

    @pytest.mark.parametrize("limit", [16, 24, 30, 79, 200])
    def test_first_fit(self, capsys, tmp_path, batch, limit):
        """On one rank each sample is in the first micro-batch with room for it, in order."""
        bins = []
        for i, tokens in enumerate(LENS):
            room = [b for b in bins if sum(LENS[n] for n in b) + tokens <= limit]
            (room[0] if room else bins.append([]) or bins[-1]).append(i)
        options = ("--max-tokens-per-gpu", limit)
        packed = document(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert packed["layout"]["plan"]["micro_batches"] == [[b] for b in bins]

    def test_karmarkar_karp_is_even(self, capsys, tmp_path, batch):
        """Over two ranks the sums differ by what is left when differences replace the largest."""
        left = sorted(LENS)
        while len(left) > 1:
            left = sorted([*left[:-2], left[-1] - left[-2]])
        options = ("--dp", "2", "--balance", "karmarkar-karp")
        packed = document(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        (step,) = packed["layout"]["plan"]["micro_batches"]
        sums = [sum(LENS[i] for i in group) for group in step]
        assert (sum(sums), abs(sums[0] - sums[1])) == (sum(LENS), left[0])

    def test_an_unknown_balance(self, capsys, tmp_path, batch):
        """Another balance is refused with the names that there are."""
        options = ("--dp", "2", "--balance", "even")
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert "balance 'even' is not known: first-fit, karmarkar-karp, verl" in said
        assert written(tmp_path) == []


STAGES = {
    "an int": ("2", (0, 2, 4), "--pp 3", [[[(0, 0)]], [[(2, 1)]], [[(4, 2)]]]),
    "a list": ("0,1,0,1,1,0", (1, 3, 4), "--pp 2", [[[(1, 0)]], [[(3, 1), (4, 2)]]]),
    "a JSON list": (
        "[1, 0, 1, 0, 1, 0]",
        (0, 2, 4),
        "--pp 6",
        [[[(0, 0)]], [[]], [[(2, 1)]], [[]], [[(4, 2)]], [[]]],
    ),
    "chunks": (
        "0,1,0,1,1,0",
        (1, 3, 4),
        "--pp 3 --vpp 2",
        [[[], [(3, 1)]], [[(1, 0)], [(4, 2)]], [[], []]],
    ),
    "uneven": (
        "2",
        (0, 2, 4),
        "--pp 2 --layout first-stage-layers=1",
        [[[(0, 0)]], [[(2, 1), (4, 2)]]],
    ),
    "a layout": (
        "0,0,1,1,0,1",
        (2, 3, 5),
        "--pp 3 --layout pipeline-layout=Et|tt|tttL",
        [[[]], [[(2, 0)]], [[(3, 1), (5, 2)]]],
    ),
    "one stage": ("0,1,0,1,1,0", (1, 3, 4), "", [[[(1, 0), (3, 1), (4, 2)]]]),
}


class TestMoeLayerFreq:
    """moe-layer-freq: which layer a column of the dump is."""

    @pytest.mark.parametrize("numbering", ["layers", "ordinals"])
    @pytest.mark.parametrize("name", STAGES)
    def test_stages(self, capsys, tmp_path, name, numbering):
        """Stages hold their MoE layers, whether the dump has their numbers or counts from 0."""
        freq, layers, options, stages = STAGES[name]
        held = layers if numbering == "layers" else (0, 1, 2)
        batch = write_batch(tmp_path / "batch.parquet", (5, 3, 7), held)
        options = (
            "--layout",
            f"moe-layer-freq={freq}",
            "--layout",
            "decoder-layers=6",
            *options.split(),
        )
        packed = document(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert packed["tensors"]["layers"] == list(layers)
        named = [
            [[(e["layer"], e["ordinal"]) for e in chunk] for chunk in stage]
            for stage in packed["stages"]
        ]
        assert named == stages
        for pp, stage in enumerate(stages):
            arrays = load_file(tmp_path / "r" / f"dp0-cp0-tp0-pp{pp}" / "mb0000.safetensors")
            entries = [entry for chunk in stage for entry in chunk]
            tensors = {f"layer.{layer}": ordinal for layer, ordinal in entries}
            assert set(arrays) == {*tensors, "mask", "cu_seqlens", "cu_seqlens_padded"}
            for tensor, ordinal in tensors.items():
                parts = np.split(arrays[tensor], [5, 8])
                for part, ids in zip(parts, batch.ids, strict=True):
                    assert np.array_equal(part[:-1], ids[:, ordinal])
        check_back(capsys, tmp_path / "r", batch)
        again = open_dump(tmp_path / "again.parquet")
        assert again.meta.layers_L == layers

    @pytest.mark.parametrize(
        ("freq", "said"),
        [
            ("often", "moe-layer-freq often: expected a number, or a list such as 0,1,1"),
            ("1.5", "moe-layer-freq 1.5: expected a number"),
            ("0,1,", "moe-layer-freq 0,1,: expected a number"),
            ("[0,true]", "expected a number, or a list such as 0,1,1"),
            ("1", "has 3 MoE layers (the last is 4), moe-layer-freq names 6 of 6"),
            (
                "0,1,1,0,0,1",
                "has 3 MoE layers (the last is 4), moe-layer-freq names 3 of 6",
            ),
            ("0,1,1,0,0,0", "moe-layer-freq names 2 of 6"),
        ],
    )
    def test_refused(self, capsys, tmp_path, batch, freq, said):
        """A frequency that is none, or names other layers than the dump's, is refused."""
        options = ("--layout", f"moe-layer-freq={freq}", "--layout", "decoder-layers=6")
        assert said in complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert written(tmp_path) == []

    def test_a_layer_beyond_the_model(self, capsys, tmp_path, batch):
        """A dump with a layer that the model does not have is refused with both numbers."""
        options = ("--layout", "decoder-layers=4")
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert "has a layer 4, but the model 4 layers" in said
        assert written(tmp_path) == []


def content(folder):
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestForce:
    """What an output folder may be."""

    def test_only_with_force(self, capsys, tmp_path, batch):
        """A replay folder is kept without --force, and replaced whole with it."""
        folder = tmp_path / "r"
        assert run(capsys, "pack", batch.path, "--save", folder, "--cp", "2").code == 0
        before = content(folder)
        said = complaint(capsys, "pack", batch.path, "--save", folder)
        assert said == f"routectl: {folder}: already exists\nhint: --force to replace it\n"
        assert content(folder) == before
        assert run(capsys, "pack", batch.path, "--save", folder, "--force").code == 0
        assert set(content(folder)) == {
            "dp0-cp0-tp0-pp0/mb0000.safetensors",
            "manifest.json",
            "samples.parquet",
        }
        assert json.loads((folder / "manifest.json").read_text("utf-8"))["layout"]["cp"] == 1
        assert [path.name for path in tmp_path.iterdir()] == ["r"]

    @pytest.mark.parametrize("force", [(), ("--force",)])
    def test_another_folder(self, capsys, tmp_path, batch, force):
        """A folder that pack did not write is refused, --force or not, and keeps its files."""
        folder = tmp_path / "work"
        (folder / "deep").mkdir(parents=True)
        (folder / "notes.txt").write_text("mine", "utf-8")
        (folder / "deep" / "manifest.json").write_text("{}", "utf-8")
        before = content(folder)
        said = complaint(capsys, "pack", batch.path, "--save", folder, *force)
        assert said.startswith(f"routectl: {folder}: ")
        assert ("hint: --force" in said) == (not force)
        assert content(folder) == before
        assert written(tmp_path) == [
            "work",
            "work/deep",
            "work/deep/manifest.json",
            "work/notes.txt",
        ]

    def test_an_empty_folder(self, capsys, tmp_path, batch):
        """An empty folder is no replay folder, so it is refused too."""
        (tmp_path / "r").mkdir()
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", "--force")
        assert said.startswith(f"routectl: {tmp_path / 'r'}: ")
        assert written(tmp_path) == ["r"]

    def test_a_file(self, capsys, tmp_path, batch):
        """A file is not replaced by a folder."""
        (tmp_path / "r").write_text("mine", "utf-8")
        assert "r: " in complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", "--force")
        assert (tmp_path / "r").read_text("utf-8") == "mine"

    @pytest.mark.parametrize(
        "options", ["--padding ones", "--dtype int8 --padding spread --ep 5", "--rank tp=1"]
    )
    def test_a_failure_keeps_the_old_folder(self, capsys, tmp_path, batch, options):
        """When packing fails, the folder that was to be replaced is there as it was."""
        folder = tmp_path / "r"
        assert run(capsys, "pack", batch.path, "--save", folder).code == 0
        before = content(folder)
        complaint(capsys, "pack", batch.path, "--save", folder, "--force", *options.split())
        assert content(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["r"]


RANKS = ("--dp", "2", "--cp", "2", "--tp", "2", "--pp", "2", "--layout", "decoder-layers=6")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, batch):
    """The folder of all ranks."""
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    assert main(["pack", str(batch.path), "--save", str(folder), *RANKS]) == 0
    return folder


class TestRanks:
    """--rank: some ranks' files only."""

    @pytest.mark.parametrize(
        ("text", "only"),
        [
            ("cp=1", {"cp": 1}),
            ("tp=0,cp=1", {"tp": 0, "cp": 1}),
            ("dp=1, pp=0", {"dp": 1, "pp": 0}),
            (" pp=1 ", {"pp": 1}),
            ("dp=0,cp=1,tp=1,pp=1", {"dp": 0, "cp": 1, "tp": 1, "pp": 1}),
        ],
    )
    def test_forms(self, capsys, tmp_path, batch, whole, text, only):
        """The ranks that are named are written, byte for byte as with all the others."""
        packed = document(
            capsys, "pack", batch.path, "--save", tmp_path / "r", *RANKS, "--rank", text
        )
        assert packed["only"] == only
        ranks = [
            dict(zip(("dp", "cp", "tp", "pp"), rank, strict=True))
            for rank in product(range(2), repeat=4)
        ]
        names = {
            "dp{dp}-cp{cp}-tp{tp}-pp{pp}/mb0000.safetensors".format(**rank)
            for rank in ranks
            if only.items() <= rank.items()
        }
        found = content(tmp_path / "r")
        assert set(found) == {*names, "manifest.json", "samples.parquet"}
        all_of = content(whole)
        assert all(found[name] == all_of[name] for name in names)
        checked = document(capsys, "verify", tmp_path / "r", "--against", batch.path)
        assert checked["ok"]
        assert (checked["routes"] is None) == (set(only) != {"pp"})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cp", "--rank cp: got 'cp', expected some of dp, cp, tp, pp = n"),
            ("1", "--rank 1: got '1', expected some of dp, cp, tp, pp = n"),
            ("ep=0", "got 'ep=0', expected some of dp, cp, tp, pp = n"),
            ("CP=0", "got 'CP=0', expected some of dp, cp, tp, pp = n"),
            ("cp=0,cp=1", "got 'cp=1', expected some of dp, cp, tp, pp = n"),
            ("cp=0,", "got '', expected some of dp, cp, tp, pp = n"),
            (" ", "got ' ', expected some of dp, cp, tp, pp = n"),
            ("cp=", "--rank cp=: got '', expected a number"),
            ("cp=-1", "--rank cp=-1: got '-1', expected a number"),
            ("cp=0x1", "--rank cp=0x1: got '0x1', expected a number"),
            ("cp=1.0", "--rank cp=1.0: got '1.0', expected a number"),
            ("cp==1", "--rank cp==1: got '=1', expected a number"),
            ("cp=2", "no rank cp=2: cp is 2"),
            ("tp=1,dp=2", "no rank dp=2: dp is 2"),
            ("pp=9", "no rank pp=9: pp is 2"),
        ],
    )
    def test_refused(self, capsys, tmp_path, batch, text, said):
        """What is no rank, or one that is not there, is refused, and nothing is written."""
        options = (*RANKS, "--rank", text)
        assert said in complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert written(tmp_path) == []

    def test_a_rank_to_verify(self, capsys, batch, whole):
        """verify refuses a rank that is not there as well."""
        options = (whole, "--against", batch.path, "--rank", "cp=2")
        assert "no rank cp=2: cp is 2" in complaint(capsys, "verify", *options)


class TestRows:
    """Dumps that do not say how many tokens a sample has."""

    @pytest.fixture
    def bare(self, tmp_path):
        """Samples of 8, 4 and 6 rows, without tokens and lengths."""
        return write_batch(tmp_path / "batch.parquet", (9, 5, 7), tokens=False)

    def test_not_known(self, capsys, tmp_path, bare):
        """Without rows they are refused, and the hint has both ways."""
        said = complaint(capsys, "pack", bare.path, "--save", tmp_path / "r")
        assert (
            "sample 0: the dump does not say how many tokens it has\nhint: --layout rows=n-1 "
            in said
        )
        assert "rows=n when all" in said
        assert written(tmp_path) == ["batch.parquet"]

    @pytest.mark.parametrize(
        ("options", "lens", "routes"),
        [
            ("--layout rows=n-1", [9, 5, 7], 8 + 4 + 6),
            ("--layout rows=n", [8, 4, 6], 8 + 4 + 6),
            ("--layout rows=n --framework slime --layout pad-multiplier=1", [8, 4, 6], 7 + 3 + 5),
            ("--layout rows=n-1 --framework slime --layout pad-multiplier=1", [9, 5, 7], 8 + 4 + 6),
        ],
    )
    def test_lengths(self, capsys, tmp_path, bare, options, lens, routes):
        """n-1 gives each sample a token more than rows, n as many; slime drops the last's row."""
        packed = document(capsys, "pack", bare.path, "--save", tmp_path / "r", *options.split())
        assert packed["layout"]["lens"] == lens
        assert (packed["rows"], packed["padding_rows"]) == (sum(lens), sum(lens) - routes)
        arrays = load_file(tmp_path / "r" / "dp0-cp0-tp0-pp0" / "mb0000.safetensors")
        assert arrays["cu_seqlens"].tolist() == [0, *np.cumsum(lens).tolist()]
        for (begin, end), ids in zip(pairwise([0, *np.cumsum(lens)]), bare.ids, strict=True):
            real = arrays["mask"][begin:end]
            count = int(real.sum())
            assert count == min(len(ids), end - begin - ("slime" in options))
            assert real[:count].all()
            assert np.array_equal(arrays["layer.2"][begin : begin + count], ids[:count, 1])
        found = document(capsys, "verify", tmp_path / "r", "--against", bare.path)
        assert (found["ok"], found["routes"]) == (True, 3 * routes)

    def test_lengths_that_are_known(self, capsys, tmp_path, batch):
        """Where the dump tells lengths, rows changes nothing."""
        plain = document(capsys, "pack", batch.path, "--save", tmp_path / "r")
        given = document(capsys, "pack", batch.path, "--save", tmp_path / "n", "--layout", "rows=n")
        assert plain["layout"]["lens"] == given["layout"]["lens"] == list(LENS)

    def test_context(self, capsys, tmp_path, batch):
        """context refuses the first sample that is longer, and lets the longest one through."""
        options = ("--layout", "context=16")
        said = complaint(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        assert "sample 1 has 17 tokens, context is 16" in said
        assert written(tmp_path) == []
        options = ("--layout", "context=21")
        assert run(capsys, "pack", batch.path, "--save", tmp_path / "r", *options).code == 0


def plain_text(page):
    """A page without its escape codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", page)


def cells_of(page):
    """The cells of each row of a drawing by its label; broken rows joined, dots written out."""
    rows, label = {}, None
    for line in plain_text(page).splitlines():
        if re.fullmatch(r"(stream|cp\d+ tp\d+)\s*", line[:9]):
            label = line[:9].strip()
            rows[label] = []
        elif line[:9].strip():
            continue
        for cell in line[9:].split():
            dots = re.fullmatch(r"·(?:x(\d+))?", cell)
            rows[label] += ["·"] * int(dots[1] or 1) if dots else [cell]
    return rows


def drawn(rows):
    """Rows as cells."""
    return ["·" if row is None else f"{chr(97 + row[0])}{row[1]}" for row in rows]


def padding_of(page):
    """The padding rows and all rows that a drawing's headings tell, summed over micro-batches."""
    told = re.findall(r"(\d+) of (\d+) rows are padding", " ".join(page.split()))
    return tuple(sum(map(int, numbers)) for numbers in zip(*told, strict=True))


DRAWN = (9, 17, 3)
LAYOUTS = {
    "verl": ((2, 2), "--framework verl", verl_rows),
    "wide": ((1, 4), "--framework verl", verl_rows),
    "no cp": ((4, 1), "--framework verl", verl_rows),
    "slime": (
        (2, 2),
        "--framework slime --layout pad-multiplier=4",
        lambda lens, tp, cp, c, t: slime_rows(lens, tp, cp, 4, c, t),
    ),
    "128": (
        (2, 1),
        "--framework slime",
        lambda lens, tp, cp, c, t: slime_rows(lens, tp, cp, 128, c, t),
    ),
}


class TestDrawing:
    """The drawing is the layout."""

    def options(self, name):
        """The layout options of a case."""
        (tp, cp), options, _ = LAYOUTS[name]
        return ("--tp", tp, "--cp", cp, *options.split())

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_rows(self, capsys, monkeypatch, tmp_path, name):
        """Every rank's row has its tokens where they sit; all tokens are in the stream."""
        monkeypatch.chdir(tmp_path)
        (tp, cp), _, rows_of = LAYOUTS[name]
        done = run(capsys, "layout", "--lens", "9,17,3", *self.options(name))
        assert (done.code, done.err) == (0, "")
        assert "\x1b" not in done.out
        rows = cells_of(done.out)
        stream = rows.pop("stream")
        wanted = {
            f"cp{c} tp{t}": drawn(rows_of(DRAWN, tp, cp, c, t))
            for c, t in product(range(cp), range(tp))
        }
        assert rows == wanted
        cells = [cell for row in wanted.values() for cell in row]
        assert padding_of(done.out) == (cells.count("·"), len(cells))
        everything = [
            f"{s}{n}" for s, tokens in zip("abc", DRAWN, strict=True) for n in range(tokens)
        ]
        assert [cell for cell in stream if cell != "·"] == everything
        assert len(stream) == len(cells)
        assert written(tmp_path) == []

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_a_dump(self, capsys, tmp_path, name):
        """A dump is drawn as its lengths are, with the padding that its manifest counts."""
        batch = write_batch(tmp_path / "batch.parquet", DRAWN)
        options = self.options(name)
        of_lens = run(capsys, "layout", "--lens", "9,17,3", *options)
        of_dump = run(capsys, "layout", batch.path, *options)
        assert of_dump.code == 0
        assert of_dump.out == of_lens.out
        packed = document(capsys, "pack", batch.path, "--save", tmp_path / "r", *options)
        padding, rows = padding_of(of_dump.out)
        last_tokens = 0 if "slime" in packed["layout"]["framework"] else 3  # rows without a route
        assert (packed["rows"], packed["padding_rows"]) == (rows, padding + last_tokens)

    @pytest.mark.parametrize("columns", [60, 25, 200])
    @pytest.mark.parametrize("name", LAYOUTS)
    def test_terminals(self, capsys, monkeypatch, name, columns):
        """A terminal gets colours and rows broken to its width, and the same cells."""
        args = ("layout", "--lens", "9,17,3", *self.options(name))
        piped = run(capsys, *args).out
        code, page = on_terminal(monkeypatch, columns, *args)
        assert code == 0
        assert "\x1b[" in page
        assert cells_of(page) == cells_of(piped)
        assert padding_of(plain_text(page)) == padding_of(piped)
        lines = [n for n in plain_text(page).splitlines() if n[:3] in ("str", "cp0", "cp1", "   ")]
        assert max(map(len, lines)) <= columns
        assert len(lines) > len(cells_of(page)) or columns == 200

    def test_b_and_s_major(self, capsys):
        """BSHD rows take turns over the samples; b-major has each sample's rows together."""
        args = ("layout", "--lens", "3,5", "--tp", "2", "--layout", "seq-len=6")
        s_major = [[(b, s) if s < (3, 5)[b] else None for s in range(6) for b in range(2)]]
        b_major = [
            [(b, s) if s < (3, 5)[b] else None for b in range(2) for s in half]
            for half in ((0, 1, 2), (3, 4, 5))
        ]
        rows = cells_of(run(capsys, *args, "--layout", "form=bshd").out)
        assert rows == {f"cp0 tp{t}": drawn(cut(s_major[0], 2, t)) for t in range(2)}
        rows = cells_of(run(capsys, *args, "--layout", "form=bshd-b-major").out)
        assert rows == {f"cp0 tp{t}": drawn(b_major[t]) for t in range(2)}

    def test_a_plan(self, capsys, tmp_path):
        """Each group of each micro-batch is drawn once, headed by its ranks and samples."""
        plan = tmp_path / "plan.json"
        steps = [[[2, 0], [1]], {"cp": 4, "samples": [[3]]}]
        plan.write_text(json.dumps({"micro_batches": steps}), "utf-8")
        args = ("layout", "--lens", "9,17,3,6", "--plan", plan, "--cp", "2")
        page = run(capsys, *args).out
        assert page.startswith("verl, thd: tp 1, cp 2, dp 2\n")
        head, *parts = re.split(r"^(?=micro-batch)", page, flags=re.MULTILINE)
        assert head.count("\n") == 1
        wanted = [
            ("micro-batch 0, ranks from 0: a = sample 2, b = sample 0; 4 of 16 ", (3, 9), 2),
            ("micro-batch 0, ranks from 2: a = sample 1; 3 of 20 rows are padding\n", (17,), 2),
            ("micro-batch 1, ranks from 0: a = sample 3; 2 of 8 rows are padding\n", (6,), 4),
        ]
        for part, (title, lens, cp) in zip(parts, wanted, strict=True):
            assert part.startswith(title)
            rows = cells_of(part)
            del rows["stream"]
            assert rows == {f"cp{c} tp0": drawn(verl_rows(lens, 1, cp, c, 0)) for c in range(cp)}

    def test_many_rows(self, capsys, monkeypatch):
        """Beyond 512 rows a rank, runs are named by their first and last token."""
        args = ("layout", "--lens", "1400,301", "--cp", "2")
        page = run(capsys, *args).out
        assert "3 of 1704 rows are padding" in page
        assert cells_of(page) == {
            "cp0 tp0": ["a0-349", "a1050-1399", "b0-75", "b228-300", *["·"] * 3],
            "cp1 tp0": ["a350-699", "a700-1049", "b76-151", "b152-227"],
        }
        assert cells_of(on_terminal(monkeypatch, 60, *args)[1]) == cells_of(page)

    def test_of_many_the_first_are_drawn(self, capsys, monkeypatch):
        """Of many micro-batches and ranks a few are drawn and the others counted; lines fit."""
        lens = ",".join(str(20 + i % 7) for i in range(96))
        args = ("layout", "--lens", lens, "--dp", 4, "--cp", 4, "--tp", 2)
        args = (*args, "--layout", "micro-batch-size=6")
        page = run(capsys, *args).out
        headings = [line for line in page.splitlines() if line.startswith("micro-batch")]
        assert [line.partition(":")[0] for line in headings] == [
            f"micro-batch 0, ranks from {g}" for g in (0, 4, 8)
        ]
        assert page.count("... and 4 more ranks: --rank cp=C,tp=T draws one\n") == 3
        assert "... and 13 more micro-batches of ranks: --rank mb=M,dp=D draws one\n" in page
        code, shown = on_terminal(monkeypatch, 80, *args)
        lines = plain_text(shown).splitlines()
        assert (code, max(map(len, lines)) <= 80, len(lines) <= 60) == (0, True, True)

    def test_many_samples(self, capsys, monkeypatch):
        """Of many samples in a micro-batch some are named, and of a row a few lines are drawn."""
        args = ("layout", "--lens", ",".join(["9"] * 96), "--framework", "slime")
        code, shown = on_terminal(monkeypatch, 80, *args)
        lines = plain_text(shown).splitlines()
        assert (code, max(map(len, lines)) <= 80, len(lines) <= 12) == (0, True, True)
        text = " ".join(line.strip() for line in lines)
        assert "96 samples: a = sample 0, b = sample 1," in text
        assert "..., s95 = sample 95;" in text
        drawn = [cell for row in cells_of(run(capsys, *args).out).values() for cell in row]
        more = int(re.search(r"\.\.\. and (\d+) more", shown)[1])
        runs = [cell for cell in drawn if re.fullmatch(r"(\w|s\d\d\.)\d+-\d+", cell)]
        assert len(runs) + more == 96 + 1  # and one cell of padding

    def test_picked(self, capsys):
        """What --rank names is drawn alone, and whole."""
        args = ("layout", "--lens", ",".join(["40"] * 24), "--dp", 2, "--cp", 2)
        args = (*args, "--layout", "micro-batch-size=6", "--rank")
        page = run(capsys, *args, "mb=1,dp=1,cp=0").out
        assert page.splitlines()[1].startswith("micro-batch 1, ranks from 2: a = sample 18, ")
        assert list(cells_of(page)) == ["cp0 tp0"]
        wanted = verl_rows([40] * 6, 1, 2, 0, 0)
        assert cells_of(page)["cp0 tp0"] == drawn(wanted)
        page = run(capsys, *args, "mb=0").out
        assert page.count("micro-batch 0, ranks from") == 2
        assert "more" not in page

    def test_stages(self, capsys):
        """The layers of each stage come last, chunk by chunk."""
        options = ("--pp", "2", "--vpp", "2", "--layout", "decoder-layers=8")
        page = run(capsys, "layout", "--lens", "3", *options).out
        assert page.splitlines()[-2:] == [
            "pp0       layers 0-1 | 4-5",
            "pp1       layers 2-3 | 6-7",
        ]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ((), "expected one of DUMP and --lens N,N\nhint: --lens 9,17 lays out two samples"),
            (("--lens", "3,,4"), "--lens 3,,4: got '', expected a number"),
            (("--lens", "3,-4"), "--lens 3,-4: got '-4', expected a number"),
            (("--lens", "3,0"), "lens[1] must be at least 1, got 0"),
            ((DUMPS["native"], "--lens", "3,4"), "expected one of DUMP and --lens N,N"),
            (
                ("--lens", "3,4", "--rank", "x=1"),
                "got 'x=1', expected some of mb, dp, cp, tp, pp = n",
            ),
            (("--lens", "3,4", "--rank", "mb=1"), "no rank mb=1: mb is 1"),
        ],
    )
    def test_refused(self, capsys, monkeypatch, tmp_path, args, said):
        """Lengths that are none, no samples or two sorts of them, and other ranks are refused."""
        monkeypatch.chdir(tmp_path)
        assert said in complaint(capsys, "layout", *args)
        assert written(tmp_path) == []
