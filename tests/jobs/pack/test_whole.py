"""Whole samples only: rows that are missing, whose place was guessed, or that a reader refuses."""

import base64
import io
import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl import PackRequest, open_dump
from routectl.errors import FormatError, MismatchError
from routectl.formats.native.container import write_native
from routectl.jobs.pack.layout import LayoutOptions
from routectl.jobs.pack.request import pack_dump
from routectl.jobs.reading import Reading
from routectl.layouts.packing import FRAMEWORKS
from routectl.ops.pack.coverage import Absent, absent_rows
from support.dumps import make_dump, make_routes, make_sample
from support.packs import routes_like
from support.shell import complaint, document, run, written

LAYERS = (1, 2, 4)
KIND = (4, 32, None)
LENS = (9, 6, 12)
SIZES = ("--model", "3,4,32")
FILE = "dp0-cp0-tp0-pp0/mb0000.safetensors"


def native(path, held, lens=LENS, **more):
    """A native file of such routes, sample by sample; each has a prompt of two tokens."""
    samples = [
        make_sample(r, f"s{i}", [1, 1], [2] * (n - 2), **more)
        for i, (r, n) in enumerate(zip(held, lens, strict=True))
    ]
    dump = make_dump(samples, LAYERS, KIND[1], KIND[0])
    write_native(dump, dump.meta, path, force=False)
    return path


def whole(rows=-1, lens=LENS):
    """Routes of N + ``rows`` tokens from the first on."""
    rng = random.Random(5)
    return [routes_like(rng, n + rows, LAYERS, KIND) for n in lens]


def without(routes, *places):
    """Routes that lack rows at (row, layer index)."""
    return make_routes(routes.ids_TLK.tolist(), LAYERS, KIND[1], routes.start, places)


def lines(path, rows, lens=LENS, starts=None):
    """JSON lines with so many rows a sample, from a start that is said where there is one."""
    rng = random.Random(6)
    text = []
    for i, (count, n) in enumerate(zip(rows, lens, strict=True)):
        payload = io.BytesIO()
        np.save(payload, routes_like(rng, count, (0, 1, 2), KIND).ids_TLK)
        one = {
            "sample_id": f"s{i}",
            "prompt_token_ids": [1] * 4,
            "token_ids": [2] * (n - 4),
            "routed_experts_b64npy": base64.b64encode(payload.getvalue()).decode(),
        }
        if starts is not None:
            one["routed_experts_prompt_start"] = starts[i]
        text.append(json.dumps(one))
    path.write_text("\n".join(text) + "\n", "utf-8")
    return path


