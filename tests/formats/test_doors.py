"""Every door, and what check says of a sample whose rows are not as they should be.

Each door's file holds a sound sample and one that is damaged; 24 rows of 3 layers, top-2 of 8.
"""

import base64
import json

import msgpack
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from routectl.cli.main import main
from routectl.damage import DamagedSampleError
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.ops.check.check import check
from support.building import CONFIG, as_npy, as_raw, npy_bytes, record, some_ids, write_lines

ROWS, PROMPT = 24, 3
TOKENS = list(range(10, 10 + ROWS + 1))
SOUND = some_ids(ROWS, seed=1)


def surplus(ids):
    """Five rows more than there are tokens."""
    return np.concatenate([ids, some_ids(6, seed=2)])


def hole(ids):
    """Six rows of the middle are gone."""
    return np.concatenate([ids[:8], ids[14:]])


def empty(ids):
    """No row at all."""
    return ids[:0]


def shared(ids):
    """A shared expert in a slot behind the others."""
    return np.concatenate([ids, np.full((*ids.shape[:2], 1), 8)], axis=2)


def turned(ids):
    """[L, T, K]."""
    return np.ascontiguousarray(ids.transpose(1, 0, 2))


def filler(ids):
    """Nothing but zeros."""
    return np.zeros_like(ids)


def errors_of(path):
    """What check finds, notes aside: forms of several integer types are side by side here."""
    found = check(open_dump(path)).findings
    return [finding for finding in found if finding.kind.severity == "error"]


CODES = {surplus: "R002", hole: "R003", empty: "R005", shared: "R104", turned: "R103"}


def lines(encode, **more):
    """A JSONL file of flat records."""

    def write(folder, ids):
        documents = [
            {**record(SOUND, routed_experts=encode(SOUND), **more), "id": "sound"},
            {**record(SOUND, routed_experts=encode(ids), **more), "id": "bad"},
        ]
        return write_lines(folder / "x.jsonl", documents)

    return write


def generate(folder, ids):
    """SGLang's answers, beside their requests."""
    documents = [
        {
            "request": {"input_ids": TOKENS[:PROMPT]},
            "response": {
                "output_ids": TOKENS[PROMPT:],
                "meta_info": {
                    **{"id": name, "prompt_tokens": PROMPT},
                    "completion_tokens": len(TOKENS) - PROMPT,
                    "routed_experts": as_raw(rows),
                },
            },
        }
        for name, rows in (("sound", SOUND), ("bad", ids))
    ]
    return write_lines(folder / "x.jsonl", documents)


def completions(folder, ids):
    """vLLM's answers, beside their requests."""
    documents = [
        {
            "request": {"prompt": TOKENS[:PROMPT]},
            "response": {
                "id": name,
                "usage": {"prompt_tokens": PROMPT, "completion_tokens": len(TOKENS) - PROMPT},
                "choices": [
                    {"index": 0, "token_ids": TOKENS[PROMPT:], "routed_experts": as_npy(rows)}
                ],
            },
        }
        for name, rows in (("sound", SOUND), ("bad", ids))
    ]
    return write_lines(folder / "x.jsonl", documents)


def arrays(folder, ids):
    """The arrays of both samples by name, and the model's config beside them."""
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    found = {}
    for name, rows in (("sound", SOUND), ("bad", ids)):
        found[f"{name}.routed_experts"] = rows.astype(np.uint8)
        found[f"{name}.prompt_token_ids"] = np.array(TOKENS[:PROMPT], np.int32)
        found[f"{name}.token_ids"] = np.array(TOKENS[PROMPT:], np.int32)
    return found


def npz(folder, ids):
    """An .npz, an array a sample."""
    np.savez(folder / "x.npz", **arrays(folder, ids))
    return folder / "x.npz"


def safetensors(folder, ids):
    """The same as .safetensors."""
    save_file(arrays(folder, ids), folder / "x.safetensors")
    return folder / "x.safetensors"


