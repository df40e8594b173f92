"""What ``convert --to`` writes, given to the trainers' own code.

verl, SkyRL and ms-swift are installed with ``pip install --no-deps``; where one is not there its
tests are skipped. Functions are taken out of their files, as tests/support/foreign.py does.
prime-rl, slime, miles, NeMo-RL and ROLL are on no registry: test_targets.py has their layouts
written out.
"""

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import msgspec
import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from routectl.formats.targets.rows import Shape
from routectl.formats.targets.table import target_named
from routectl.formats.targets.write import write_target
from support import foreign, mcore

pytestmark = pytest.mark.trainers
FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
DUMP = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"


def need(package, install):
    """Skip where a trainer is not installed."""
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"pip install --no-deps {install}")


verl = need("verl", "verl==0.9.1")
skyrl = need("skyrl", "skyrl==0.3.0")
swift = need("swift", "ms-swift==4.6.0")


@pytest.fixture(scope="module")
def dump():
    """46 samples of a model whose first layer of 5 is dense."""
    return open_dump(DUMP)


def written(dump, name, folder):
    """The file of a target."""
    target = target_named(name)
    path = folder / f"out{target.suffix}"
    write_target(dump, Shape(target, dump.meta, 5, None, True), path, force=False)
    return path


def engine_rows(sample):
    """[N-1, 5, K] as the engine gave it, zeros in the dense layer."""
    ids = sample.routes.ids_TLK
    return np.concatenate([np.zeros_like(ids[:, :1]), ids], axis=1)


def verl_functions(path, *names):
    """Functions of verl, with what their files import."""
    import tensordict
    from packaging.version import parse
    from tensordict import TensorDict
    from tensordict.tensorclass import NonTensorData, NonTensorStack

    scope = {
        "torch": torch,
        "tensordict": tensordict,
        "TensorDict": TensorDict,
        "Any": Any,
        "NonTensorData": NonTensorData,
        "NonTensorStack": NonTensorStack,
        "parse_version": parse,
    }
    return foreign.definitions("verl", path, names, scope)


@verl
class TestVerl:
    """verl 0.9.1."""

    @pytest.mark.skipif(not foreign.HAVE_VERL_0_9_1, reason="verl 0.9.0 wants fields of its own")
    def test_jagged_is_its_own(self, dump, tmp_path):
        """Every trajectory has the fields that AgentLoopOutput.as_dict makes of the engine's."""
        payload = torch.load(written(dump, "verl", tmp_path), weights_only=False)
        scope = {
            "torch": torch,
            "Any": Any,
            "BaseModel": object,
            "Optional": Optional,
            "AgentLoopMetrics": None,
            "ConfigDict": dict,
        }
        as_dict = foreign.definitions(
            "verl", "experimental/agent_loop/agent_loop.py", ["AgentLoopOutput"], scope
        ).AgentLoopOutput.as_dict
        tensors = payload["tensordict"]
        for i, sample in enumerate(dump):
            mine = {
                "prompt_ids": sample.prompt_ids.tolist(),
                "response_ids": sample.response_ids.tolist(),
                "response_mask": [1] * sample.response_length,
                "response_logprobs": sample.logprobs.tolist(),
                "routed_experts": engine_rows(sample),
            }
            self_ = SimpleNamespace(model_dump=lambda mine=mine, **_: dict(mine), extra_fields={})
            expected = as_dict(self_)
            names = ("prompts", "responses", "response_mask", "rollout_log_probs", "routed_experts")
            for name in names:
                theirs, ours = expected[name], tensors[name].unbind()[i]
                assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape), name
                assert torch.equal(theirs, ours), name

    def test_its_loader_selects_and_aligns(self, dump, tmp_path):
        """RolloutSkip's index_select and the R3 alignment take the batch as it is."""
        payload = torch.load(written(dump, "verl", tmp_path), weights_only=False)
        tu = verl_functions(
            "utils/tensordict_utils.py",
            "index_select_tensor_dict",
            "nested_tensor_from_tensor_list",
        )
        align = verl_functions(
            "utils/megatron/router_replay_utils.py", "align_r3_router_replay_data"
        )
        some = tu.index_select_tensor_dict(payload["tensordict"], [3, 0, 3])
        aligned = align.align_r3_router_replay_data(some["routed_experts"], some["input_ids"])
        for i, routes in zip((3, 0, 3), aligned.unbind(), strict=True):
            np.testing.assert_array_equal(routes[:-1], engine_rows(dump[i]))
            assert not routes[-1].any()
        parents = {key.split("_")[0] for key in payload["keys"]}
        assert len(payload["keys"]) == len(set(payload["keys"])) == 46
        assert len(parents) == len({sample.group_id for sample in dump})

    def test_padded_unpads_to_the_jagged(self, dump, tmp_path):
        """verl's own unpadding of the grid gives the jagged batch."""
        from tensordict import TensorDict

        jagged = torch.load(written(dump, "verl", tmp_path), weights_only=False)["tensordict"]
        (tmp_path / "padded").mkdir()
        path = written(dump, "verl-padded", tmp_path / "padded")
        grid = TensorDict(torch.load(path, weights_only=True), batch_size=[46])
        places = grid["attention_mask"].flatten().nonzero().flatten()
        offsets = torch.nn.functional.pad(grid["attention_mask"].sum(1).cumsum(0), (1, 0))
        scope = {
            "torch": torch,
            "TensorDict": TensorDict,
            "tu": SimpleNamespace(assign_non_tensor_data=lambda *a: None),
            "unpad_input": lambda x, mask: (x.flatten(0, 1)[places], places, offsets),
            "index_first_axis": lambda x, at: x[at],
        }
        unpad = foreign.definitions(
            "verl", "workers/utils/padding.py", ["left_right_2_no_padding"], scope
        ).left_right_2_no_padding
        flat = unpad(grid)
        for name in ("routed_experts", "input_ids", "position_ids"):
            assert torch.equal(flat[name].values(), jagged[name].values()), name