class TestMissingRows:
    """Every token but a sample's last must have a row in every layer."""

    @pytest.mark.parametrize("rows", [-1, 0])
    @pytest.mark.parametrize("framework", ["verl", "slime", "skyrl", "megatron", "prime-rl"])
    def test_a_token_without_any(self, capsys, tmp_path, rows, framework):
        """A token without rows is named, whether or not the last token has some."""
        held = whole(rows)
        held[1] = without(held[1], (3, 0), (3, 1), (3, 2))
        path = native(tmp_path / "d.parquet", held)
        said = complaint(capsys, "pack", path, "-o", tmp_path / "r", "--framework", framework)
        assert "sample 1: 12 of the 15 rows of its 5 tokens are there" in said
        assert "(the first that is not: position 3, layer 1)" in said
        assert written(tmp_path) == ["d.parquet"]

    @pytest.mark.parametrize(("row", "index"), [(0, 0), (0, 2), (2, 1), (4, 2)])
    def test_a_row_of_one_layer(self, capsys, tmp_path, row, index):
        """One row in one layer counts, at any position but the last."""
        held = whole(0)
        held[1] = without(held[1], (row, index))
        path = native(tmp_path / "d.parquet", held)
        said = complaint(capsys, "pack", path, "-o", tmp_path / "r")
        assert "sample 1: 14 of the 15 rows of its 5 tokens are there" in said
        assert f"position {row}, layer {LAYERS[index]})" in said

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_the_last_token_needs_none(self, capsys, tmp_path, framework):
        """With a row for every token the last may be missing; the folder is verified."""
        held = whole(0)
        held[1] = without(held[1], *((5, i) for i in range(3)))
        path = native(tmp_path / "d.parquet", held)
        options = ("--framework", framework)
        assert run(capsys, "pack", path, "-o", tmp_path / "r", *options).code == 0
        found = document(capsys, "pack", "--verify", tmp_path / "r", "--against", path)
        assert (found["ok"], found["rows_missing"], found["rows_made_up"]) == (True, 0, 0)

    def test_rows_from_the_second_token_on(self, capsys, tmp_path):
        """N - 1 rows from position 1 on are not those of N - 1 tokens."""
        rng = random.Random(7)
        held = [routes_like(rng, n - 1, LAYERS, KIND, 1) for n in LENS]
        path = native(tmp_path / "d.parquet", held)
        said = complaint(capsys, "pack", path, "-o", tmp_path / "r")
        assert "sample 0: 21 of the 24 rows of its 8 tokens are there" in said
        assert "position 0, layer 1)" in said

    def test_on_one_rank_and_in_one_stage(self, capsys, tmp_path):
        """Only the layers of a stage that is written need their rows."""
        held = whole()
        held[2] = without(held[2], (7, 2))
        path = native(tmp_path / "d.parquet", held)
        options = ("--pp", 5, "--decoder-layers", 5, "--rank")
        assert run(capsys, "pack", path, "-o", tmp_path / "r", *options, "pp=1").code == 0
        said = complaint(capsys, "pack", path, "-o", tmp_path / "q", *options, "pp=4")
        assert "sample 2: 10 of the 11 rows of its 11 tokens are there" in said

    def test_what_lets_them_pass(self, capsys, tmp_path):
        """-1 tells the router itself; a mask tells the trainer, where the user says so."""
        held = whole()
        held[1] = without(held[1], (3, 0), (3, 1), (3, 2), (4, 1))
        path = native(tmp_path / "d.parquet", held)
        for name, options in {"a": ("--padding", "minus-one"), "b": ("--allow-missing",)}.items():
            assert run(capsys, "pack", path, "-o", tmp_path / name, *options).code == 0
            found = document(capsys, "pack", "--verify", tmp_path / name, "--against", path)
            assert (found["ok"], found["rows_missing"], found["rows_made_up"]) == (True, 4, 0)
        manifests = [json.loads((tmp_path / n / "manifest.json").read_text()) for n in "ab"]
        assert [one["allow_missing"] for one in manifests] == [False, True]

    def test_filler_that_a_folder_presents_as_a_route(self, capsys, tmp_path):
        """A folder made without --allow-missing is wrong where filler is a token's route."""
        held = whole()
        full = native(tmp_path / "full.parquet", held)
        held[1] = without(held[1], (3, 0), (3, 1), (3, 2))
        path = native(tmp_path / "d.parquet", held)
        options = ("--framework", "slime")
        folder = tmp_path / "r"
        made = run(capsys, "pack", path, "-o", folder, *options, "--allow-missing")
        assert made.code == 0
        arrays = load_file(folder / FILE)
        (row,) = np.flatnonzero(~arrays["mask"][: sum(LENS)])[1:2]  # after the first's last token
        assert row == LENS[0] + 3
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "allow_missing": False}))
        args = ("pack", "--verify", folder, "--against", path)
        found = document(capsys, *args, "--allow-missing")
        assert (found["ok"], found["rows_missing"], found["rows_made_up"]) == (True, 3, 0)
        done = run(capsys, *args)
        assert done.code == 1
        assert (
            "\nmissing   3 rows of tokens without a route: 3 hold ids that a router would replay; "
            "--allow-missing if the trainer heeds the mask\n"
        ) in done.out
        found = document(capsys, *args, code=1)
        assert (found["rows_wrong"], found["rows_missing"], found["rows_made_up"]) == (0, 3, 3)
        arrays["mask"][row] = True  # a mask that presents it as one, too
        save_file(arrays, folder / FILE)
        found = document(capsys, *args, "--allow-missing", code=1)
        assert (found["rows_made_up"], found["rows_unmasked"]) == (3, 3)
        assert document(capsys, "pack", "--verify", folder, "--against", full, code=1)["rows_wrong"]

    def test_tensors_without_a_mask(self, capsys, tmp_path):
        """In tensors without a mask no filler can be told from a route, whatever is allowed."""
        held = whole()
        held[1] = without(held[1], (3, 0), (3, 1), (3, 2))
        path = native(tmp_path / "d.parquet", held)
        assert run(capsys, "pack", path, "-o", tmp_path / "r", "--allow-missing").code == 0
        arrays = load_file(tmp_path / "r" / FILE)
        (tmp_path / "t").mkdir()
        np.savez(tmp_path / "t" / "cp0.npz", **{k: a for k, a in arrays.items() if "layer" in k})
        args = ("pack", "--verify", tmp_path / "t", "--against", path)
        for options in ((), ("--allow-missing",)):
            assert document(capsys, *args, *options, code=1)["rows_made_up"] == 3
        for array in arrays.values():
            if array.ndim == 2:
                array[LENS[0] + 3] = -1
        np.savez(tmp_path / "t" / "cp0.npz", **{k: a for k, a in arrays.items() if "layer" in k})
        assert document(capsys, *args)["rows_made_up"] == 0

    @pytest.mark.parametrize("seed", range(30))
    def test_absent_rows(self, seed):
        """What a sample lacks is what looking each position and layer up says."""
        rng = random.Random(seed)
        tokens = rng.randint(1, 8)
        start = rng.randint(0, tokens)
        rows = rng.randint(0, tokens - start + rng.randint(0, 2))
        held = routes_like(rng, rows, LAYERS, KIND, start, rng.choice([0, 0.4]))
        gone = [
            (n, layer)
            for n in range(tokens - 1)
            for i, layer in enumerate(LAYERS)
            if not start <= n < start + rows
            or (held.missing_TL is not None and held.missing_TL[n - start, i])
        ]
        expected = Absent(len(gone), 3 * (tokens - 1), *gone[0]) if gone else None
        assert absent_rows(held, tokens, LAYERS) == expected
        all_gone = Absent(3 * (tokens - 1), 3 * (tokens - 1), 0, 1) if tokens > 1 else None
        assert absent_rows(None, tokens, LAYERS) == all_gone


