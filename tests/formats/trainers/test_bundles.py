"""ART's bundles of versions 1 and 4, as ART itself wrote them: with weights, or as packed rows.

Shape suffixes: T tokens, L layers, K top_k.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl.formats import open_dump
from support.newer_trainers import ART, ART_NEWEST, art_replay
from support.shell import complaint, document, run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
THEIRS = FIXTURES / "trainer_files/openpipe_art-0.5.18"
PACKED = FIXTURES / "trainer_files/openpipe_art-0.5.23"
DUMP = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
RECORDED = {"0/0": 0, "0/1": 1, "1/2": 5}  # step and sample: of DUMP
art = pytest.mark.skipif(not ART.is_dir(), reason="openpipe-art==0.5.18 in .trainers")
newest = pytest.mark.skipif(
    ART_NEWEST == ART or not ART_NEWEST.is_dir(), reason="openpipe-art>=0.5.23 in .trainers"
)


def probs(name):
    """The weights [T, L, K] of one sample, straight out of ART's file."""
    step, index = map(int, name.split("/"))
    tensors = load_file(THEIRS / f"step_{step:06d}.safetensors")
    call = index if step == 0 else 0
    routers = [f"chunk_00.layer_{n:04d}.mlp.router" for n in range(1, 5)]
    return np.stack([tensors[f"{r}/call_{call}/expert_probs"] for r in routers], axis=1)


def test_its_own():
    """Rows are the recording's, a masked row is missing, weights are gates of the routes beside."""
    mine, theirs = open_dump(DUMP), open_dump(THEIRS)
    assert [sample.sample_id for sample in theirs] == list(RECORDED)
    assert theirs.meta.gates
    for sample in theirs:
        routes, size = sample.routes, sample.routes.num_tokens - 1
        wanted = mine[RECORDED[sample.sample_id]].routes.ids_TLK[:size]
        np.testing.assert_array_equal(routes.ids_TLK[:size], wanted)
        assert routes.missing_TL[-1].all()
        assert not routes.missing_TL[:-1].any()
        kept = np.exp(sample.gates.logprobs_TLK.astype(np.float64))
        np.testing.assert_allclose(kept, probs(sample.sample_id), rtol=1 / 8000)
        assert sample.gates.of.startswith("weights:")


def test_commands(capsys, tmp_path):
    """diff, check and convert take it; a native file keeps routes and weights."""
    saved = tmp_path / "x.parquet"
    assert run(capsys, "convert", THEIRS, "--save", saved).code == 0
    assert run(capsys, "diff", THEIRS, saved).code == 0
    assert [f["code"] for f in document(capsys, "check", THEIRS, code=1)["findings"]] == ["R203"]
    for one, two in zip(open_dump(THEIRS), open_dump(saved), strict=True):
        np.testing.assert_array_equal(one.gates.logprobs_TLK, two.gates.logprobs_TLK)
        assert one.gates.of == two.gates.of


def test_weights_are_not_lost_unasked(capsys, tmp_path):
    """A form of routes alone takes it with --lossy."""
    line = ("convert", THEIRS, "--save", tmp_path / "x.npz")
    assert "has gate log-probabilities" in complaint(capsys, *line)
    assert run(capsys, *line, "--lossy").code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.fill(-1), "weights are at least 0"),
        (lambda p: p.fill(np.nan), "weights are at least 0"),
        (lambda p: p.view(np.uint32).fill(0x7F800001), "weights are at least 0"),  # signalling
        (lambda p: p.resize((7, 4), refcheck=False), "expert_probs have not one shape"),
        (lambda p: p.astype(np.int32), "expected float32"),
    ],
)
def test_hostile(capsys, tmp_path, change, said):
    """Weights that are none, or of another shape, are refused in one line."""
    folder = Path(shutil.copytree(THEIRS, tmp_path / "b"))
    path = folder / "step_000000.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    name = "chunk_00.layer_0001.mlp.router/call_0/expert_probs"
    changed = change(tensors[name])
    tensors[name] = tensors[name] if changed is None else changed
    save_file(tensors, path)
    told = complaint(capsys, "diff", folder, folder)
    assert said in told
    assert len(told.splitlines()) == 1


