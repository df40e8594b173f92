"""``convert --to``: every layout against literal arrays, round trips, and what is refused.

Shape suffixes: B samples, S positions, T rows, L MoE layers, W layers, K top_k.
"""

import io
import json
import struct
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from routectl.dump import Dump, DumpMeta, WeightSpan, key_of
from routectl.errors import FormatError, RoutectlError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.formats.targets.rows import Shape
from routectl.formats.targets.table import TARGETS, target_named
from routectl.formats.targets.write import write_target
from routectl.model import ModelFacts
from routectl.routes import Routes
from support.dumps import make_dump, make_routes, make_sample
from support.shell import run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
DEEPSEEK = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
STARTS = FIXTURES / "recordings/vllm-0.32.0/qwen3_moe.bf16.start/samples.jsonl"
NAMES = [target.name for target in TARGETS]
BOUNDED = [
    name for name in NAMES if name not in ("megatron", "art", "art-v4")
]  # the file tells samples
FACTS = ModelFacts(2, (1,), 4, 2, None)
A_ROWS, B_ROWS = [[[0, 1]], [[2, 3]], [[1, 0]]], [[[3, 2]]]


def two_samples(**more):
    """Two sequences of 4 and 2 tokens; layer 0 of 2 is dense, the experts are 4, K is 2."""
    a = make_sample(
        make_routes(A_ROWS, (1,), 4),
        "a",
        [5, 6],
        [7, 8],
        group_id="g_1",
        finish_reason="stop",
        **more,
    )
    b = make_sample(make_routes(B_ROWS, (1,), 4), "b", [9], [4], group_id="g_1")
    return make_dump([a, b], (1,), 4, 2)


def write(dump, name, folder, missing=None, lossy=True, num_layers=2):
    """Write a dump in the form of a target, in a folder; returns the path and what was written."""
    target = target_named(name)
    path = Path(folder) / f"out{target.suffix}"
    shape = Shape(target, dump.meta, num_layers, missing, lossy)
    return path, write_target(dump, shape, path, force=True)


def load(path):
    """A torch file, of plain data, numpy arrays and what makes a TensorDict alone."""
    import tensordict
    from tensordict._reductions import _make_td

    names = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype("i4"))]
    older = [tensordict.TensorDict, _make_td]  # tensordict 0.8 does not name its own as safe
    with torch.serialization.safe_globals([*names, *older]):
        return torch.load(path, weights_only=True)


def words(ids_SWK, layer=1):
    """Rows of one layer as text, one word a position: 01 23."""
    return " ".join("".join(map(str, row)) for row in np.asarray(ids_SWK)[:, layer].tolist())