class TestGuessedStarts:
    """A start that nobody gave is a guess by the row count."""

    GUESSED = "nobody said where rows begin, and by their counts it is "

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_different_ones(self, capsys, tmp_path, framework):
        """No framework packs samples whose starts were guessed in different ways."""
        path = lines(tmp_path / "d.jsonl", (8, 3, 11))
        args = ("pack", path, *SIZES, "-o", tmp_path / "r", "--framework", framework)
        told = "at 2 in sample 1 (s1), at 0 in the others"
        said = complaint(capsys, *args)
        assert said.startswith(f"routectl: {path}: {self.GUESSED}{told}\nhint: DUMP::start=S ")
        assert complaint(capsys, *args, "--allow-missing").split("\n")[0] == said.split("\n")[0]
        assert written(tmp_path) == ["d.jsonl"]

    def test_in_python(self, tmp_path):
        """The request that the command makes refuses them as well."""
        held = whole()
        held[1] = make_routes(held[1].ids_TLK[2:].tolist(), LAYERS, KIND[1], 2)
        samples = [
            make_sample(r, f"s{i}", [1] * 2, [2] * (n - 2), start_inferred=i == 1)
            for i, (r, n) in enumerate(zip(held, LENS, strict=True))
        ]
        dump = make_dump(samples, LAYERS, KIND[1], KIND[0])
        write_native(dump, dump.meta, tmp_path / "m.parquet", force=False)
        for framework in ("miles", "verl"):
            request = PackRequest(
                dump=str(tmp_path / "m.parquet"),
                output=tmp_path / "r",
                layout=LayoutOptions(framework=framework),
            )
            with pytest.raises(MismatchError, match="at 2 in sample 1"):
                pack_dump(request)

    def test_against_what_was_said(self, capsys, tmp_path):
        """A guess unlike the starts that requests gave is refused, and one like them is not."""
        said = (2, 2, 2)
        rows = tuple(n - 1 - start for n, start in zip(LENS, said, strict=True))
        for name, odd, code in (("a", 2, 0), ("b", 4, 2)):
            text = lines(tmp_path / f"{name}.jsonl", (*rows[:2], LENS[2] - 1 - odd), starts=said)
            entries = [json.loads(line) for line in text.read_text().splitlines()]
            del entries[2]["routed_experts_prompt_start"]
            text.write_text("\n".join(map(json.dumps, entries)) + "\n", "utf-8")
            args = ("pack", text, *SIZES, "-o", tmp_path / name, "--framework", "miles")
            done = run(capsys, *args)
            assert done.code == code
            if code:
                assert "at 4 in sample 2 (s2), at 2 in the others" in done.err

    def test_the_same_everywhere(self, capsys, tmp_path):
        """One prefix that no sample has rows of is -1 for miles, and refused for others as ever."""
        path = lines(tmp_path / "d.jsonl", tuple(n - 3 for n in LENS))
        args = ("pack", path, *SIZES, "--framework")
        assert run(capsys, *args, "miles", "-o", tmp_path / "r").code == 0
        assert "rows of its 8 tokens are there" in complaint(capsys, *args, "verl", "-o", "x")

    def test_what_the_engine_counted(self, capsys, tmp_path):
        """A start that is the engine's count of cached tokens is no guess."""
        rng = random.Random(8)
        samples = [
            make_sample(
                routes_like(rng, n - 1 - start, LAYERS, KIND, start),
                f"s{start}",
                [1] * 4,
                [2] * (n - 4),
                start_inferred=start > 0,
                cached_tokens=start,
            )
            for n, start in zip(LENS, (0, 2, 4), strict=True)
        ]
        dump = make_dump(samples, LAYERS, KIND[1], KIND[0])
        write_native(dump, dump.meta, tmp_path / "d.parquet", force=False)
        args = ("pack", tmp_path / "d.parquet", "--framework", "miles", "-o", tmp_path / "r")
        assert run(capsys, *args).code == 0

    def test_one_row_short(self, capsys, tmp_path):
        """N - 2 rows are refused without a start, in all samples as in one; with it they stand."""
        everywhere = lines(tmp_path / "all.jsonl", tuple(n - 2 for n in LENS))
        one = lines(tmp_path / "one.jsonl", (8, 4, 11))
        args = (*SIZES, "--framework", "miles", "-o", tmp_path / "r")
        said = complaint(capsys, "pack", everywhere, *args)
        assert "N - 2 rows may lack the first or the last: sample 0 (s0), sample 1 (s1)" in said
        assert "at 1 in sample 1 (s1), at 0 in the others" in complaint(capsys, "pack", one, *args)
        for path in (everywhere, one):
            assert run(capsys, "pack", f"{path}::start=0", *args, "--force").code == 0
            manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
            assert [extent[0] for extent in manifest["extents"]] == [0, 0, 0]
        verl = (*args[:-3], "verl", "-o", tmp_path / "q")
        assert "21 of the 24 rows" in complaint(capsys, "pack", f"{everywhere}::start=0", *verl)

    def test_rows_that_end_early(self, capsys, tmp_path):
        """Rows from a start that was said, one too few in some samples, are no engine's count."""
        held = whole()
        held[1] = make_routes(held[1].ids_TLK[:-1].tolist(), LAYERS, KIND[1])
        path = native(tmp_path / "d.parquet", held)
        args = ("pack", path, "--framework", "miles", "-o", tmp_path / "r")
        said = complaint(capsys, *args)
        told = "1 of 3 samples lack a row at the end that never came: sample 1 (s1)"
        assert said.startswith(f"routectl: {path}: {told}\nhint: DUMP::start=S ")
        for dump, *options in (
            (path, "--allow-missing"),
            (f"{path}::start=0",),
            (path, "--skip-damaged"),
        ):
            done = run(capsys, "pack", dump, *args[2:], *options, "--force")
            assert done.code == 0
            skipped = json.loads((tmp_path / "r" / "manifest.json").read_text())["skipped"]
            assert [s["sample"] for s in skipped] == [1] * (options == ["--skip-damaged"])

    def test_everywhere_from_a_start_that_was_said(self, capsys, tmp_path):
        """N - 2 rows in every sample from a given start are how TensorRT-LLM counts."""
        path = lines(tmp_path / "d.jsonl", tuple(n - 2 for n in LENS), starts=(0, 0, 0))
        args = ("pack", path, *SIZES, "--framework", "miles", "-o", tmp_path / "r")
        assert run(capsys, *args).code == 0

    @pytest.mark.parametrize(
        ("engine", "code"), [("tensorrt_llm", 0), ("TensorRT-LLM", 0), ("vllm", 2)]
    )
    def test_an_engine_that_counts_one_less(self, capsys, tmp_path, engine, code):
        """Where TensorRT-LLM wrote the dump, N - 2 rows of a lone sample are its form."""
        held = routes_like(random.Random(9), 7, LAYERS, KIND)
        dump = make_dump(
            [make_sample(held, "s", [1, 1], [2] * 7)], LAYERS, KIND[1], KIND[0], engine=engine
        )
        write_native(dump, dump.meta, tmp_path / "d.parquet", force=False)
        args = ("pack", tmp_path / "d.parquet", "--framework", "miles", "-o", tmp_path / "r")
        assert run(capsys, *args).code == code
        if not code:
            args = ("pack", "--verify", tmp_path / "r", "--against", tmp_path / "d.parquet")
            assert document(capsys, *args)["rows_missing"] == 3

    def test_verify_refuses_them(self, capsys, tmp_path):
        """Tensors are not proved against a dump whose rows stand where they were guessed."""
        path = lines(tmp_path / "d.jsonl", (8, 3, 11))
        good = lines(tmp_path / "good.jsonl", (8, 5, 11))
        assert run(capsys, "pack", good, *SIZES, "-o", tmp_path / "r").code == 0
        args = ("pack", "--verify", tmp_path / "r", "--against", path, *SIZES)
        assert self.GUESSED in complaint(capsys, *args)
        (tmp_path / "r" / "manifest.json").unlink()
        assert self.GUESSED in complaint(capsys, *args)

    @pytest.mark.parametrize("target", ["miles", "slime", "verl-padded", "skyrl", "nemo-rl"])
    def test_convert_refuses_them(self, capsys, tmp_path, target):
        """What trainers read by position is not written from starts that were guessed apart."""
        path = lines(tmp_path / "d.jsonl", (8, 3, 11))
        suffix = ".jsonl" if target == "nemo-rl" else ".pt"
        args = ("convert", path, "--save", tmp_path / f"r{suffix}", "--to", target, *SIZES)
        assert f"{self.GUESSED}at 2 in sample 1 (s1)" in complaint(capsys, *args)
        assert written(tmp_path) == ["d.jsonl"]
        assert run(capsys, *args, "--missing", "drop").code == 0
        native = ("convert", path, "--save", tmp_path / "r.parquet", *SIZES)
        assert run(capsys, *native).code == 0  # which keeps that they were guessed