@skyrl
def test_skyrl_makes_the_same_batch(dump, tmp_path):
    """SkyRL 0.3.0's collation of the engine's rows is the grid, tensor by tensor."""

    path = written(dump, "skyrl-0.3", tmp_path)
    grid = torch.load(path, weights_only=True)
    names = ["_verify_inputs", "convert_prompts_responses_to_batch_tensors"]
    scope = {
        "torch": torch,
        "List": list,
        "Tuple": tuple,
        "Optional": Optional,
        "Float": _Any,
        "Integer": _Any,
        "AutoTokenizer": None,
        "logger": None,
    }
    convert = foreign.definitions("skyrl", "train/dataset/preprocess.py", names, scope)
    responses = [s.response_ids.tolist() for s in dump]
    theirs = convert.convert_prompts_responses_to_batch_tensors(
        SimpleNamespace(pad_token_id=0),
        [s.prompt_ids.tolist() for s in dump],
        responses,
        [[0.0] * len(r) for r in responses],
        [[1] * len(r) for r in responses],
        [s.logprobs.tolist() for s in dump],
        [engine_rows(s).tolist() for s in dump],
    )
    keys = (
        "sequences",
        "attention_mask",
        "response_mask",
        None,
        "loss_mask",
        "rollout_logprobs",
        "rollout_expert_indices",
    )
    for key, tensor in zip(keys, theirs, strict=True):
        if key is not None:
            assert torch.equal(grid[key].to(tensor.dtype), tensor), key
    assert grid["rollout_expert_indices"].dtype == theirs[-1].dtype == torch.uint8


@skyrl
@pytest.mark.parametrize("name", ["skyrl", "skyrl-0.3"])
def test_skyrl_batch_takes_it(dump, tmp_path, name):
    """SkyRL's TrainingInputBatch takes the dict, and its pickle gives it back."""
    stub = {
        "jaxtyping": dict.fromkeys(("Bool", "Float", "Integer"), _Any),
        "skyrl.backends.skyrl_train.utils.replay_utils": {"make_replay_padding_indices": None},
    }
    module = foreign.load_file("skyrl", "backends/skyrl_train/training_batch.py", stub)
    grid = torch.load(written(dump, name, tmp_path), weights_only=True)
    batch = module.TrainingInputBatch(grid)
    assert batch.batch_size == 46
    again = module.TrainingInputBatch.__new__(module.TrainingInputBatch)
    again.__setstate__(pickle.loads(pickle.dumps(batch.__getstate__())))
    assert torch.equal(again["rollout_expert_indices"], grid["rollout_expert_indices"])


