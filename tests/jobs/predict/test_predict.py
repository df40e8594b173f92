"""routectl predict: its files, its verdict, its refusals, and predicted routes as a dump."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from routectl import diff, open_dump
from routectl.checkpoints.predictor import open_predictor, write_predictor
from routectl.dump import DumpMeta, Sample
from routectl.errors import FormatError, UnsupportedError
from routectl.formats.native.container import write_native
from support import families
from support.forwards import quiet
from support.shell import DUMPS, complaint, document, run, written

pytestmark = pytest.mark.models

MODEL, EXPERTS, TOP_K = "qwen3_moe", 16, 4
STEP = 0.02  # how far each version moves a router, of its size
SAMPLES = 40  # of which a fifth is held out: as many as an interval takes


def stepped(model, by):
    """Move every router's weight ``by`` steps along a direction of its own."""
    rng = torch.Generator().manual_seed(5)
    for router in families.routers(model).values():
        weight_ED = router.weight.data
        way_ED = torch.randn(weight_ED.shape, generator=rng)
        weight_ED += by * STEP * weight_ED.norm() / way_ED.norm() * way_ED


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Checkpoints v0, v1, v2, v4 of routers that move along a line, and v0's router inputs."""
    from routectl.cli.main import main

    place = tmp_path_factory.mktemp("predict")
    at = {}
    for number in (0, 1, 2, 4):
        model = families.tiny(MODEL)
        stepped(model, number)
        at[f"v{number}"] = place / f"v{number}"
        with quiet():
            model.save_pretrained(at[f"v{number}"])
    layers = tuple(families.routers(model))
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            None,
            sample_id=str(i),
            prompt_ids=ids[:4],
            response_ids=ids[4:],
            prompt_length=4,
            response_length=len(ids) - 4,
        )
        for i, ids in enumerate(
            rng.integers(3, families.VOCAB, 30).astype(np.int32) for _ in range(SAMPLES)
        )
    ]
    meta = DumpMeta("-", "native", layers, EXPERTS, TOP_K)
    write_native(samples, meta, place / "dump.parquet", force=False)
    inputs = {}
    for name in ("v0", "v1"):
        inputs[name] = place / f"inputs_{name}.safetensors"
        args = [
            "recompute",
            at[name],
            place / "dump.parquet",
            "--save",
            place / f"{name}.parquet",
            "--router-inputs",
            inputs[name],
            "--threads",
            "1",
        ]
        assert main([str(arg) for arg in args]) == 0
    return SimpleNamespace(place=place, at=at, inputs=inputs, layers=layers)


def versions(house, *names):
    """The --at options of versions."""
    return [part for name in names for part in ("--at", f"{name}={house.at[name]}")]


def fit(capsys, house, path, *more):
    """The document of a fit from v0 to v1."""
    return document(
        capsys,
        "predict",
        "fit",
        house.inputs["v0"],
        *versions(house, "v0", "v1"),
        "--save",
        path,
        "--threads",
        "1",
        *more,
    )


def judged(house, predictor, *more):
    """The words of a command that judges a predictor on v0's router inputs."""
    words = ("predict", "judge", house.inputs["v0"], "--predictor", predictor)
    return (*words, "--threads", "1", *more)