class TestLayouts:
    """What each trainer is given, written out by hand."""

    @pytest.mark.parametrize(
        ("name", "key", "dtype", "layer", "a", "b"),
        [
            ("verl-padded", "routed_experts", "int16", 1, "01 23 10 00", "00 32 00 00"),
            ("skyrl", "rollout_expert_indices", "uint8", 1, "01 23 10 01", "01 01 32 01"),
            ("skyrl-0.3", "rollout_expert_indices", "uint8", 1, "01 23 10 00", "00 00 32 00"),
            ("nemo-rl-tensor", "routed_experts", "int8", 0, "01 23 10 01", "32 01 01 01"),
            ("areal", "routed_experts", "int32", 0, "01 23 10 10", "32 32 00 00"),
            ("roll", "routed_experts", "uint8", 1, "01 23 10 00", "32 00 00 00"),
            ("ms-swift", "routed_experts", "int64", 1, "01 23 10 00", "32 00 00 00"),
        ],
    )
    def test_grids(self, tmp_path, name, key, dtype, layer, a, b):
        """A grid has the key, dtype, side and fillers of its trainer."""
        grid = load(write(two_samples(), name, tmp_path)[0])
        assert str(grid[key].dtype) == f"torch.{dtype}"
        assert [words(row, layer) for row in grid[key]] == [a, b]
        assert grid[key].shape[2] == layer + 1
        if layer and name != "skyrl":
            assert not grid[key][:, :, 0].any()  # a dense layer's column

    def test_areal_columns(self, tmp_path):
        """AReaL's rows that are missing repeat the nearest before, and their sample is no valid
        one: it has no routes when the batch is read.
        """
        rows = make_routes([*A_ROWS, [[2, 3]]], (1,), 4, missing=[(0, 0), (2, 0)])
        hole = make_sample(rows, "c", [1], [2, 3, 4, 5])
        whole = make_sample(make_routes(A_ROWS, (1,), 4), "a", [5, 6], [7, 8])
        dump = make_dump([whole, hole], (1,), 4, 2)
        for missing, valid in (("arange", True), ("zero", True), ("minus-one", False)):
            path, written = write(dump, "areal", tmp_path, missing)
            assert load(path)["r3_routing_valid"].tolist() == [True, valid]
            assert written.left_out == ()
        path, written = write(dump, "areal", tmp_path)
        assert written.left_out == ("validity of samples with missing rows",)
        grid = load(path)
        assert grid["r3_routing_valid"].tolist() == [True, False]
        assert [words(row, 0) for row in grid["routed_experts"]] == [
            "01 23 10 10 00",
            "00 23 23 23 23",
        ]
        assert grid["loss_mask"].tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
        found = list(open_dump(path, model=FACTS))
        assert found[0].routes.ids_TLK.tolist() == A_ROWS
        assert [one.prompt_length for one in found] == [2, 1]
        assert found[1].routes is None

    def test_areal_versions(self, tmp_path):
        """AReaL's versions, one a token, are weight versions; -1 is a token that no model wrote."""
        path, _ = write(two_samples(), "areal", tmp_path)
        grid = {
            **load(path),
            "versions": torch.tensor([[-1, 7, 7, 8], [-1, -1, -1, -1]]),
            "logprobs": torch.tensor([[0, -1.5, -2, -3], [0, 0, 0, 0]]),
        }
        torch.save(grid, path)
        one, two = open_dump(path, model=FACTS)
        assert one.weight_spans == (WeightSpan("7", 0, 2), WeightSpan("8", 2, 3))
        assert one.logprobs.tolist() == [-1.5, -2, -3]
        assert (one.prompt_length, two.prompt_length, two.weight_spans) == (1, 2, ())
        grid["r3_routing_valid"] = torch.tensor([True])
        torch.save(grid, path)
        with pytest.raises(FormatError, match=r"r3_routing_valid: got \(1,\), expected"):
            open_dump(path, model=FACTS)

    @pytest.mark.parametrize(
        ("names", "first", "kept"), [("78", 0, True), ("78", 1, False), ("7v", 0, False)]
    )
    def test_areal_has_versions_that_are_numbers(self, tmp_path, names, first, kept):
        """They are written where each is a number and the first response token has one; else they
        are left out by name, or refused.
        """
        spans = (WeightSpan(names[0], first, 2), WeightSpan(names[1], 2, 3))
        routes = make_routes([*A_ROWS, [[2, 3]]], (1,), 4)
        one = make_sample(routes, "a", [5], [6, 7, 8], weight_spans=spans)
        two = make_sample(make_routes([[[0, 1]]], (1,), 4), "b", [5, 6], [])
        dump = make_dump([one, two], (1,), 4, 2)
        if not kept:
            with pytest.raises(UnsupportedError, match="has several weight versions, and areal no"):
                write(dump, "areal", tmp_path, lossy=False)
            path, written = write(dump, "areal", tmp_path)
            assert "weight versions" in written.left_out
            assert "versions" not in load(path)
            return
        path, written = write(dump, "areal", tmp_path, lossy=False)
        assert written.left_out == ()
        assert load(path)["versions"].tolist() == [[-1, 7, 7, 8], [-1, -1, -1, -1]]
        assert [sample.weight_spans for sample in open_dump(path, model=FACTS)] == [spans, ()]

    def test_verl_padded_columns(self, tmp_path):
        """verl's prompts are padded on the left, responses on the right."""
        grid = load(write(two_samples(), "verl-padded", tmp_path)[0])
        assert grid["prompts"].tolist() == [[5, 6], [0, 9]]
        assert grid["responses"].tolist() == [[7, 8], [4, 0]]
        assert grid["input_ids"].tolist() == [[5, 6, 7, 8], [0, 9, 4, 0]]
        assert grid["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
        assert grid["response_mask"].tolist() == [[1, 1], [1, 0]]
        assert grid["position_ids"][1].tolist()[1:3] == [0, 1]
        assert "rollout_log_probs" not in grid

    def test_skyrl_columns(self, tmp_path):
        """SkyRL's response columns end with the response; padding and missing ends are masked."""
        grid = load(write(two_samples(), "skyrl", tmp_path)[0])
        assert grid["sequences"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 4]]
        assert grid["response_mask"].tolist() == [[1, 1], [0, 1]]
        mask = grid["router_padding_mask"]
        assert mask.tolist() == [[False, False, False, True], [True, True, False, True]]
        assert grid["rollout_expert_indices"][1, 0].tolist() == [[0, 1], [0, 1]]

    def test_skyrl_packed(self, tmp_path):
        """SkyRL 0.4's rows are end to end, a sample's as many as its tokens, with their bounds."""
        grid = load(write(two_samples(), "skyrl-0.4", tmp_path)[0])
        packed = grid["rollout_expert_indices"]
        assert words(packed["values"], 1) == "01 23 10 01 32 01"
        assert packed["cu_seqlens"].tolist() == [0, 4, 6]
        assert (packed["values"].dtype, packed["cu_seqlens"].dtype) == (torch.uint8, torch.int32)
        assert grid["router_padding_mask"].tolist()[1] == [True, True, False, True]
        assert grid["loss_mask"].dtype == torch.float32

    def test_slime(self, tmp_path):
        """A slime sample has N-1 rows of int32 for all layers, as a tensor, and its tokens."""
        doc = load(write(two_samples(), "slime", tmp_path)[0])
        a, b = doc["samples"]
        assert doc["rollout_id"] == 0
        assert (words(a["rollout_routed_experts"]), a["tokens"]) == ("01 23 10", [5, 6, 7, 8])
        assert a["rollout_routed_experts"].dtype == torch.int32
        assert (a["response_length"], a["status"], a["group_index"]) == (2, "completed", 0)
        assert (b["rollout_routed_experts"].shape, b["group_index"]) == ((1, 2, 2), 0)

    @pytest.mark.parametrize("name", ["slime-numpy", "miles"])
    def test_numpy_samples(self, tmp_path, name):
        """miles, and slime before #2108, hold numpy int32."""
        ids = load(write(two_samples(), name, tmp_path)[0])["samples"][0]["rollout_routed_experts"]
        assert isinstance(ids, np.ndarray)
        assert (ids.dtype, words(ids)) == (np.int32, "01 23 10")

    def test_verl_jagged(self, tmp_path):
        """verl's tq_batch has N rows of int16, the last of zeros, and a key of uid and session."""
        doc = load(write(two_samples(), "verl", tmp_path)[0])
        a, b = doc["tensordict"]["routed_experts"].unbind()
        assert (a.dtype, words(a), words(b)) == (torch.int16, "01 23 10 00", "32 00")
        assert doc["keys"] == ["g-1_0_0", "g-1_1_0"]
        assert doc["tags"][1]["prompt_len"] == 1
        assert doc["tensordict"]["responses"].unbind()[0].tolist() == [7, 8]

    def test_megatron(self, tmp_path):
        """Megatron is given a list of int64 [tokens, K], one a MoE layer, samples end to end."""
        layers = load(write(two_samples(), "megatron", tmp_path)[0])
        assert [layer.dtype for layer in layers] == [torch.int64]
        assert words(layers[0][:, None], 0) == "01 23 10 01 32 01"

    def test_prime_rl_without_logprobs(self, tmp_path):
        """A log-prob that a dump has not is NaN, as it is when it is read again."""
        dump = make_dump(
            [make_sample(make_routes(A_ROWS, (1,), 4), "a", [5, 6], [7, 8])], (1,), 4, 2
        )
        path, _ = write(dump, "prime-rl", tmp_path)
        assert np.isnan(msgpack.unpackb(path.read_bytes())[0][3][2:]).all()
        (sample,) = open_dump(path, model=FACTS)
        assert sample.logprobs is None or np.isnan(sample.logprobs).all()

    def test_prime_rl(self, tmp_path):
        """prime-rl's bins are arrays of 16 fields; field 10 is bytes, shape and dtype of N rows."""
        data = write(two_samples(), "prime-rl", tmp_path)[0].read_bytes()
        a, b = msgpack.unpackb(data)
        assert (len(a), len(b)) == (16, 16)
        assert a[10] == [
            bytes([0, 0, 0, 1, 0, 0, 2, 3, 0, 0, 1, 0, 0, 0, 0, 0]),
            [4, 2, 2],
            "uint8",
        ]
        assert (a[0], a[1], a[5], b[8]) == ([5, 6, 7, 8], [False, False, True, True], [4], [2])

    def test_nemo_rl(self, tmp_path):
        """NeMo-RL's string names dtype and shape of N rows of the MoE layers."""
        line = write(two_samples(), "nemo-rl", tmp_path)[0].read_text().splitlines()[1]
        assert json.loads(line) == {
            "id": "b",
            "prompt_token_ids": [9],
            "generation_token_ids": [4],
            "routed_experts": "nrlre1:int8:2x1x2:AwIAAQ==",
        }

    @pytest.mark.parametrize(
        ("name", "version", "storage"),
        [("art", "moe_routing_replay_v3", None), ("art-v4", "moe_routing_replay_v4", "calls")],
    )
    def test_art(self, tmp_path, name, version, storage):
        """ART's bundle has a call a sample, int32 [N, K], with the router's 0-based layer."""
        path, _ = write(two_samples(), name, tmp_path)
        manifest = json.loads((path / "manifest.json").read_text())
        key = "chunk_00.layer_0001.mlp.router"
        assert (manifest["format_version"], manifest["max_topk"]) == (version, 2)
        assert manifest.get("storage") == storage
        calls = manifest["steps"]["0"]["routers"][key]
        assert calls == {str(i): {"num_experts": 4, "sample_index": i} for i in range(2)}
        step = load_file(path / manifest["steps"]["0"]["file"])
        assert step["global_token_uids"].tolist() == [0, 1, 2, 3]
        rows = step[f"{key}/call_0/expert_indices"]
        assert (rows.dtype, rows.tolist()) == (np.int32, [[0, 1], [2, 3], [1, 0], [0, 1]])

    def test_engine_lines(self, tmp_path):
        """vLLM's lines hold the base64 of a .npy of all layers, SGLang's that of raw int32."""
        vllm = json.loads(write(two_samples(), "jsonl", tmp_path)[0].read_text().splitlines()[1])
        sglang = json.loads(
            write(two_samples(), "jsonl-sglang", tmp_path)[0].read_text().splitlines()[1]
        )
        assert vllm["choices"][0]["routed_experts"].startswith("k05VTVBZ")
        assert sglang["meta_info"]["routed_experts"] == "AAAAAAAAAAADAAAAAgAAAA=="