def rollout(folder, ids):
    """slime's rollout dump."""
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    samples = [
        {
            **{"tokens": TOKENS, "response_length": len(TOKENS) - PROMPT, "index": i},
            "rollout_routed_experts": torch.tensor(rows, dtype=torch.int32),
        }
        for i, rows in enumerate((SOUND, ids))
    ]
    torch.save({"rollout_id": 0, "samples": samples}, folder / "0.pt")
    return folder / "0.pt"


def micro_batch(folder, ids):
    """prime-rl's bins, a sequence each."""
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    bins = []
    for rows in (SOUND, ids):
        size = len(TOKENS)
        array = rows.astype(np.uint8)
        mask = [False] * PROMPT + [True] * (size - PROMPT)
        routes = [array.tobytes(), list(array.shape), "uint8"]
        head = [TOKENS, mask, [0.5] * size, [0.0] * size, list(range(size)), [size]]
        bins.append([*head, [1.0] * size, ["env"] * size, [size], None, routes])
    (folder / "rank_0.bin").write_bytes(msgpack.packb(bins))
    return folder / "rank_0.bin"


def as_object(ids):
    """prime-rl's object, without a start."""
    data = base64.b64encode(ids.astype(np.uint8).tobytes()).decode("ascii")
    return {"data": data, "shape": list(ids.shape), "dtype": "uint8"}


def as_pair(ids):
    """rllm's pair."""
    return [json.dumps(list(ids.shape)), as_object(ids)["data"]]


def as_nemo(ids):
    """NeMo-RL's string."""
    return f"nrlre1:int8:{'x'.join(map(str, ids.shape))}:{as_object(ids)['data']}"


DOORS = {
    "base64 npy": lines(as_npy),
    "base64 npy, start 0": lines(as_npy, start=0),
    "raw int32": lines(as_raw),
    "raw int32, start 0": lines(as_raw, start=0),
    "lists": lines(np.ndarray.tolist),
    "object": lines(as_object),
    "pair": lines(as_pair),
    "nrlre1": lines(as_nemo),
    "SGLang generate": generate,
    "vLLM completions": completions,
    "npz": npz,
    "safetensors": safetensors,
    "slime rollout": rollout,
    "prime-rl bin": micro_batch,
}
SHAPELESS = ("raw int32", "raw int32, start 0", "SGLang generate")


