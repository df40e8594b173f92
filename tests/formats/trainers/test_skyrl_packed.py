"""SkyRL 0.4's batches: routes end to end, as its own code wrote them and takes them.

Shape suffixes: N tokens, L layers, K top_k.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from routectl.damage import DamagedSampleError
from routectl.formats import open_dump
from routectl.formats.targets.rows import Shape
from routectl.formats.targets.table import target_named
from routectl.formats.targets.write import write_target
from routectl.model import ModelFacts
from routectl.pickled.opcodes import Made, Name, emit_pickle
from support.newer_trainers import HAVE_SKYRL, skyrl_modules
from support.shell import complaint, document, run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
THEIRS = FIXTURES / "trainer_files/skyrl-0.4.0/global_step_1_training_input.pkl"
DUMP = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
CONFIG = FIXTURES / "configs/deepseek_v3.json"
FACTS = ModelFacts(2, (1,), 4, 2, None)
MODULE = "skyrl.backends.skyrl_train.training_batch"
skyrl = pytest.mark.skipif(not HAVE_SKYRL, reason="skyrl>=0.4, or .trainers/skyrl-0.4.0")
RECORDED = (0, 1, 5, 9)  # of DUMP


def tensor(array):
    """A field as SkyRL serializes it."""
    array = np.asarray(array)
    return {
        "format": Made(Name(MODULE, "TensorFormat"), ("numpy",)),
        "data": array.tobytes(),
        "shape": array.shape,
        "dtype": array.dtype.name,
    }


def batch(path, *, bounds=(0, 4, 7), rows=None, word="packed_tensor", **more):
    """Two samples of 4 and 3 tokens, pickled by the house's own opcodes."""
    if rows is None:
        rows = np.zeros((7, 2, 2), np.uint8)  # layer 0 is dense
        rows[:, 1] = [[n % 4, (n + 1) % 4] for n in range(7)]
    packed = {
        "format": Made(Name(MODULE, "TensorFormat"), (word,)),
        "values": tensor(rows),
        "cu_seqlens": tensor(np.array(bounds, np.int32)),
    }
    fields = {
        "sequences": tensor([[5, 6, 7, 8], [0, 9, 4, 3]]),
        "attention_mask": tensor([[1, 1, 1, 1], [0, 1, 1, 1]]),
        "response_mask": tensor([[1, 1], [1, 1]]),
        "rollout_expert_indices": packed | more,
    }
    state = {"batch_dict": fields, "batch_size": 2, "device": None, "metadata": {}}
    maker = Name(MODULE, "_rebuild_tensor_batch")
    with path.open("wb") as file:
        emit_pickle(Made(maker, (Name(MODULE, "TrainingInputBatch"), state)), file)
    return path