def assert_same(old, new):
    """Every route and token of two dumps is the same; samples in order, by id in safetensors."""
    assert (len(old), old.meta.layers_L) == (len(new), new.meta.layers_L)
    by_id = {sample.sample_id: sample for sample in new} if new.meta.format == "safetensors" else {}
    for mine, theirs in zip(old, new, strict=True):
        theirs = by_id.get(mine.sample_id, theirs)
        if mine.routes is None:
            assert theirs.routes is None
            continue
        there = np.ones(mine.routes.ids_TLK.shape[:2], bool)
        if mine.routes.missing_TL is not None:
            there = ~mine.routes.missing_TL
            np.testing.assert_array_equal(mine.routes.missing_TL, theirs.routes.missing_TL)
        else:
            assert theirs.routes.missing_TL is None
        np.testing.assert_array_equal(mine.routes.ids_TLK[there], theirs.routes.ids_TLK[there])
        assert mine.routes.start == theirs.routes.start
        np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)


class TestRoundTrips:
    """Out and back."""

    @pytest.mark.parametrize("name", BOUNDED)
    def test_recorded(self, tmp_path, name):
        """A recording of a model with a dense layer comes back from every form, tokens and all."""
        dump = open_dump(DEEPSEEK)
        path, done = write(dump, name, tmp_path, num_layers=5)
        back = open_dump(path, model=FIXTURES / "configs/deepseek_v3.json")
        assert_same(dump, back)
        assert done.samples == 46
        if "logprobs" in target_named(name).holds:
            scores = [np.sort(np.concatenate([s.logprobs for s in d])) for d in (dump, back)]
            np.testing.assert_allclose(*scores, rtol=1e-6)
        if name not in ("ms-swift", "safetensors"):
            assert [s.prompt_length for s in dump] == [s.prompt_length for s in back]

    def test_layers_of_one_sample(self, tmp_path):
        """A list of layers has no bounds: it reads as one sample with a row for every token."""
        path, _ = write(two_samples(), "megatron", tmp_path)
        (sample,) = open_dump(path, model=ModelFacts(2, (1,), 4, 2, None), start=0)
        assert sample.routes.ids_TLK.tolist()[:3] == A_ROWS

    def test_bundle(self, tmp_path):
        """ART's bundle tells layers, E and K itself, and has rows for all tokens, but no tokens."""
        dump = open_dump(DEEPSEEK)
        back = open_dump(write(dump, "art", tmp_path)[0])
        assert (back.meta.layers_L, back.meta.num_experts, back.meta.top_k) == ((1, 2, 3, 4), 32, 4)
        assert [key.sample_id for key in back.keys][:2] == ["0/0", "0/1"]
        for mine, theirs in zip(dump, back, strict=True):
            np.testing.assert_array_equal(mine.routes.ids_TLK, theirs.routes.ids_TLK[:-1])

    @pytest.mark.parametrize("name", ["jsonl", "jsonl-sglang", "npz", "safetensors"])
    def test_starts(self, tmp_path, name):
        """Forms of engines and of routectl keep a start that is not 0."""
        dump = open_dump(STARTS)
        assert any(sample.routes.start for sample in dump if sample.routes)
        path, _ = write(dump, name, tmp_path, num_layers=6)
        assert_same(dump, open_dump(path, model=FIXTURES / "configs/qwen3_moe.json"))

    @pytest.mark.parametrize("name", ["npz", "safetensors", "slime", "verl", "jsonl-sglang"])
    def test_everything_else(self, tmp_path, name):
        """What a form holds comes back: ids, groups, spans, masks, log-probs."""
        more = {"loss_mask": np.array([False, False, True, False])}
        if name != "verl":  # in whose batch all samples have log-probs, or none
            more |= {"logprobs": np.array([-0.5, -2.0]), "weight_spans": (WeightSpan("7", 0, 2),)}
        dump = two_samples(**more)
        path, _ = write(dump, name, tmp_path)
        sample, holds = open_dump(path, model=FACTS)[0], target_named(name).holds
        for field in ("logprobs", "loss_mask"):
            if field in holds and getattr(dump[0], field) is not None:
                np.testing.assert_array_equal(getattr(sample, field), getattr(dump[0], field))
        if "weight_spans" in holds:
            assert sample.weight_spans == dump[0].weight_spans
        assert sample.sample_id == ("g-1_0_0" if name == "verl" else "a")

    @given(st.data())
    def test_missing_rows(self, tmp_path_factory, data):
        """Missing rows come back as such from forms that say -1, whatever the shape."""
        names = ["npz", "safetensors", "miles", "nemo-rl", "nemo-rl-tensor", "verl"]
        name = data.draw(st.sampled_from(names))
        experts = data.draw(st.sampled_from([3, 128, 129, 256, 300]))
        top_k = data.draw(st.integers(2, 3))
        samples = []
        for i in range(data.draw(st.integers(1, 3))):
            rows = data.draw(st.integers(1, 4))
            shape = (rows, 2, top_k)
            ids = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, experts - 1)))
            ids[..., 0], ids[..., 1] = experts - 1, 0  # distinct ids, so that no row is a filler
            gaps = [tuple(at) for at in np.argwhere(data.draw(arrays.arrays(np.bool_, shape[:2])))]
            routes = make_routes(ids.tolist(), (0, 2), experts, missing=gaps)
            samples.append(make_sample(routes, f"s{i}", [1] * rows, [2]))
        dump = make_dump(samples, (0, 2), experts, top_k)
        folder = tmp_path_factory.mktemp("missing")
        path, _ = write(dump, name, folder, "minus-one", num_layers=3)
        assert_same(dump, open_dump(path, model=ModelFacts(3, (0, 2), experts, top_k, None)))