@pytest.mark.parametrize("fault", CODES, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_names_the_fault(tmp_path, door, fault):
    """The same damage has the same code, in one sample, whichever door it came by."""
    if fault is turned and door in (*SHAPELESS, "prime-rl bin"):
        pytest.skip("bytes without a shape, or rows that a bin says are its tokens'")
    dump = open_dump(DOORS[door](tmp_path, fault(SOUND)))
    found = {finding.code: finding for finding in check(dump).findings}
    if fault is turned and door == "object":
        assert found == {}  # lightllm's form
        np.testing.assert_array_equal(dump[1].routes.ids_TLK, SOUND)
        return
    assert set(found) == {CODES[fault]}
    assert found[CODES[fault]].samples == 1
    if fault is surplus:
        assert found["R002"].rows == 5 * 3
    elif fault is hole:
        assert found["R003"].rows == 6 * 3


@pytest.mark.parametrize("door", DOORS)
def test_other_verbs_refuse_the_sample(tmp_path, door, capsys):
    """A sample with rows too many is refused in one line by all that would use it; show goes on."""
    path = DOORS[door](tmp_path, surplus(SOUND))
    dump = open_dump(path)
    if door in ("npz", "safetensors"):
        bad = next(i for i, key in enumerate(dump.keys) if key.sample_id == "bad")
    else:
        bad = 1
    with pytest.raises(FormatError, match="5 beyond the last token") as caught:
        dump[bad]
    assert "\n" not in str(caught.value)
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "damaged   1 of 2 samples" in out
    assert "24 tokens" in out


def test_show_of_nothing_but_damage(tmp_path, capsys):
    """Where every sample is damaged, show exits 2 with the first one's reason."""
    path = write_lines(tmp_path / "x.jsonl", [record(SOUND, routed_experts=as_npy(surplus(SOUND)))])
    assert main(["show", str(path)]) == 2
    assert "5 beyond the last token" in capsys.readouterr().err


EMPTY = {
    "null": None,
    "no characters": "",
    "no list": [],
    "no layers": [[]],
    "no matrices": ["", None],
    "no bytes": {"data": "", "shape": [0, 3, 2]},
    "no data": {"data": None, "shape": [0, 0, 0]},
    "no rows": as_npy(SOUND[:0]),
    "no rows, turned": as_npy(turned(SOUND)[:, :0]),
    "zeros": as_npy(filler(SOUND)),
    "raw zeros": as_raw(filler(SOUND)),
    "lists of zeros": filler(SOUND).tolist(),
    "-1": as_npy(filler(SOUND) - 1),
    "255": as_npy(filler(SOUND).astype("u1") + 255),
}


@pytest.mark.parametrize("payload", EMPTY.values(), ids=EMPTY)
def test_an_empty_capture_is_one_finding(tmp_path, payload):
    """Null, no characters, no rows, and filler in every row: all are samples without routes."""
    documents = [record(SOUND), record(SOUND, routed_experts=payload)]
    (finding,) = errors_of(write_lines(tmp_path / "x.jsonl", documents))
    assert (finding.code, finding.samples) == ("R005", 1)


@pytest.mark.parametrize("door", ["base64 npy", "raw int32", "lists", "npz", "slime rollout"])
@pytest.mark.parametrize(("more", "said"), [(1, {"num_nextn_predict_layers": 1}), (1, {})])
def test_columns_of_no_layer(tmp_path, door, more, said):
    """A column of MTP, and one that was never written, are named: the others are read."""
    last = some_ids(ROWS, 1, seed=5) if said else np.zeros((ROWS, 1, 2), int)
    path = DOORS[door](tmp_path, np.concatenate([SOUND, last], axis=1))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **said}), "utf-8")
    result = check(open_dump(path))
    (finding,) = result.findings
    assert (finding.code, finding.samples) == ("R012", 1)
    assert ("of MTP" if said else "never written") in finding.detail
    assert result.rows == 2 * SOUND[..., 0].size


@pytest.mark.parametrize("dense", [1, 0])
def test_an_mtp_column_in_a_dense_layers_place(tmp_path, dense):
    """With as many MTP layers as dense ones MoE columns and MTP's look like all layers: by the ids
    of the dense layer's column they are told apart."""
    config = {**CONFIG, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1}
    ids = some_ids(ROWS, 3)
    ids[:, 0] = 0 if dense else ids[:, 0]
    path = write_lines(tmp_path / "x.jsonl", [record(ids)], config=config)
    found = {finding.code for finding in check(open_dump(path)).findings}
    assert found == (set() if dense else {"R012"})


@pytest.mark.parametrize("start", [{}, {"start": 0}])
@pytest.mark.parametrize("cut", [4, 7, 11])
def test_bytes_that_are_no_whole_rows(tmp_path, cut, start):
    """Raw int32 that ends within a row, or within an id, is named as that alone."""
    data = np.ascontiguousarray(SOUND, "<i4").tobytes()[:-cut]
    payload = base64.b64encode(data).decode("ascii")
    documents = [record(SOUND), record(SOUND, routed_experts=payload, **start)]
    (finding,) = errors_of(write_lines(tmp_path / "x.jsonl", documents))
    assert (finding.code, finding.samples) == ("R011", 1)
    assert finding.detail.endswith("rows")