class TestRead:
    """A pickle by SkyRL 0.4.0's own classes, and others of its form."""

    def test_its_own(self):
        """Each sample has its recording's rows and tokens; the copy that pads the batch is none."""
        mine, theirs = open_dump(DUMP), open_dump(THEIRS, model=str(CONFIG))
        assert len(theirs) == len(RECORDED)
        for place, sample in zip(RECORDED, theirs, strict=True):
            other = mine[place]
            gone = 5 * (place == 1)  # rows that were not captured
            kept = slice(0, other.routes.num_tokens - gone)
            np.testing.assert_array_equal(sample.token_ids, other.token_ids)
            np.testing.assert_array_equal(sample.routes.ids_TLK[kept], other.routes.ids_TLK[kept])
            missing = sample.routes.missing_TL
            assert (0 if missing is None else int(missing[:, 0].sum())) == gone
            assert missing is None or missing[kept.stop :].all()
            np.testing.assert_array_equal(sample.logprobs, np.float32(other.logprobs))
        assert [s.sample_id for s in theirs] == ["p0/0", "p0/1", "p1/0", "p2/0"]
        assert [s.group_id for s in theirs] == ["p0", "p0", "p1", "p2"]

    def test_commands(self, capsys, tmp_path):
        """show, check, diff and convert take it, and what is not captured is said."""
        model = ("--model", str(CONFIG))
        assert document(capsys, "show", str(THEIRS), *model)["samples"] == 4
        told = run(capsys, "diff", str(DUMP), str(THEIRS), *model)
        assert "0 of 860 rows differ; 42 samples without a partner, 20 rows lost" in told.out
        saved = tmp_path / "x.parquet"
        assert run(capsys, "convert", str(THEIRS), "--save", str(saved), *model).code == 0
        assert run(capsys, "diff", str(THEIRS), str(saved), *model).code == 0

    def test_end_to_end(self, tmp_path):
        """Rows are cut at cu_seqlens; the last token's, which was never fed, is left out."""
        dump = open_dump(batch(tmp_path / "x.pkl"), model=FACTS)
        assert [s.routes.ids_TLK[:, 0].tolist() for s in dump] == [
            [[0, 1], [1, 2], [2, 3]],
            [[0, 1], [1, 2]],
        ]

    def test_another_count(self, tmp_path):
        """Rows that are not one a token are damage of that sample alone."""
        dump = open_dump(batch(tmp_path / "x.pkl", bounds=(0, 1, 7)), model=FACTS)
        with pytest.raises(DamagedSampleError, match="got 1 rows"):
            dump[0]

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"bounds": (1, 4, 7)}, "cu_seqlens from 1 to 7"),
            ({"bounds": (0, 4, 6)}, "cu_seqlens from 0 to 6, expected to ascend from 0 to 7"),
            ({"bounds": (0, 9, 7)}, "cu_seqlens from 0 to 7"),
            ({"bounds": (7,)}, "cu_seqlens: got int32"),
            ({"bounds": (0, 3, 4, 7)}, "attention_mask"),
            ({"cu_seqlens": tensor(np.zeros(3))}, "cu_seqlens: got float64"),
            ({"cu_seqlens": None}, "without values or cu_seqlens"),
            ({"rows": np.zeros((7, 2), np.uint8)}, "expected rows"),
            ({"rows": np.zeros((7, 2, 2), np.float32)}, "expected rows"),
            ({"values": tensor(np.zeros(1)) | {"shape": (1 << 40, 2, 2)}}, "larger than its"),
            ({"word": 3}, "a TensorFormat of"),
        ],
    )
    def test_hostile(self, capsys, tmp_path, changed, said):
        """What does not fit is refused in one line."""
        path = batch(tmp_path / "x.pkl", **changed)
        told = complaint(capsys, "show", str(path), "--model", "2,2,4")
        assert said in told
        assert len(told.splitlines()) == 1

    @pytest.mark.trainers
    @skyrl
    def test_protocol_5(self, tmp_path):
        """A pickle of protocol 5, whose array is a buffer in it, is read alike."""
        with skyrl_modules():
            data = pickle.dumps(pickle.loads(THEIRS.read_bytes()), 5)
        (tmp_path / "x.pkl").write_bytes(data)
        one, two = (open_dump(p, model=str(CONFIG)) for p in (THEIRS, tmp_path / "x.pkl"))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.routes.ids_TLK, b.routes.ids_TLK)


def written(name, folder):
    """The recording in a target's form."""
    target, dump = target_named(name), open_dump(DUMP)
    path = folder / f"x{target.suffix}"
    write_target(dump, Shape(target, dump.meta, 5), path, force=False)
    return path


@pytest.mark.parametrize("name", ["skyrl-0.4", "skyrl-0.4-pkl"])
def test_round_trip(name, tmp_path):
    """What is written reads as the recording, every row and token of it."""
    for mine, theirs in zip(
        open_dump(DUMP), open_dump(written(name, tmp_path), model=str(CONFIG)), strict=True
    ):
        np.testing.assert_array_equal(mine.routes.ids_TLK, theirs.routes.ids_TLK)
        np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)