def gapped(**more):
    """A dump whose first sample has a missing row at position 1."""
    routes = make_routes(A_ROWS, (1,), 4, missing=[(1, 0)])
    a = make_sample(routes, "a", [5, 6], [7, 8], **more)
    return make_dump([a, two_samples()[1]], (1,), 4, 2)


class TestMissing:
    """Rows that were not captured."""

    @pytest.mark.parametrize(
        "name", ["slime", "verl", "roll", "skyrl", "prime-rl", "megatron", "jsonl"]
    )
    def test_refused(self, tmp_path, name):
        """A form that cannot say that a row is missing refuses, and names the flag."""
        with pytest.raises(UnsupportedError, match=r"sample a: 1 of \d rows are missing") as caught:
            write(gapped(), name, tmp_path)
        assert "--missing" in caught.value.hint
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("how", "a"), [("arange", "01 01 10"), ("zero", "01 00 10"), ("minus-one", "01 -1-1 10")]
    )
    def test_filled(self, tmp_path, how, a):
        """--missing writes the row as 0..K-1, zeros or -1."""
        doc = load(write(gapped(), "slime", tmp_path, how)[0])
        assert words(doc["samples"][0]["rollout_routed_experts"]) == a
        assert not doc["samples"][0]["rollout_routed_experts"][:, 0].any()

    def test_dropped(self, tmp_path):
        """--missing drop leaves the sample out and counts it."""
        path, done = write(gapped(), "slime", tmp_path, "drop")
        assert (done.samples, done.dropped) == (1, 1)
        assert [s["tokens"] for s in load(path)["samples"]] == [[9, 4]]

    def test_all_dropped(self, tmp_path):
        """A file of no samples is not written."""
        with pytest.raises(UnsupportedError, match="no sample can be written: 1 of 1"):
            write(gapped().select(samples=[0]), "slime", tmp_path, "drop")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["jsonl", "prime-rl", "roll"])
    def test_no_minus_one(self, tmp_path, name):
        """An unsigned form holds no -1."""
        with pytest.raises(UnsupportedError, match="holds no -1"):
            write(gapped(), name, tmp_path, "minus-one")

    @pytest.mark.parametrize("name", ["nemo-rl", "miles"])
    def test_own_way(self, tmp_path, name):
        """NeMo-RL and miles have rows of -1 for it, without a flag."""
        back = open_dump(write(gapped(), name, tmp_path)[0], model=FACTS)
        assert back[0].routes.missing_TL.tolist() == [[False], [True], [False]]

    def test_short_tail(self, tmp_path):
        """SkyRL masks an uncaptured end; others call it missing."""
        routes = make_routes(A_ROWS[:2], (1,), 4)
        dump = make_dump([make_sample(routes, "a", [5, 6], [7, 8])], (1,), 4, 2)
        grid = load(write(dump, "skyrl", tmp_path)[0])
        assert grid["router_padding_mask"].tolist() == [[False, False, True, True]]
        with pytest.raises(UnsupportedError, match="1 of 4 rows"):
            write(dump, "verl", tmp_path)

    def test_late_start(self, tmp_path):
        """Rows before the start are missing where a form begins at the first token."""
        routes = make_routes(A_ROWS[1:], (1,), 4, start=1)
        dump = make_dump([make_sample(routes, "a", [5, 6], [7, 8])], (1,), 4, 2)
        with pytest.raises(UnsupportedError, match="1 of 3 rows"):
            write(dump, "slime", tmp_path)

    def test_trainer_rows(self, tmp_path):
        """A row of the last token, which trainers have, is kept where there is room, else cut."""
        routes = make_routes([*A_ROWS, [[3, 0]]], (1,), 4)
        dump = make_dump([make_sample(routes, "a", [5, 6], [7, 8])], (1,), 4, 2)
        assert words(load(write(dump, "megatron", tmp_path)[0])[0][:, None], 0) == "01 23 10 30"
        doc = load(write(dump, "slime", tmp_path)[0])
        assert words(doc["samples"][0]["rollout_routed_experts"]) == "01 23 10"