def test_declared_bytes_that_are_too_few(tmp_path):
    """Bytes cut under a declared shape are the same finding, in every form that has one."""
    whole = as_object(SOUND)
    header = npy_bytes(SOUND.astype(np.uint8))
    forms = [
        {**whole, "data": whole["data"][:-4]},
        [json.dumps({"shape": list(SOUND.shape), "dtype": "uint8"}), whole["data"][:-4]],
        as_nemo(SOUND)[:-4],
        base64.b64encode(header[:-5]).decode("ascii"),
    ]
    for payload in forms:
        documents = [record(SOUND), record(SOUND, routed_experts=payload)]
        (finding,) = errors_of(write_lines(tmp_path / "x.jsonl", documents))
        assert (finding.code, finding.samples) == ("R011", 1)


def test_only_another_model_is_asked_about(tmp_path):
    """R001 asks for the model where rows of another L and K would fit, and there alone."""
    other = record(SOUND, routed_experts=as_raw(some_ids(ROWS, 5)))
    path = write_lines(tmp_path / "x.jsonl", [record(SOUND), other])
    with pytest.raises(FormatError, match="got 10 ids for each of 24 rows") as caught:
        open_dump(path)[1]
    assert "the model is that of" in caught.value.hint
    assert [finding.code for finding in errors_of(path)] == ["R001"]
    for fault in CODES:
        if fault is not empty:
            path = write_lines(
                tmp_path / "y.jsonl", [record(SOUND, routed_experts=as_npy(fault(SOUND)))]
            )
            with pytest.raises(FormatError) as caught:
                open_dump(path)[0]
            assert "--model" not in caught.value.hint


@pytest.mark.parametrize("rows", [19, 24, 30])
@pytest.mark.parametrize("start", [{}, {"start": 0}, {"start": 5}])
def test_raw_rows_with_a_shared_experts_slot(tmp_path, rows, start):
    """Raw int32 says no shape: K + 1 ids a row are told by the shared expert, however many rows."""
    ids = shared(some_ids(rows, seed=3))
    path = write_lines(tmp_path / "x.jsonl", [record(SOUND, routed_experts=as_raw(ids), **start)])
    dump = open_dump(path)
    assert "R104" in {finding.code for finding in check(dump).findings}
    with pytest.raises(DamagedSampleError) as caught:
        dump[0]
    np.testing.assert_array_equal(caught.value.ids_TWK, ids[..., :2])


@pytest.mark.parametrize("rows", [18, 23, 27, 30])
@pytest.mark.parametrize("start", [{}, {"start": 0}])
def test_raw_rows_of_moe_layers_alone(tmp_path, rows, start):
    """Raw int32 of MoE layers alone is not taken for fewer rows of all layers, whatever its
    length: the dense layer's column would hold routes."""
    config = {**CONFIG, "first_k_dense_replace": 1}
    ids = some_ids(rows, 2, seed=8)
    path = write_lines(
        tmp_path / "x.jsonl", [record(SOUND, routed_experts=as_raw(ids), **start)], config=config
    )
    try:
        found = open_dump(path)[0].routes.ids_TLK
    except DamagedSampleError as error:
        found = error.ids_TWK
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize("write", [generate, completions])
def test_media_have_places_without_ids(tmp_path, write):
    """Rows beyond the prompt's ids, as many as the engine counts prompt tokens more, are media's:
    the sample opens, and their positions have the token id -1."""
    path = write(tmp_path, surplus(SOUND))
    text = path.read_text("utf-8").splitlines()
    counted = text[1].replace(f'"prompt_tokens": {PROMPT}', f'"prompt_tokens": {PROMPT + 6}')
    path.write_text("\n".join([text[0], counted]), "utf-8")
    dump = open_dump(path)
    assert check(dump).findings == ()
    assert dump[1].prompt_ids.tolist() == TOKENS[:PROMPT] + [-1] * 6
    assert dump[1].routes.num_tokens == ROWS + 6
    assert dump[1].num_tokens == len(TOKENS) + 6


