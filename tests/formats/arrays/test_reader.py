"""Arrays as dumps: .npy, .npz and .safetensors, written by the libraries and read by the doors."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from routectl.errors import FormatError
from routectl.formats import open_dump
from support.building import CONFIG, FACTS, check_line, some_ids
from support.recordings import FIXTURES, decode, read_lines

HF = sorted((FIXTURES / "hf").glob("*.npz"))


def _write(path, arrays, texts=None):
    """The arrays as .npz or .safetensors; texts become 0-d string arrays or metadata."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays, **{k: np.array(v) for k, v in (texts or {}).items()})
    else:
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(arrays, path, metadata=texts)
    return path


def _padded(lengths=(4, 0, 6)):
    """A padded dump of three samples: its arrays, and the rows of each."""
    rows = [some_ids(n, seed=n).astype(np.uint8) for n in lengths]
    whole = np.full((len(rows), 7, 3, 2), 200, np.uint8)  # padding is never looked at
    for i, ids in enumerate(rows):
        whole[i, : len(ids)] = ids
    return {"routed_experts": whole, "lengths": np.array(lengths)}, rows


@pytest.fixture(params=[".npz", ".safetensors"])
def place(request, tmp_path):
    """A path for each of the two containers that hold several arrays."""
    return tmp_path / f"dump{request.param}"


@pytest.mark.parametrize("path", HF, ids=lambda p: p.stem)
def test_trainer_arrays_are_what_numpy_reads(path):
    """The recorded transformers routes equal numpy's own reading, the config included."""
    dump = open_dump(path)
    with np.load(path, allow_pickle=False) as source:
        config = json.loads(str(source["config"]))
        names = sorted(n.split(".")[0] for n in source.files if n.endswith(".routed_experts"))
        assert [key.sample_id for key in dump.keys] == names
        for sample in dump:
            entry = {n: source[f"{sample.sample_id}.{n}"] for n in ("routed_experts", "logprobs")}
            np.testing.assert_array_equal(sample.routes.ids_TLK, entry["routed_experts"])
            np.testing.assert_array_equal(sample.logprobs, entry["logprobs"])
            prompt = source[f"{sample.sample_id}.prompt_token_ids"]
            assert sample.prompt_ids.tolist() == prompt.tolist()
            assert sample.routes.start == 0
            assert sample.routes.num_tokens == len(prompt) + sample.response_length
    first = config.get("first_k_dense_replace", 0)
    assert dump.meta.layers_L == tuple(range(first, config["num_hidden_layers"]))
    assert dump.meta.facts_source == "the file itself"
    assert (dump.meta.format, dump.meta.wire_dtype) == ("npz", "uint8")


@pytest.mark.parametrize("path", [p for p in HF if "fp32" in p.stem], ids=lambda p: p.stem)
def test_float32_engines_route_as_float32_transformers(path):
    """In float32 the recorded engine and transformers take the same expert sets in every row."""
    engine, model, _ = path.stem.split(".")
    (folder,) = (FIXTURES / "recordings").glob(f"{engine}-*/{model}.fp32.grpo")
    (lines,) = folder.glob("samples.jsonl*")
    rows = 0
    for mine, line in zip(open_dump(path), read_lines(lines), strict=True):
        payload = line.get("routed_experts_b64npy") or line["routed_experts_b64raw"]
        wire = decode(payload)[:, list(mine.routes.layers_L)]
        fed = mine.routes.ids_TLK[:-1]  # the engine never fed the last token
        np.testing.assert_array_equal(np.sort(fed), np.sort(wire))
        rows += fed.shape[0] * fed.shape[1]
    assert rows > 20_000