class TestRefused:
    """What no file is written for."""

    @pytest.mark.parametrize(
        ("name", "more", "said"),
        [
            ("megatron", {"logprobs": np.zeros(2)}, "has log-probs, and megatron no place"),
            (
                "verl",
                {"weight_spans": (WeightSpan("1", 0, 1), WeightSpan("2", 1, 2))},
                "has several weight versions",
            ),
            ("npz", {"loss_mask": np.ones(4, bool)}, "has a loss mask"),
            ("slime", {"loss_mask": np.ones(4, bool)}, "has a loss mask of the prompt"),
        ],
    )
    def test_no_place(self, tmp_path, name, more, said):
        """What a form has no place for is an error, or with --lossy said to be left out."""
        with pytest.raises(UnsupportedError, match=said) as caught:
            write(two_samples(**more), name, tmp_path, lossy=False)
        assert "--lossy" in caught.value.hint
        assert len(write(two_samples(**more), name, tmp_path)[1].left_out) == 1

    def test_one_weight_version(self, tmp_path):
        """One weight version of all samples is left out unasked, and named; it tells none apart."""
        samples = two_samples(weight_spans=(WeightSpan("1", 0, 2),))
        assert write(samples, "verl", tmp_path, lossy=False)[1].left_out == ("weight versions",)
        assert write(samples, "slime", tmp_path, lossy=False)[1].left_out == ()

    def test_layers_not_known(self, tmp_path):
        """A form with a column for every layer needs to know how many there are."""
        with pytest.raises(RoutectlError, match="how many layers") as caught:
            write(two_samples(), "slime", tmp_path, num_layers=None)
        assert caught.value.hint == "--model CONFIG"
        write(two_samples(), "nemo-rl", tmp_path, num_layers=None)

    def test_some_logprobs(self, tmp_path):
        """A batch has log-probs of all samples or of none."""
        with pytest.raises(RoutectlError, match="for some samples and not for others"):
            write(two_samples(logprobs=np.zeros(2)), "verl", tmp_path)
        with pytest.raises(RoutectlError, match="for some samples and not for others"):
            write(two_samples(logprobs=np.zeros(2)), "skyrl", tmp_path)

    def test_no_tokens(self, tmp_path):
        """A form made of tokens needs them."""
        dump = make_dump([make_sample(make_routes(A_ROWS, (1,), 4), "a")], (1,), 4, 2)
        with pytest.raises(RoutectlError, match="token counts are not known"):
            write(dump, "slime", tmp_path)

    def test_too_many_experts(self, tmp_path):
        """ids that a dtype cannot hold are refused by name."""
        ids = [[[40000, 1]]]
        sample = make_sample(make_routes(ids, (0,), 40001), "a", [1], [2])
        with pytest.raises(UnsupportedError, match="int16 does not hold 40001"):
            write(make_dump([sample], (0,), 40001, 2), "verl", tmp_path, num_layers=1)

    def test_names_twice(self, tmp_path):
        """Two samples of one name cannot be arrays of one file."""
        dump = two_samples()
        twice = make_dump([dump[0], dump[0]], (1,), 4, 2)
        with pytest.raises(UnsupportedError, match="or two are"):
            write(twice, "npz", tmp_path)
        assert not list(tmp_path.iterdir())

    def test_unknown(self):
        """An unknown target is answered with all that are known."""
        with pytest.raises(UnsupportedError, match=r"native, npz, safetensors, .*megatron"):
            target_named("verll")