@pytest.fixture
def predictor(capsys, tmp_path, house):
    """A predictor of v0 to v1, in a file."""
    fit(capsys, house, tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def test_fit_and_judge_say_the_same(capsys, tmp_path, house):
    """A fit judges itself on held-out rows, and a judge of its file finds the same figures."""
    path = tmp_path / "p.safetensors"
    made = fit(capsys, house, path)
    assert written(tmp_path) == ["p.safetensors"]
    assert made["schema"] == "routectl.predict/1"
    assert made["later"] == [
        {"version": "v1", "lag": 1, "fitted": True, "hidden_states": "recomputed"}
    ]
    firsts = {int(sample.token_ids[0]) for sample in open_dump(house.place / "dump.parquet")}
    counted = SAMPLES * 29 + len(
        firsts
    )  # a first token that another sequence begins with is one row
    assert made["sequences"] == made["predictor"]["held"] == 8
    assert made["tokens"] + made["predictor"]["tokens"] == counted
    assert made["tokens"] + made["tokens_left_out"] == SAMPLES * 30
    again = document(
        capsys,
        "predict",
        "judge",
        house.inputs["v0"],
        "--predictor",
        path,
        *versions(house, "v0", "v1"),
        "--threads",
        "1",
    )
    assert again == made
    (one,) = made["comparisons"]
    assert one["rows"] == made["tokens"] * len(house.layers)
    assert one["predicted"]["gain"]["low"] > 0  # the routers moved in a way that can be learnt
    assert made["verdict"] == {"judged": ["v1"], "beats": ["v1"], "failed": [], "exit_code": 0}


def test_recomputed_or_given(capsys, tmp_path, house):
    """A later version's hidden states from its checkpoint or from a file give equal figures."""
    one = fit(capsys, house, tmp_path / "a.safetensors")
    given = f"v1={house.inputs['v1']}"
    two = fit(capsys, house, tmp_path / "b.safetensors", "--inputs", given)
    assert two["later"][0]["hidden_states"] == str(house.inputs["v1"])
    assert one["comparisons"] == two["comparisons"]
    frozen = fit(capsys, house, tmp_path / "c.safetensors", "--frozen-inputs")
    assert frozen["later"][0]["hidden_states"] == "of the old version"
    first = house.layers[0]  # nothing is upstream of it that routers could have moved
    assert frozen["comparisons"][0]["layers"][0] == {
        **two["comparisons"][0]["layers"][0],
        "layer": first,
    }
    assert frozen["comparisons"] != two["comparisons"]


def test_later_versions_and_extrapolation(capsys, tmp_path, house, predictor):
    """From v1 on, routers that go straight on are met by extrapolation at every lag."""
    line = ("predict", "judge", house.inputs["v1"], "--predictor", predictor, "--old", "v1")
    line += ("--threads", "1")
    doc = document(capsys, *line, *versions(house, "v0", "v1", "v2", "v4"), "--frozen-inputs")
    assert (doc["old"], doc["previous"]) == ("v1", "v0")
    assert [(one["version"], one["lag"]) for one in doc["comparisons"]] == [("v2", 1), ("v4", 3)]
    assert not any(later["fitted"] for later in doc["later"])
    for one in doc["comparisons"]:
        assert one["extrapolated"]["accuracy"]["value"] > 0.999
        assert one["extrapolated"]["gain"]["low"] > 0
        assert one["frozen"]["mismatch"]["value"] > 0.05
    target = tmp_path / "report.txt"
    line = (*line, *versions(house, "v0", "v1", "v2"))
    rate = doc["comparisons"][0]["replaced"][-1]["replace_rate"]
    over = run(capsys, *line, "--frozen-inputs", "--fail-over", "replaced@1:0%")
    assert (over.code, rate > 0) == (1, True)
    assert f"  replaced@1:0%: replace rate is {100 * rate:.2f} % at v2\n" in over.out
    assert "replaced, of frozen" not in over.out  # none below the weakest own expert by much
    doc["comparisons"][0]["replaced"][2]["replace_rate"] = 0.0213
    (tmp_path / "told.json").write_text(json.dumps(doc), "utf-8")
    told = run(capsys, "report", tmp_path / "told.json").out
    assert re.search(r"replaced, of frozen .* below 0.5 .* below 1\n.* 2.13 % ", told)
    assert run(capsys, *line, "--fail-over", "replaced@1:100%").code == 0
    text = run(capsys, *line, "-o", target)
    assert (text.code, text.out) == (0, "")
    lines = target.read_text().splitlines()
    assert lines[0].split("  ")[0] in ("BETTER", "NO GAIN")
    assert lines[2] == "later     v2, lag 1; hidden states recomputed"
    assert any(line.startswith("v1 > v2") and "extrapolated" in line for line in lines)


def test_no_gain_is_said_first(capsys, house, predictor):
    """No gain over freezing is what the first line says; under a threshold the exit is 1."""
    at = [*versions(house, "v0"), "--at", f"again7={house.at['v0']}"]
    args = judged(house, predictor, *at)
    done = run(capsys, *args)
    assert done.code == 0
    assert done.out.startswith("NO GAIN  predicted routes do not beat frozen ones: accuracy -")
    done = run(capsys, *args, "--fail-under", "gain:0%")
    assert done.code == 1
    assert "\n  gain:0%: gain is -" in done.out
    doc = document(capsys, *args, "--fail-under", "gain:0%", code=1)
    assert doc["verdict"]["failed"][0]["version"] == "again7"
    assert doc["comparisons"][0]["frozen"]["accuracy"]["value"] == 1
    assert doc["comparisons"][0]["predicted"]["removed"]["value"] is None
    assert doc["comparisons"][0]["lag"] == 7
    assert run(capsys, *args, "--fail-under", "gain:-100%").code == 0


def test_lags_are_of_numbers_or_places(capsys, house, predictor):
    """Without whole numbers that ascend at the ends of names, a lag counts places."""
    named = {"old": "v0", "b7": "v1", "c": "v2"}
    at = [part for name, v in named.items() for part in ("--at", f"{name}={house.at[v]}")]
    doc = document(capsys, *judged(house, predictor, *at, "--frozen-inputs"))
    assert [later["lag"] for later in doc["later"]] == [1, 2]
    assert [later["fitted"] for later in doc["later"]] == [True, False]  # told by the routers


def test_write(capsys, tmp_path, house, predictor):
    """Predicted routes are a dump that diff and pack read; a zero predictor gives v0's own."""
    out = tmp_path / "predicted.parquet"
    args = (
        "predict",
        "write",
        house.inputs["v0"],
        "--save",
        out,
        "--predictor",
        predictor,
        *versions(house, "v0"),
        "--threads",
        "1",
    )
    said = document(capsys, *args)
    assert (said["schema"], said["samples"]) == ("routectl.written/1", SAMPLES)
    assert (said["source"], said["saved"]) == (str(house.inputs["v0"]), str(out))
    assert "already exists" in complaint(capsys, *args)
    bare = [tmp_path / "bare.parquet" if word is out else word for word in args]
    assert run(capsys, *bare, "--no-tokens").code == 0
    assert {sample.prompt_ids is None for sample in open_dump(out)} == {False}
    assert {sample.prompt_ids is None for sample in open_dump(tmp_path / "bare.parquet")} == {True}
    found = open_dump(out)
    assert (found.meta.order, found.meta.margins, len(found)) == ("score", True, SAMPLES)
    assert found.meta.provenance["mode"] == "predicted"
    assert found.meta.provenance["predictor"] == "v0 to v1"
    assert (found[0].routes.margin_TL >= 0).all()
    own, later = (open_dump(house.place / f"{name}.parquet") for name in ("v0", "v1"))
    predicted = diff(found, later, match="tokens")
    frozen = diff(own, later, match="tokens")
    assert predicted.rows == frozen.rows == 30 * SAMPLES * len(house.layers)
    assert predicted.rows_mismatched < 0.7 * frozen.rows_mismatched
    done = run(
        capsys,
        "pack",
        out,
        "--save",
        tmp_path / "packed",
        "--layout",
        f"decoder-layers={len(house.layers) + 1}",
    )
    assert done.code == 0, done.err
    done = run(capsys, "verify", tmp_path / "packed", "--against", out)
    assert done.out.startswith("VERIFIED"), done.out
    stored = open_predictor(predictor)
    for weight_DE in stored.weights.values():
        weight_DE.zero_()
    write_predictor(stored, predictor, force=True)
    assert run(capsys, *args, "--force").code == 0
    assert diff(open_dump(out), own, match="tokens").rows_mismatched == 0


def test_the_file_is_what_was_fitted(capsys, tmp_path, house, predictor):
    """A predictor reads back as it was written, whatever the strides of its matrices."""
    stored = open_predictor(predictor)
    layer = house.layers[0]
    assert stored.weights[layer].shape == (32, EXPERTS)
    assert stored.facts.later == ("v1",)
    strided = stored.weights[layer].T.contiguous().T
    stored.weights[layer] = strided
    write_predictor(stored, tmp_path / "again.safetensors", force=False)
    again = open_predictor(tmp_path / "again.safetensors")
    assert again.weights[layer].equal(strided)
    assert again.facts == stored.facts
    assert np.array_equal(again.prefixes, stored.prefixes)


def damaged(path, **changes):
    """Metadata with some facts changed; None takes one out."""
    about = {**json.loads(metadata(path)["routectl"]), **changes}
    return {"routectl": json.dumps({n: fact for n, fact in about.items() if fact is not None})}


def metadata(path):
    """The metadata of a safetensors file."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_hostile_files(tmp_path, predictor):
    """Files that no fit writes are refused as such."""
    tensors, name = load_file(predictor), next(n for n in load_file(predictor) if n[0] == "l")
    path = tmp_path / "hostile.safetensors"
    plain = metadata(predictor)
    for changed, about, words in (
        ({name: tensors[name].astype(np.float16)}, plain, r"got F16 .32, 16., expected F32"),
        ({name: tensors[name][0]}, plain, r"got F32 .16., expected F32 .D, E."),
        ({name: tensors[name] * np.nan}, plain, "not finite"),
        ({"fitted_prefixes": tensors["fitted_prefixes"].astype(np.float32)}, plain, "no predictor"),
        ({"layer.99.predictor": tensors[name]}, plain, "of other layers"),
        ({}, None, "no 'routectl' entry"),
        ({}, {"routectl": "{"}, "metadata: not JSON"),
        ({}, {"routectl": "[]"}, "expected a JSON object"),
        ({}, damaged(predictor, old=None), "metadata cannot be read"),
        ({}, damaged(predictor, extra=1), "metadata cannot be read"),
        ({}, damaged(predictor, later=5), "metadata cannot be read"),
        ({}, damaged(predictor, layers=[{"layer": "x"}]), "metadata cannot be read"),
        ({}, damaged(predictor, layers=[5]), "metadata cannot be read"),
        ({}, damaged(predictor, routers={}), "metadata cannot be read"),
        ({}, damaged(predictor, routers=[1]), "metadata cannot be read"),
        ({}, damaged(predictor, tokens="many"), "metadata cannot be read"),
    ):
        save_file({**tensors, **changed}, path, metadata=about)
        with pytest.raises(FormatError, match=words):
            open_predictor(path)
    save_file(tensors, path, metadata=damaged(predictor, schema="routectl.predictor/2"))
    with pytest.raises(UnsupportedError, match="predictor/2"):
        open_predictor(path)
    data = predictor.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    beyond_float64 = "-1" + "0" * 400
    header = json.dumps({**json.loads(data[8:end]), "__metadata__": 0})
    header = header.replace('"__metadata__": 0', f'"__metadata__": {beyond_float64}').encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    with pytest.raises(FormatError, match=r"damaged \.safetensors"):
        open_predictor(path)
    for size in (0, 7, 100, 1000):
        path.write_bytes(predictor.read_bytes()[:size])
        with pytest.raises(FormatError):
            open_predictor(path)


def test_refused(capsys, tmp_path, house, predictor):
    """Wrong usage and inputs that do not fit exit 2 with one line, and leave nothing behind."""
    inputs, out = house.inputs["v0"], tmp_path / "out.safetensors"
    two = versions(house, "v0", "v1")
    using = ("--predictor", predictor)
    tensors = load_file(inputs)
    other = {n: v for n, v in tensors.items() if n != "token_ids"}
    save_file(other, tmp_path / "no_tokens.safetensors")
    save_file(
        {**tensors, "token_ids": tensors["token_ids"][::-1].copy()}, tmp_path / "other.safetensors"
    )
    before = written(tmp_path)
    for args, words in (
        ((inputs, *two), "No such command"),
        (("fit", inputs, *two), "Missing option '--save'"),
        (("fit", inputs, *two, "--save", tmp_path / "x.pt"), "expected NAME.safetensors"),
        (("fit", inputs, *two, "--save", predictor), "already exists"),
        (("fit", inputs, *two, "--save", out, *using), "No such option"),
        (("judge", inputs, *two), "Missing option '--predictor'"),
        (("write", inputs, *two, *using, "--save", tmp_path / "x.npz"), "expected NAME.parquet"),
        (("write", inputs, *two, *using), "Missing option '--save'"),
        (("fit", inputs, *two[:2], "--save", out), "no version after 'v0'"),
        (("fit", inputs, "--at", "v0", "--save", out), "expected NAME=PATH"),
        (("fit", inputs, *two, *two[:2], "--save", out), "'v0' is given twice"),
        (("fit", inputs, *two, "--old", "v9", "--save", out), "version 'v9' is not known: v0, v1"),
        (
            ("fit", inputs, *two, "--inputs", "v7=x", "--save", out),
            "version 'v7' is not known: v0, v1",
        ),
        (("fit", inputs, *two, "--inputs", "v1=gone.safetensors", "--save", out), "cannot be read"),
        (
            (
                "fit",
                inputs,
                *two,
                "--inputs",
                f"v1={tmp_path / 'other.safetensors'}",
                "--save",
                out,
            ),
            "other tokens than",
        ),
        (
            ("fit", tmp_path / "no_tokens.safetensors", *two, "--frozen-inputs", "--save", out),
            "no token_ids or no cu_seqlens",
        ),
        (("judge", inputs, *two, "--predictor", inputs), "no predictor"),
        (("judge", inputs, *two, *using, "--fail-under", "loss:1"), "metric 'loss' is not known"),
        (
            ("fit", house.place / "dump.parquet", *two, "--save", out),
            "is Parquet: expected router inputs",
        ),
        (("judge", DUMPS["jsonl"], *two, *using), "is JSON lines: expected router inputs"),
    ):
        assert words in complaint(capsys, "predict", *args, "--threads", "1")
        assert written(tmp_path) == before


def test_another_model_is_refused(capsys, tmp_path, house, predictor):
    """A predictor is not used on another family, nor versions that select in another way."""
    with quiet():
        families.tiny("deepseek_v3").save_pretrained(tmp_path / "ds")
    args = ("predict", "judge", house.inputs["v0"], "--predictor", predictor, "--threads", "1")
    words = complaint(capsys, *args, *versions(house, "v0"), "--at", f"v1={tmp_path / 'ds'}")
    assert "selects otherwise than v0" in words
    words = complaint(
        capsys,
        *args,
        "--at",
        f"v0={tmp_path / 'ds'}",
        "--at",
        f"v1={tmp_path / 'ds'}",
        "--frozen-inputs",
    )
    assert "predictor: of another family: got qwen3_moe" in words


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v4"])
def test_other_recipes(capsys, tmp_path, name):
    """Where nothing moved the predictor is zero, and what it writes are the model's own routes:
    sigmoid scores with bias and groups, and layers that select by a table of token ids.
    """
    with quiet():
        model = families.tiny(name)
        model.save_pretrained(tmp_path / "v0")
    rng = np.random.default_rng(1)
    samples = [
        Sample(None, prompt_ids=ids, response_ids=ids[:0], prompt_length=20, response_length=0)
        for ids in rng.integers(3, families.VOCAB, (6, 20)).astype(np.int32)
    ]
    meta = DumpMeta("-", "native", tuple(families.routers(model)), EXPERTS, TOP_K)
    write_native(samples, meta, tmp_path / "dump.parquet", force=False)
    inputs, own = tmp_path / "in.safetensors", tmp_path / "own.parquet"
    assert (
        run(
            capsys,
            "recompute",
            tmp_path / "v0",
            tmp_path / "dump.parquet",
            "--save",
            own,
            "--router-inputs",
            inputs,
            "--threads",
            "1",
        ).code
        == 0
    )
    doc = document(
        capsys,
        "predict",
        "fit",
        inputs,
        "--at",
        f"v0={tmp_path / 'v0'}",
        "--at",
        f"v1={tmp_path / 'v0'}",
        "--save",
        tmp_path / "p.safetensors",
        "--threads",
        "1",
    )
    assert [layer["ridge"] for layer in doc["predictor"]["layers"]] == [None] * len(doc["layers"])
    assert doc["comparisons"][0]["frozen"]["accuracy"]["value"] == 1
    assert (
        run(
            capsys,
            "predict",
            "write",
            inputs,
            "--save",
            tmp_path / "e.parquet",
            "--predictor",
            tmp_path / "p.safetensors",
            "--at",
            f"v0={tmp_path / 'v0'}",
            "--threads",
            "1",
        ).code
        == 0
    )
    emitted, known = open_dump(tmp_path / "e.parquet"), open_dump(own)
    assert emitted.meta.layers_L == known.meta.layers_L  # those of a table, too
    assert diff(emitted, known, match="tokens").rows_mismatched == 0
    assert len(doc["layers"]) == len(known.meta.layers_L) - (name == "deepseek_v4")