def test_per_sample_names(place):
    """``<id>.routed_experts`` is a sample; tokens, log-probs and start stand beside it."""
    ids = some_ids(6).astype(np.uint8)
    arrays = {
        "b.routed_experts": ids,
        "a/1.routed_experts": ids[2:],
        "a/1.start": np.array(2),
        "a/1.prompt_token_ids": np.array([1, 2, 3], np.int64),
        "a/1.token_ids": np.array([4, 5, 6, 7], np.int32),
        "a/1.logprobs": np.array([-1, -2, -3, -4], np.float32),
    }
    dump = open_dump(_write(place, arrays), model=FACTS)
    found = {sample.sample_id: sample for sample in dump}
    assert set(found) == {"b", "a/1"} == {key.sample_id for key in dump.keys}
    assert found["b"].token_ids is None
    assert (found["b"].routes.start, found["b"].prompt_length) == (0, None)
    np.testing.assert_array_equal(found["b"].routes.ids_TLK, ids)
    sample = found["a/1"]
    assert (sample.routes.start, sample.routes.stop) == (2, 6)
    assert sample.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sample.logprobs.tolist() == [-1, -2, -3, -4]
    assert (dump.meta.format, dump.meta.wire_dtype) == (place.suffix[1:], "uint8")
    assert dump.meta.file_bytes == place.stat().st_size


def test_bare_names(place):
    """Without ``.routed_experts`` every array of three axes is a sample."""
    arrays = {"x": some_ids(4), "y": some_ids(2, seed=1), "notes": np.arange(3)}
    dump = open_dump(_write(place, arrays), model=FACTS)
    assert sorted(s.sample_id for s in dump) == ["x", "y"]
    for sample in dump:
        np.testing.assert_array_equal(sample.routes.ids_TLK, arrays[sample.sample_id])


def test_padded_rows_are_cut_at_their_lengths(place):
    """``routed_experts`` [B, Tmax, L, K] gives B samples of ``lengths`` rows."""
    arrays, rows = _padded()
    dump = open_dump(_write(place, arrays), model=FACTS)
    assert [s.sample_id for s in dump] == ["0", "1", "2"]
    for sample, ids in zip(dump, rows, strict=True):
        assert sample.token_ids is None
        if not len(ids):  # no row is no routes
            assert sample.routes is None
            continue
        np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
        assert sample.routes.start == 0


def test_padded_columns(place):
    """Start, lengths and tokens of a padded dump are those of its columns."""
    arrays, rows = _padded()
    tokens = np.arange(24).reshape(3, 8)
    prompts, responses = np.array([2, 3, 4]), np.array([3, 1, 4])
    arrays |= {"prompt_lengths": prompts, "response_lengths": responses, "input_ids": tokens}
    arrays |= {"start": np.array([0, 3, 1])}
    if place.suffix == ".npz":
        arrays["sample_id"] = np.array(["p", "q", "r"])
    dump = open_dump(_write(place, arrays), model=FACTS)
    assert [s.sample_id for s in dump] == (
        ["p", "q", "r"] if place.suffix == ".npz" else ["0", "1", "2"]
    )
    for i, sample in enumerate(dump):
        p, g = int(prompts[i]), int(responses[i])
        assert sample.prompt_ids.tolist() == tokens[i, :p].tolist()
        assert sample.response_ids.tolist() == tokens[i, p : p + g].tolist()
        assert (sample.prompt_length, sample.response_length) == (p, g)
        assert sample.routes.start == [0, 3, 1][i]
        assert sample.routes.num_tokens == len(rows[i])


def test_own_config_gives_the_facts(place):
    """A ``config`` text in the file makes it whole: no --model is needed, and --model wins."""
    config = {**CONFIG, "num_hidden_layers": 4, "first_k_dense_replace": 1}
    texts = {"config": json.dumps(config), "engine": "mine", "engine_version": "3", "model": "m"}
    path = _write(place, {"s.routed_experts": some_ids(5)}, texts)
    dump = open_dump(path)
    assert (dump.meta.layers_L, dump.meta.num_experts, dump.meta.top_k) == ((1, 2, 3), 8, 2)
    assert dump.meta.facts_source == "the file itself"
    assert (dump.meta.engine, dump.meta.engine_version, dump.meta.model) == ("mine", "3", "m")
    assert dump[0].routes.layers_L == (1, 2, 3)
    assert open_dump(path, model=FACTS).meta.layers_L == (0, 1, 2)