def _peak(name, count, folder):
    """Bytes that Python and numpy hold at most while a form of ``count`` samples is written."""
    tokens, layers = 512, tuple(range(64))
    ids = (np.arange(tokens * 64 * 8).reshape(tokens, 64, 8) % 128).astype(np.uint8)

    def make(i):
        routes = Routes(ids[:-1].copy(), layers, 128)
        return make_sample(routes, str(i), range(100), range(tokens - 100))

    keys = [key_of(str(i), None, None) for i in range(count)]
    dump = Dump(DumpMeta("", "", layers, 128, 8), keys, make)
    tracemalloc.start()
    try:
        assert write(dump, name, folder, num_layers=64)[1].samples == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_streams(tmp_path, name):
    """A sample more takes less memory than half its routes in a byte each: no form holds them."""
    _peak(name, 2, tmp_path)  # what is loaded and compiled first
    assert _peak(name, 22, tmp_path) - _peak(name, 12, tmp_path) < 10 * 511 * 64 * 8 / 2


class TestHostile:
    """Files that someone else wrote."""

    def test_code_is_not_run(self, tmp_path):
        """A pickle that would run code is refused, and does not run."""

        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"samples": [Evil()]}, tmp_path / "evil.pt")
        with pytest.raises(FormatError, match=r"names .*getattr, which is not on the list"):
            open_dump(tmp_path / "evil.pt", model=FACTS)
        assert not (tmp_path / "ran").exists()

    def test_stretched_tensor(self, tmp_path):
        """A tensor that claims more than its bytes is refused before it is copied."""
        wide = torch.zeros(1, dtype=torch.int16).expand(1, 10**9, 2, 2)
        torch.save({"routed_experts": wide, "input_ids": wide[..., 0, 0]}, tmp_path / "a.pt")
        with pytest.raises(FormatError, match="larger than its bytes"):
            open_dump(tmp_path / "a.pt", model=FACTS)

    def test_cut_short(self, tmp_path):
        """A file that is cut short is damaged."""
        for name in ("slime", "prime-rl"):
            path, _ = write(two_samples(), name, tmp_path)
            path.write_bytes(path.read_bytes()[:-9])
            with pytest.raises(FormatError, match="damaged"):
                open_dump(path, model=FACTS)

    def test_great_claims(self, tmp_path):
        """An array that claims 2^32 entries is refused at once."""
        head = struct.pack(">BI", 0xDD, 2**32 - 1) + struct.pack(">BH", 0xDC, 16) + b"\x90"
        (tmp_path / "a.bin").write_bytes(head * 3)
        with pytest.raises(FormatError, match="damaged msgpack"):
            open_dump(tmp_path / "a.bin", model=FACTS)

    def test_bomb(self, tmp_path):
        """A torch file that inflates beyond measure is refused."""
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr("a/data/0", bytes(80 << 20))
        with pytest.raises(FormatError, match="damaged or compressed"):
            open_dump(path, model=FACTS)

    @pytest.mark.parametrize(
        ("payload", "said"),
        [
            ("nrlre1:int8:3x1x2:AAECAw==", "got 4 bytes, expected 6"),
            ("nrlre1:float:1x1x2:AAE=", "expected nrlre1:<int8"),
            ("nrlre1:int8:2x1x2:AAEC", "got 3 bytes"),
        ],
    )
    def test_nemo_strings(self, tmp_path, payload, said):
        """A NeMo-RL string whose bytes do not fit its head is refused."""
        doc = {"prompt_token_ids": [1], "generation_token_ids": [2], "routed_experts": payload}
        (tmp_path / "a.jsonl").write_text(json.dumps(doc))
        with pytest.raises(FormatError, match=said):
            open_dump(tmp_path / "a.jsonl", model=FACTS)[0]

    @pytest.mark.parametrize(
        ("old", "new", "error", "said"),
        [
            ("replay_v3", "replay_v9", UnsupportedError, "moe_routing_replay_v9, this routectl"),
            ('"step_000000', '"../step_000000', FormatError, "outside of the bundle"),
            ('"max_topk"', '"max_top"', FormatError, "the manifest is not whole"),
            ("layer_0001", "layer_1", FormatError, "not one a layer"),
            ('"num_experts": 4', '"num_experts": 3', FormatError, "got id 3, expected 0..2"),
        ],
    )
    def test_bundles(self, tmp_path, old, new, error, said):
        """A bundle whose manifest is another's, or does not fit its tensors, is refused."""
        path, _ = write(two_samples(), "art", tmp_path)
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text().replace(old, new))
        with pytest.raises(error, match=said):
            list(open_dump(path))

    def test_no_dump(self, tmp_path):
        """A torch file without routes is said to be one."""
        torch.save({"step": 3}, tmp_path / "a.pt")
        with pytest.raises(FormatError, match="a torch file without routes"):
            open_dump(tmp_path / "a.pt", model=FACTS)