def test_a_shared_experts_slot_in_a_trainers_grid(tmp_path):
    """K + 1 ids a row are told in padded batches, and routes behind the tokens are too many."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    size = ROWS + 8
    for fault, code in ((shared, "R104"), (surplus, "R002")):
        rows = fault(SOUND)
        ids = np.zeros((1, size, *rows.shape[1:]), np.int64)
        ids[0, : len(rows)] = rows
        mask = np.zeros((1, size), np.int64)
        mask[0, : len(TOKENS)] = 1
        tokens = np.zeros((1, size), np.int64)
        tokens[0, : len(TOKENS)] = TOKENS
        batch = {
            "input_ids": torch.tensor(tokens),
            "attention_mask": torch.tensor(mask),
            "routed_experts": torch.tensor(ids),
        }
        torch.save(batch, tmp_path / "batch.pt")
        (finding,) = check(open_dump(tmp_path / "batch.pt")).findings
        assert (finding.code, finding.samples) == (code, 1)


def lightllm_answer(ids, rows):
    """What lightllm's /generate answers, with its counts' own names."""
    return {
        "request": {"inputs": "...", "parameters": {"return_routed_experts": True}},
        "response": {
            "generated_text": ["..."],
            "count_output_tokens": rows - 1,
            "finish_reason": "length",
            "prompt_tokens": 2,
            "routed_experts": as_object(ids),
        },
    }


@pytest.mark.parametrize("axes", [np.asarray, turned])
def test_lightllm_answers(tmp_path, axes):
    """lightllm's /generate has arrays [rows, layers, top_k], in older ones [layers, rows, top_k],
    and counts of its own names; which it is follows from the counts.
    """
    ids = some_ids(ROWS, seed=6)
    answer = lightllm_answer(axes(ids), ROWS)
    dump = open_dump(write_lines(tmp_path / "x.jsonl", [answer]))
    (sample,) = dump
    np.testing.assert_array_equal(sample.routes.ids_TLK, ids)
    assert (dump.meta.engine, sample.num_tokens, sample.routes.start) == ("lightllm", ROWS + 1, 0)
    assert check(dump).findings == ()


def test_lightllm_answers_of_as_many_rows_as_layers(tmp_path):
    """With as many rows as layers nothing tells lightllm's axes, and they are not guessed."""
    answer = lightllm_answer(some_ids(3, seed=6), 3)
    dump = open_dump(write_lines(tmp_path / "x.jsonl", [answer]))
    with pytest.raises(FormatError, match=r"lightllm writes .* before: both fit"):
        dump[0]


def test_damaged_samples_in_a_document(tmp_path, capsys):
    """show --json has how many samples are damaged, the first and the reason; none where all are
    sound."""
    for fault, damaged in ((surplus, True), (np.asarray, False)):
        path = npz(tmp_path, fault(SOUND))
        assert main(["show", "--json", str(path)]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["samples"] == 2
        assert (document["damaged"] is not None) == damaged
        if damaged:
            reason = document["damaged"].pop("reason")
            assert document["damaged"] == {"samples": 1, "sample": "bad"}
            assert "5 beyond the last token" in reason


def test_padded_arrays_name_the_fault(tmp_path):
    """[B, Tmax, L, K]: lengths beyond the tokens, K + 1 ids a row, and a length of 0."""
    for fault, code in ((surplus, "R002"), (shared, "R104"), (empty, "R005"), (hole, "R003")):
        ids = fault(SOUND)
        whole = np.zeros((1, 40, *ids.shape[1:]), np.uint8)
        whole[0, : len(ids)] = ids
        arrays_of = {
            "routed_experts": whole,
            "lengths": np.array([len(ids)]),
            "input_ids": np.array([TOKENS]),
            "prompt_lengths": np.array([PROMPT]),
            "response_lengths": np.array([len(TOKENS) - PROMPT]),
        }
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        np.savez(tmp_path / "x.npz", **arrays_of)
        (finding,) = errors_of(tmp_path / "x.npz")
        assert (finding.code, finding.samples) == (code, 1)