@pytest.mark.trainers
@skyrl
class TestItsOwnCode:
    """SkyRL 0.4.0's loader, collation and replay on what routectl writes."""

    def test_same_as_its_collation(self, tmp_path):
        """The batch is what its convert_prompts_responses_to_batch_tensors makes, bit for bit."""
        dump = open_dump(DUMP)
        rows = []
        for sample in dump:
            all_layers = np.zeros((sample.routes.num_tokens, 5, 4), np.uint8)
            all_layers[:, list(sample.routes.layers_L)] = sample.routes.ids_TLK
            rows.append(all_layers)
        responses = [s.response_ids.tolist() for s in dump]
        grid = torch.load(written("skyrl-0.4", tmp_path), weights_only=True)
        with skyrl_modules() as theirs:
            mine = pickle.loads(written("skyrl-0.4-pkl", tmp_path).read_bytes())
            made = theirs["preprocess"].convert_prompts_responses_to_batch_tensors(
                0,
                [s.prompt_ids.tolist() for s in dump],
                responses,
                [[0.0] * len(r) for r in responses],
                [[1] * len(r) for r in responses],
                [s.logprobs.tolist() for s in dump],
                rows,
            )
            mask = theirs["preprocess"].make_router_padding_mask(made[1], [len(r) for r in rows])
            packed = theirs["packed"].PackedTensor(**grid["rollout_expert_indices"])
        assert mine["rollout_expert_indices"] == made[6]
        assert packed == made[6]
        names = (
            "sequences",
            "attention_mask",
            "response_mask",
            "",
            "loss_mask",
            "rollout_logprobs",
        )
        for name, one in (*zip(names, made, strict=False), ("router_padding_mask", mask)):
            if name:
                assert torch.equal(mine[name], one)
                assert mine[name].dtype == one.dtype
                assert torch.equal(grid[name], one)

    @pytest.mark.filterwarnings("ignore")  # Megatron-Core's imports
    @pytest.mark.parametrize(("tp", "cp"), [(1, 1), (2, 2)])
    def test_replay_takes_it(self, tmp_path, tp, cp):
        """setup_per_microbatch_replay_forward gives each router its layer's rows of each rank."""
        from megatron.core import parallel_state
        from megatron.core.transformer.moe import router_replay

        held = open_dump(DUMP)
        seen = set()
        with skyrl_modules() as theirs:
            batch = pickle.loads(written("skyrl-0.4-pkl", tmp_path).read_bytes())[:4]
            for cp_rank in range(cp):
                for tp_rank in range(tp):
                    ranks = {
                        "get_tensor_model_parallel_world_size": tp,
                        "get_tensor_model_parallel_rank": tp_rank,
                        "get_context_parallel_world_size": cp,
                        "get_context_parallel_rank": cp_rank,
                    }
                    patched = {name: lambda size=size: size for name, size in ranks.items()}
                    with mock.patch.multiple(parallel_state, **patched):
                        targets = replayed(theirs, batch, router_replay)
                    for layer, rows_NK in targets.items():
                        seen |= {(layer, tuple(row)) for row in rows_NK.tolist()}
        for sample in list(held)[:4]:
            for place, layer in enumerate(sample.routes.layers_L):
                wanted = {tuple(row) for row in sample.routes.ids_TLK[:, place].tolist()}
                assert {(layer, row) for row in wanted} <= seen


def replayed(theirs, batch, router_replay):
    """What the routers of layers 1 to 4 are set to replay: layer -> rows [N, K]."""
    replay = router_replay.RouterReplay
    config = SimpleNamespace(sequence_parallel=False)
    with (
        mock.patch.object(replay, "global_router_replay_instances", []),
        mock.patch.object(
            theirs["replay"], "_get_current_pp_stage_layer_range", return_value=(0, 5)
        ),
    ):
        routers = [replay() for _ in range(4)]
        for layer, router in enumerate(routers, 1):
            router.layer_number = layer + 1
        layout = theirs["layout"].build_token_metadata_layout(
            batch["attention_mask"], torch.device("cpu"), packed=True, fp8_enabled=False
        )
        theirs["replay"].setup_per_microbatch_replay_forward(
            batch["rollout_expert_indices"],
            batch["router_padding_mask"],
            batch["attention_mask"],
            None,
            config,
            layout,
            remove_microbatch_padding=True,
        )
        return {n: router.target_topk_idx for n, router in enumerate(routers, 1)}