class TestCommand:
    """``routectl convert --to``."""

    def test_pipe(self, capsysbinary):
        """JSON lines go to stdout for -, and nothing else does."""
        done = run(capsysbinary, "convert", DEEPSEEK, "--save", "-", "--to", "jsonl")
        assert done.code == 0, done.err
        assert len(io.BytesIO(done.out).readlines()) == 46
        assert b"wrote stdout: 46 samples" in done.err

    def test_says_what_it_did(self, capsys, tmp_path):
        """Sizes before and after, the ratio, the time and what was left out are on stderr."""
        done = run(
            capsys, "convert", DEEPSEEK, "--save", tmp_path / "a.pt", "--to", "megatron", "--lossy"
        )
        assert done.code == 0, done.err
        assert done.out == ""
        assert "46 samples; 241 kB to 726 kB (0.332 x) in " in done.err
        assert "left out: log-probs" in done.err

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["out.pt"], ".pt is of several targets\nhint: --to verl, verl-padded, slime, "),
            (["out.txt"], "expected NAME.parquet"),
            (["out.pt", "--to", "megatron"], "--lossy to leave them out"),
            (["out.npz", "--to", "slime"], "is written to NAME.pt"),
            (["-", "--to", "slime"], "slime is no stream"),
            (["out.pt", "--to", "native"], "expected NAME.parquet"),
            (["out.pt", "--to", "nope"], "--to 'nope' is not known: native, npz"),
            (
                ["out.pt", "--to", "slime", "--missing", "maybe"],
                "--missing 'maybe' is not known: arange, zero",
            ),
        ],
    )
    def test_trouble(self, capsys, tmp_path, args, said):
        """Trouble is exit 2 with a line that says what was wrong, and no file."""
        args = [tmp_path / args[0] if args[0] != "-" else "-", *args[1:]]
        done = run(capsys, "convert", DEEPSEEK, "--save", *args)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert not list(tmp_path.iterdir())

    def test_without_all_layers_the_model_is_needed(self, capsys, tmp_path):
        """Where a file knows its MoE layers alone, --model tells how many layers there are."""
        dump, native = open_dump(FIXTURES / "golden/deepseek_v3.parquet"), tmp_path / "old.parquet"
        write_native(dump, replace(dump.meta, num_layers=None), native, force=False)
        done = run(capsys, "convert", native, "--save", tmp_path / "a.pt", "--to", "slime")
        assert "how many layers" in done.err
        config = FIXTURES / "configs/deepseek_v3.json"
        done = run(
            capsys,
            "convert",
            native,
            "--save",
            tmp_path / "a.pt",
            "--to",
            "slime",
            "--model",
            config,
        )
        assert done.code == 0, done.err
        other = FIXTURES / "configs/qwen3_moe.json"
        done = run(
            capsys,
            "convert",
            native,
            "--save",
            tmp_path / "b.pt",
            "--to",
            "slime",
            "--model",
            other,
        )
        assert "of another model than --model" in done.err


def table_row(target):
    """A target as docs/formats.md has it."""
    rows = target.rows.replace("N-1", "N - 1")
    pads = {"engine": "none", "own": "none", "N - 1": "none"}.get(rows, target.pad)
    pads = f"{pads}, {target.side}" if target.side else pads
    words = {None: "an error", "minus-one": "-1", "repeat": "repeat, and not valid"}
    missing = words[target.missing]
    missing = "masked at the end, else an error" if target.tail else missing
    holds = ", ".join(name.replace("_", " ") for name in target.holds) or "-"
    name = target.suffix or "a folder"
    return (
        f"| `{target.name}` | {name} | `{target.key}` | {target.axis} | {rows} | {target.dtype} | "
        f"{pads} | {missing} | {holds} | {target.source} |"
    )


def test_docs_have_the_table():
    """docs/formats.md lists every target with its layout and source, in order."""
    head = (
        "| `--to` | file | routes in | layers | rows | dtype | fillers | missing rows | holds | "
        "source |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    table = "\n".join([head, *map(table_row, TARGETS)])
    text = (FIXTURES.parent / "docs/formats.md").read_text("utf-8")
    assert table in text, table