class _Any:
    """A type of tensors: Float[torch.Tensor, "batch"] is just that."""

    def __class_getitem__(cls, item):
        return cls


@swift
def test_swift_makes_the_same_batch(dump, tmp_path):
    """ms-swift's build_routed_experts_batch of the engine's rows is the grid."""

    grid = torch.load(written(dump, "ms-swift", tmp_path), weights_only=True)
    names = [
        "_normalize_routed_experts_tensor",
        "_pad_or_trim_routed_experts",
        "build_routed_experts_batch",
    ]
    scope = {
        "torch": torch,
        "List": list,
        "Optional": Optional,
        "Any": Any,
        "Template": None,
        "OnPolicySample": None,
    }
    code = foreign.definitions("swift", "rlhf_trainers/utils.py", names, scope)
    lens = torch.tensor([s.num_tokens for s in dump])
    theirs = code.build_routed_experts_batch(
        [
            SimpleNamespace(routed_experts=engine_rows(s), encoded={"length": s.num_tokens})
            for s in dump
        ],
        seq_lengths=lens,
        max_seq_len=int(lens.max()),
        template=SimpleNamespace(padding_side="right", padding_free=False),
        device=torch.device("cpu"),
        router_replay_mode="R3",
    )
    assert theirs.dtype == grid["routed_experts"].dtype
    assert torch.equal(theirs, grid["routed_experts"])


def test_megatron_takes_it(dump, tmp_path):
    """Megatron-Core's RouterReplay.set_replay_data gives each router its layer's rows."""
    layers = torch.load(written(dump, "megatron", tmp_path), weights_only=True)
    with mcore.on_cpu() as core:
        routers = [core.Replay() for _ in dump.meta.layers_L]
        core.Replay.set_replay_data(layers)
        for i, router in enumerate(routers):
            rows = [np.append(s.routes.ids_TLK[:, i], [[0, 1, 2, 3]], axis=0) for s in dump]
            np.testing.assert_array_equal(router.target_topk_idx, np.concatenate(rows))


class _Routed(msgspec.Struct, array_like=True):
    data: bytes
    shape: list[int]
    dtype: str


class _MicroBatch(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    input_ids: list[int]
    loss_mask: list[bool]
    advantages: list[float]
    inference_logprobs: list[float]
    position_ids: list[int]
    sequence_lengths: list[int]
    temperatures: list[float]
    env_names: list[str]
    seq_lens: list[int]
    ref_logprobs: list[float] | None = None
    routed_experts: _Routed | None = None
    mm_kwargs: dict[str, Any] | None = None
    mm_token_type_ids: list[int] | None = None
    rl_weights: list[float] | None = None
    ce_weights: list[float] | None = None
    ref_kl_weights: list[float] | None = None


def test_prime_rl_decodes_it(dump, tmp_path):
    """msgspec, which prime-rl decodes with, reads every field in its type, and the rows."""
    data = written(dump, "prime-rl", tmp_path).read_bytes()
    batches = msgspec.msgpack.Decoder(list[_MicroBatch]).decode(data)
    for sample, batch in zip(dump, batches, strict=True):
        routed = batch.routed_experts
        rows = np.frombuffer(routed.data, routed.dtype).reshape(routed.shape)
        np.testing.assert_array_equal(rows[:-1], engine_rows(sample))
        assert not rows[-1].any()
        assert batch.input_ids == sample.token_ids.tolist()
        assert batch.inference_logprobs[sample.prompt_length :] == sample.logprobs.tolist()
        columns = (batch.loss_mask, batch.advantages, batch.position_ids, batch.temperatures)
        assert {len(column) for column in columns} == {sample.num_tokens}