def test_another_version(capsys, tmp_path):
    """A version that is not known is refused with those that are."""
    folder = Path(shutil.copytree(THEIRS, tmp_path / "b"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = "moe_routing_replay_v9"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told = complaint(capsys, "show", folder)
    assert "moe_routing_replay_v9, this routectl reads moe_routing_replay_v4, moe_r" in told


@pytest.mark.trainers
@art
@pytest.mark.filterwarnings("ignore")  # Megatron-Core's imports
def test_is_what_art_reads():
    """ART 0.5.18's own from_dir takes the fixture, and its calls are the samples."""
    with art_replay() as theirs:
        bundle = theirs.MoeRoutingReplayBundle.from_dir(THEIRS)
    assert bundle.format_version == "moe_routing_replay_v1"
    calls = bundle.steps[1].routers["chunk_00.layer_0001.mlp.router"].calls
    dump = open_dump(THEIRS)
    np.testing.assert_array_equal(
        calls[0].expert_indices.numpy()[:-1], dump[2].routes.ids_TLK[:-1, 0]
    )


def changed(tmp_path, **about):
    """A copy of the packed bundle, its manifest changed."""
    folder = Path(shutil.copytree(PACKED, tmp_path / "packed"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **about}))
    return folder


def test_packed_rows():
    """Each is a sample of its step: the recording's rows, end to end, without ART's filler."""
    mine, theirs = open_dump(DUMP), open_dump(PACKED)
    assert [sample.sample_id for sample in theirs] == ["0/0", "0/1", "1/2"]
    assert (theirs.meta.layers_L, theirs.meta.num_experts, theirs.meta.top_k) == (
        (*range(4),),
        32,
        4,
    )
    for sample, members in zip(theirs, ((0, 1), (5,), (9,)), strict=True):
        wanted = np.concatenate([mine[i].routes.ids_TLK for i in members])
        np.testing.assert_array_equal(sample.routes.ids_TLK, wanted)
        assert sample.routes.missing_TL is None or not sample.routes.missing_TL.any()


def test_filler_between_rows_is_missing(tmp_path):
    """A row that ART made for want of a route, by its position in the sample, is no route."""
    folder = changed(tmp_path)
    path = folder / "layer_major.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    base = 7 * 1_299_709 + np.arange(1, 5) * 97_003  # of position 6, by hand
    tensors["expert_indices"][:, 0, 10] = (base[:, None] + np.arange(4)) % 32
    save_file(tensors, path)
    missing_TL = open_dump(folder)[0].routes.missing_TL
    assert np.flatnonzero(missing_TL.all(axis=1)).tolist() == [10]
    assert missing_TL.sum() == 4


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"storage": "by_weight"}, "storage by_weight, this routectl reads calls and layer_major"),
        ({"file": "../x.safetensors"}, "names files outside of the bundle"),
        (
            {"max_topk": 3},
            "expert_indices (4, 3, 300, 4), expected [4 layers, packed rows, tokens, 3]",
        ),
        ({"global_grad_accumulation_sequences": 0}, "the manifest is not whole"),
        ({"router_keys": []}, "the manifest"),
    ],
)
def test_hostile_packed(capsys, tmp_path, about, said):
    """A manifest that does not fit the tensor is refused in one line."""
    folder = changed(tmp_path, **about)
    told = complaint(capsys, "diff", folder, folder)
    assert said in told
    assert len(told.splitlines()) == 1


@pytest.mark.trainers
@newest
@pytest.mark.filterwarnings("ignore")  # Megatron-Core's imports
def test_is_what_the_newest_art_reads(capsys, tmp_path):
    """ART 0.5.23's own from_dir takes the fixture, and what --to art-v4 writes, route by route."""
    assert (
        run(capsys, "convert", DUMP, "--to", "art-v4", "--save", tmp_path / "v4", "--lossy").code
        == 0
    )
    with art_replay(ART_NEWEST) as theirs:
        packed = theirs.MoeRoutingReplayBundle.from_dir(PACKED)
        mine = theirs.MoeRoutingReplayBundle.from_dir(tmp_path / "v4")
        theirs.MoeRoutingReplayBundle.model_validate(mine.model_dump())
    assert packed.tensor_backed
    for key, layer in (("layer_0001", 0), ("layer_0004", 3)):
        calls = mine.steps[0].routers[f"chunk_00.{key}.mlp.router"].calls
        dump = open_dump(DUMP)
        assert sorted(call.sample_index for call in calls.values()) == list(range(len(dump)))
        for call in calls.values():
            np.testing.assert_array_equal(
                call.expert_indices.numpy()[:-1], dump[call.sample_index].routes.ids_TLK[:, layer]
            )


@pytest.mark.parametrize("codec", ["set", "context", "packed"])
def test_weights_stay_with_their_slots(capsys, tmp_path, codec):
    """A codec that sorts a row's ids sorts their weights with them."""
    saved = tmp_path / "x.parquet"
    assert run(capsys, "convert", THEIRS, "--save", saved, "--codec", codec).code == 0
    for one, two in zip(open_dump(THEIRS), open_dump(saved), strict=True):
        of = [
            np.take_along_axis(s.gates.logprobs_TLK, s.routes.ids_TLK.argsort(axis=2), axis=2)
            for s in (one, two)
        ]
        np.testing.assert_array_equal(*of)
        assert two.gates.of.startswith("weights:")
    assert run(capsys, "diff", THEIRS, saved).code == 0