@pytest.mark.parametrize("config", ["not json", "[]", "[" * 5000])
def test_a_bad_own_config_is_refused(place, config):
    """A ``config`` text that is no JSON object is refused in one line."""
    path = _write(place, {"s.routed_experts": some_ids(5)}, {"config": config})
    with pytest.raises(
        FormatError, match=r"config: (expected the JSON text|lists and objects)"
    ) as caught:
        open_dump(path)
    check_line(caught.value, path)


@pytest.mark.parametrize("fortran", [False, True])
def test_a_lone_npy(tmp_path, fortran):
    """A .npy of three axes is one sample, named like the file, in either order."""
    ids = some_ids(6).astype(np.int32)
    path = tmp_path / "rollout7.npy"
    np.save(path, np.asfortranarray(ids) if fortran else ids)
    dump = open_dump(path, model=FACTS, start=4)
    assert (len(dump), dump[0].sample_id, dump.meta.wire_dtype) == (1, "rollout7", "int32")
    assert (dump[0].routes.start, dump[0].routes.stop) == (4, 10)
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, ids)


@pytest.mark.parametrize(
    ("rows", "start", "fits"),
    [(7, 0, True), (6, 0, True), (5, 2, True), (8, 0, False), (6, 2, False)],
)
def test_rows_of_trainers(place, rows, start, fits):
    """A trainer has up to N rows, an engine N - 1; more than the tokens allow are refused."""
    arrays = {
        "s.routed_experts": some_ids(rows),
        "s.start": np.array([start]),
        "s.prompt_token_ids": np.arange(3),
        "s.token_ids": np.arange(4),
    }
    dump = open_dump(_write(place, arrays), model=FACTS)
    if fits:
        assert (dump[0].routes.start, dump[0].routes.num_tokens) == (start, rows)
        return
    with pytest.raises(
        FormatError, match=rf"sample s: got {rows} rows .* expected at most"
    ) as caught:
        dump[0]
    check_line(caught.value, place)


def _changed(**changes):
    return {k: v for k, v in ({**_padded()[0], **changes}).items() if v is not None}


WRONG = {
    "no lengths": (_changed(lengths=None), "there is no 'lengths' array"),
    "too long": (_changed(lengths=np.array([1, 2, 8])), "longer than the padding 7"),
    "negative": (_changed(lengths=np.array([1, 2, -1])), "lengths: got ids outside"),
    "float lengths": (_changed(lengths=np.ones(3)), "lengths: got float64"),
    "few lengths": (_changed(lengths=np.array([1, 2])), "lengths: expected 3 counts"),
    "few starts": (_changed(start=np.array([1, 2])), "start: expected 3 counts"),
    "few ids": (_changed(sample_id=np.arange(2)), "sample_id: got 2, expected 3"),
    "scalar ids": (_changed(sample_id=np.array(2)), "sample_id: got 1, expected 3"),
    "short tokens": (
        _changed(
            input_ids=np.zeros((3, 3), int),
            prompt_lengths=np.array([2, 2, 2]),
            response_lengths=np.array([1, 1, 2**31 - 1]),
        ),
        r"sample 2: input_ids \(3, 3\) do not hold 2147483649",
    ),
    "few tokens": (
        _changed(
            input_ids=np.zeros((2, 9), int),
            prompt_lengths=np.array([2, 2, 2]),
            response_lengths=np.array([4, 4, 4]),
        ),
        r"input_ids \(2, 9\) do not hold",
    ),
    "two axes": ({"s.routed_experts": np.zeros((3, 6), int)}, r"got int64 \(3, 6\), expected int"),
    "no axis": ({"s.routed_experts": np.array(3)}, r"got int64 \(1?,?\), expected integers"),
    "floats": ({"s.routed_experts": np.zeros((3, 3, 2))}, "got float64"),
    "bools": ({"s.routed_experts": np.zeros((3, 3, 2), bool)}, "got bool"),
    "layers": ({"s.routed_experts": some_ids(4, 5)}, r"got 5 layers, expected 3 \(all layers\)"),
    "top_k": ({"s.routed_experts": some_ids(3, 3, 4)}, "got rows of 4 ids, expected top_k = 2"),
    "ids": ({"s.routed_experts": some_ids(9, experts=9)}, r"got id 8, expected 0\.\.7"),
    "tokens": (
        {"s.routed_experts": some_ids(3), "s.token_ids": np.array([-1])},
        "token_ids: got ids out",
    ),
    "token axes": (
        {"s.routed_experts": some_ids(3), "s.token_ids": np.ones((2, 2), int)},
        "expected integers",
    ),
    "start": ({"s.routed_experts": some_ids(3), "s.start": np.array(-1)}, "expected one count"),
    "far start": ({"s.routed_experts": some_ids(3), "s.start": np.array(2**40)}, "one count"),
    "logprobs": (
        {"s.routed_experts": some_ids(3), "s.token_ids": np.arange(2), "s.logprobs": np.ones(3)},
        "expected one float a response token",
    ),
    "nothing": (
        {"x": np.arange(3)},
        r"no routed_experts .*: it has \['x'\], none of them of a known form",
    ),
}


