"""ART's bundles of version 1, as ART 0.5.18 itself wrote one: routes with the weights it replays.

Shape suffixes: T tokens, L layers, K top_k.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routectl.formats import open_dump
from support.newer_trainers import ART, art_replay
from support.shell import complaint, document, run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
THEIRS = FIXTURES / "trainer_files/openpipe_art-0.5.18"
DUMP = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
RECORDED = {"0/0": 0, "0/1": 1, "1/2": 5}  # step and sample: of DUMP
art = pytest.mark.skipif(not ART.is_dir(), reason="openpipe-art==0.5.18 in .trainers")


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
    assert "moe_routing_replay_v9, this routectl reads moe_routing_replay_v3 and" in told


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