class TestDamagedSamples:
    """A sample that its reader refuses stops pack, or is left out and named."""

    LENS = (9, 6, 12, 7, 10)
    ROWS = (8, 5, 30, 6, 1)  # too many in the third, too few in the fifth

    @pytest.fixture
    def damaged(self, tmp_path):
        """Five samples of which the third and the fifth are damaged."""
        return lines(tmp_path / "d.jsonl", self.ROWS, self.LENS, [0] * 5)

    def test_refused(self, capsys, tmp_path, damaged):
        """The first is named, and the option; nothing is written."""
        said = complaint(capsys, "pack", damaged, *SIZES, "-o", tmp_path / "r")
        assert said.startswith(f"routectl: {damaged}: ")
        assert said.endswith("\nhint: --skip-damaged leaves out samples that are damaged\n")
        assert written(tmp_path) == ["d.jsonl"]

    @pytest.mark.parametrize("framework", ["verl", "miles", "slime", "skyrl"])
    def test_left_out(self, capsys, tmp_path, damaged, framework):
        """They are counted and named on stderr, in manifest and --json; the rest is whole."""
        options = ("--framework", framework, "--cp", 2, "--dp", 2)
        args = ("pack", damaged, *SIZES, "-o", tmp_path / "r", "--skip-damaged", *options)
        done = run(capsys, *args, "--json")
        assert done.code == 0
        assert "skipped 2 damaged samples: s2, s4; the first: " in done.err
        manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
        told = [(one["sample"], one["sample_id"]) for one in manifest["skipped"]]
        assert told == [(2, "s2"), (4, "s4")]
        assert "got 30 rows" in manifest["skipped"][0]["why"]
        assert json.loads(done.out)["skipped"] == manifest["skipped"]
        assert manifest["layout"]["lens"] == [9, 6, 7]
        verify = ("pack", "--verify", tmp_path / "r", "--against")
        found = document(capsys, *verify, damaged, *SIZES)
        assert (found["ok"], found["routes"]) == (True, (8 + 5 + 6) * 3)
        assert run(capsys, "unpack", tmp_path / "r", "-o", tmp_path / "u.parquet").code == 0
        again = open_dump(tmp_path / "u.parquet")
        assert [sample.sample_id for sample in again] == ["s0", "s1", "s3"]
        assert document(capsys, *verify, tmp_path / "u.parquet")["ok"]

    def test_plans_name_samples_of_the_dump(self, capsys, tmp_path, damaged):
        """A plan goes by places in the dump, with those left out, and by ids."""
        plan = tmp_path / "plan.json"
        plan.write_text(json.dumps({"micro_batches": [[[3, 2], ["s0"]], [["s4"], [1]]]}), "utf-8")
        args = ("pack", damaged, *SIZES, "-o", tmp_path / "r", "--skip-damaged", "--plan", plan)
        assert run(capsys, *args).code == 0
        layout = json.loads((tmp_path / "r" / "manifest.json").read_text())["layout"]
        assert layout["plan"] == {"micro_batches": [[[2], [0]], [[], [1]]]}
        args = ("pack", "--verify", tmp_path / "r", "--against", damaged, *SIZES)
        assert document(capsys, *args)["ok"]

    def test_tensors_of_a_trainer(self, capsys, tmp_path, damaged):
        """Without a manifest --verify leaves them out where it is told to."""
        args = ("pack", damaged, *SIZES, "-o", tmp_path / "r", "--skip-damaged")
        assert run(capsys, *args).code == 0
        (tmp_path / "r" / "manifest.json").unlink()
        (tmp_path / "r" / "samples.parquet").unlink()
        args = ("pack", "--verify", tmp_path / "r", "--against", damaged, *SIZES)
        assert "--skip-damaged" in complaint(capsys, *args)
        done = run(capsys, *args, "--skip-damaged", "--json")
        assert json.loads(done.out)["ok"]
        assert "skipped 2 damaged samples: s2, s4" in done.err

    def test_beyond_the_tokens(self, capsys, tmp_path):
        """Rows of more tokens than a sample has are damage, too."""
        held = whole()
        held[0] = routes_like(random.Random(1), 10, LAYERS, KIND)
        path = native(tmp_path / "d.parquet", held)
        args = ("pack", path, "-o", tmp_path / "r")
        said = complaint(capsys, *args)
        assert "sample 0: has a route at position 9, but 9 tokens\nhint: --skip-damaged" in said
        done = run(capsys, *args, "--skip-damaged")
        assert (done.code, "skipped 1 damaged sample: s0" in done.err) == (0, True)
        said = complaint(capsys, "pack", "--verify", tmp_path / "r", "--against", path, "--tp", 1)
        assert "says the layout" in said

    def test_all_of_them(self, capsys, tmp_path):
        """Where every sample is damaged nothing is left to pack."""
        path = lines(tmp_path / "d.jsonl", (30, 30, 30))
        said = complaint(capsys, "pack", path, *SIZES, "-o", tmp_path / "r", "--skip-damaged")
        assert "no samples: all 3 are damaged: nothing to pack" in said

    def test_none_of_them(self, capsys, tmp_path):
        """Where none is damaged the option changes nothing."""
        path = lines(tmp_path / "d.jsonl", (8, 5, 11))
        args = ("pack", path, *SIZES, "-o", tmp_path / "r")
        done = run(capsys, *args, "--skip-damaged")
        assert (done.code, "skipped" in done.err) == (0, False)
        assert json.loads((tmp_path / "r" / "manifest.json").read_text())["skipped"] == []

    def test_what_a_manifest_says_of_them(self, capsys, tmp_path, damaged):
        """A manifest whose list of them is no list is damaged."""
        args = ("pack", damaged, *SIZES, "-o", tmp_path / "r", "--skip-damaged")
        assert run(capsys, *args).code == 0
        path = tmp_path / "r" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "skipped": [{"sample": "x"}]}))
        args = ("pack", "--verify", tmp_path / "r", "--against", damaged, *SIZES)
        said = complaint(capsys, *args)
        assert (
            "manifest.json: damaged: Expected `int`, got `str` - at `$.skipped[0].sample`" in said
        )

    def test_in_python(self, tmp_path, damaged):
        """The request that the command makes refuses a damaged sample, and leaves it out."""
        reading = Reading(model="3,4,32")
        request = PackRequest(dump=str(damaged), output=tmp_path / "r", reading=reading)
        with pytest.raises((FormatError, MismatchError), match="got 30 rows"):
            pack_dump(request)
        request = PackRequest(
            dump=str(damaged), output=tmp_path / "r", reading=reading, skip_damaged=True
        )
        assert [one["sample_id"] for one in pack_dump(request)["skipped"]] == ["s2", "s4"]