@pytest.mark.parametrize(("arrays", "line"), WRONG.values(), ids=WRONG)
def test_arrays_that_do_not_fit_are_refused(place, arrays, line):
    """Arrays of a wrong shape, dtype or range are refused in one line that says what was got."""
    path = _write(place, arrays)
    with pytest.raises(FormatError, match=line) as caught:
        list(open_dump(path, model=FACTS))
    check_line(caught.value, path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
def test_safetensors_of_narrow_floats_are_refused(tmp_path, dtype):
    """Routes in a float type, even one that numpy has not, are refused in one line."""
    path = tmp_path / "x.safetensors"
    save_torch({"s.routed_experts": torch.ones((3, 3, 2)).to(dtype)}, path)
    with pytest.raises(FormatError, match=r"got (bf16|f8_e4m3|float16)") as caught:
        list(open_dump(path, model=FACTS))
    check_line(caught.value, path)


def test_an_open_dump_keeps_its_file(place):
    """An open dump reads the file that it opened, once, even when its name is gone."""
    arrays = {name: some_ids(4, seed=i) for i, name in enumerate("xyz")}
    dump = open_dump(_write(place, arrays), model=FACTS)
    place.unlink()
    for sample in dump:
        np.testing.assert_array_equal(sample.routes.ids_TLK, arrays[sample.sample_id])


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "n" * 300])
def test_names_are_short_and_printable(place, name):
    """An array's name becomes a sample id, so one that would garble a terminal is refused."""
    path = _write(place, {f"{name}.routed_experts": some_ids(3)})
    with pytest.raises(
        FormatError, match=r"got an array named '.*', expected a short name"
    ) as caught:
        open_dump(path, model=FACTS)
    check_line(caught.value, path)


def test_files_that_vime_spills(tmp_path):
    """vime's rollout_*/sample_*.safetensors are a sample each, named by the index in the file's
    name; what is spilled beside the routes is left out.
    """
    folder = tmp_path / "rollout_00000003"
    folder.mkdir()
    held = {"7": some_ids(4, seed=1), "12": some_ids(6, seed=2), "a" * 32: some_ids(2, seed=3)}
    for number, (name, ids) in enumerate(held.items()):
        index = f"{name}_{number:032x}" if name.isdecimal() else f"none_{name}"
        tensor = {"tensor": torch.tensor(ids.astype(np.uint8))}
        save_torch(
            tensor, folder / f"sample_{index}.safetensors", {"kind": "rollout_routed_experts"}
        )
    top = {"tensor": torch.zeros(3, 8, dtype=torch.int32)}
    save_torch(top, folder / f"sample_7_topk_{'b' * 32}.safetensors", {"kind": "sampler_topk"})
    for place in (folder, f"{tmp_path}/rollout_*/sample_*.safetensors"):
        dump = open_dump(place, model=FACTS)
        assert {key.sample_id for key in dump.keys} == set(held)
        for sample in dump:
            np.testing.assert_array_equal(sample.routes.ids_TLK, held[sample.sample_id])
            assert (sample.routes.start, sample.num_tokens) == (0, None)
    alone = open_dump(folder / f"sample_12_{1:032x}.safetensors", model=FACTS)
    np.testing.assert_array_equal(alone[0].routes.ids_TLK, held["12"])
    assert alone[0].sample_id == "12"
