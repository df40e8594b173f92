"""Batches that trainers pickle: read as the trainers' own code wrote them, written for it to load.

Shape suffixes: B samples, S positions, P longest prompt, G longest response, W layers, K top_k.
"""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from routectl.dump import WeightSpan
from routectl.errors import FormatError, RoutectlError
from routectl.formats import open_dump
from routectl.formats.targets.rows import Shape
from routectl.formats.targets.table import target_named
from routectl.formats.targets.write import write_target
from routectl.model import ModelFacts
from support import pickled
from support.dumps import make_dump, make_routes, make_sample
from support.shell import run

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
DEEPSEEK = FIXTURES / "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl"
CONFIG = FIXTURES / "configs/deepseek_v3.json"
FACTS = ModelFacts(2, (1,), 4, 2, None)
PICKLES = ("verl-dp", "roll-pkl", "skyrl-pkl", "skyrl-0.3-pkl", "skyrl-0.4-pkl")
verl = pytest.mark.skipif(importlib.util.find_spec("verl") is None, reason="verl==0.9.1")
skyrl = pytest.mark.skipif(importlib.util.find_spec("skyrl") is None, reason="skyrl==0.3.0")

PROMPTS = [[5, 6], [9]]
RESPONSES = [[7, 8], [4, 3, 2]]
ROWS = [[[0, 1], [2, 3], [1, 0]], [[3, 2], [0, 2], [1, 3]]]  # N - 1 of layer 1
LOGPROBS = [[-0.5, -2.0], [-1.0, -0.25, -4.0]]


def grid(left, right):
    """The tensors of a padded batch: prompts are padded ``left`` places, responses ``right``."""
    size, width = len(PROMPTS), 0
    lens = [len(p) + len(r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    longest = max(map(len, PROMPTS))
    begins = {
        "verl": [longest - len(p) for p in PROMPTS],
        "right": [0] * size,
        "left": [max(lens) - n for n in lens],
    }[left]
    width = right or max(b + n for b, n in zip(begins, lens, strict=True))
    ids, mask = torch.zeros(size, width, dtype=torch.long), torch.zeros(size, width, dtype=int)
    routes = torch.zeros(size, width, 2, 2, dtype=torch.int16)
    for i, (begin, n) in enumerate(zip(begins, lens, strict=True)):
        ids[i, begin : begin + n] = torch.tensor(PROMPTS[i] + RESPONSES[i])
        mask[i, begin : begin + n] = 1
        routes[i, begin : begin + n - 1, 1] = torch.tensor(ROWS[i])
    return {"input_ids": ids, "attention_mask": mask, "routed_experts": routes}


def verl_tensors():
    """The batch of verl's AgentLoopManager: one token of the second response is a tool's."""
    tensors = grid("verl", 0)
    tensors |= {
        "prompts": tensors["input_ids"][:, :2].clone(),
        "responses": tensors["input_ids"][:, 2:].clone(),
        "response_mask": torch.tensor([[1, 1, 0], [1, 0, 1]]),
        "rollout_log_probs": torch.tensor([[*LOGPROBS[0], 0.0], LOGPROBS[1]]),
    }
    return tensors


def verl_file(path, tensors=None, columns=None, method=None):
    """What verl's own DataProto.save_to_disk writes."""
    proto = pickled.verl_proto()
    mixed = np.empty(2, object)
    mixed[:] = [{"role": "user"}, None]
    turns = np.array([[{"role": "user", "content": "x"}]] * 2, object)
    columns = (
        {
            "uid": np.array(["g", "g"], object),
            "min_global_steps": np.array([3, 3], object),
            "max_global_steps": np.array([3, 5], object),
            "raw_prompt": turns,
            "extra_info": mixed,
            "day": np.array(["2026-01-01"] * 2, "M8[D]"),
            "__num_turns__": np.array([2, 2], np.int32),
            "score": np.array([0.5, 1.0]),
            "words": np.array(["ab", "c"]),
        }
        if columns is None
        else columns
    )
    about = {"timing": {"gen": np.float64(1.5)}, "metrics": [{"a": 1.0}], "global_steps": 7}
    batch = proto.from_dict(verl_tensors() if tensors is None else tensors, columns, about)
    environment = {} if method is None else {"VERL_DATAPROTO_SERIALIZATION_METHOD": method}
    with pickled.installed(pickled.VERL, DataProto=proto), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        batch.save_to_disk(path)
    return path


def assert_read(dump, groups=None):
    """The two sequences, as they were generated."""
    assert len(dump) == 2
    for i, sample in enumerate(dump):
        np.testing.assert_array_equal(sample.routes.ids_TLK[:, 0], ROWS[i])
        assert (sample.routes.start, sample.routes.missing_TL) == (0, None)
        assert sample.prompt_ids.tolist() == PROMPTS[i]
        assert sample.response_ids.tolist() == RESPONSES[i]
        np.testing.assert_array_equal(sample.logprobs, LOGPROBS[i])
    assert [sample.group_id for sample in dump] == (groups or [None, None])


@pytest.mark.trainers
@verl
class TestVerl:
    """gen_batch.dp, by verl 0.9.1's own code."""

    @pytest.mark.parametrize("method", [None, "numpy"])
    @pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int64])
    def test_is_read(self, tmp_path, method, dtype):
        """Rows, tokens, log-probs, masks, groups and steps come out of both of its forms."""
        tensors = verl_tensors()
        tensors["routed_experts"] = tensors["routed_experts"].to(dtype)
        path = verl_file(tmp_path / "gen_batch.dp", tensors, method=method)
        (tmp_path / "meta.json").write_text('{"global_steps": 7}')
        dump = open_dump(path, model=FACTS)
        assert_read(dump, ["g", "g"])
        assert dump.meta.format == "pickle"
        assert dump.meta.wire_dtype == str(dtype).removeprefix("torch.")
        assert [sample.sample_id for sample in dump] == ["g/0", "g/1"]
        assert dump[1].loss_mask.tolist() == [False, True, False, True]
        assert dump[0].weight_spans == (WeightSpan("3", 0, 2),)
        assert dump[1].weight_spans == (WeightSpan("3..5", 0, 3),)

    def test_needs_none_of_it(self, tmp_path):
        """No verl, tensordict or torch is loaded to read it."""
        path = verl_file(tmp_path / "gen_batch.dp")
        code = (
            "import sys; from routectl.formats import open_dump; from routectl.model import *;"
            f"list(open_dump({str(path)!r}, model=ModelFacts(2, (1,), 4, 2, None)));"
            "print([m for m in ('verl', 'tensordict', 'torch') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"

    def test_bfloat16_scores(self, tmp_path):
        """bfloat16, which numpy has not, is read as the float32 that it is a part of."""
        tensors = verl_tensors()
        tensors["rollout_log_probs"] = tensors["rollout_log_probs"].bfloat16()
        assert_read(open_dump(verl_file(tmp_path / "x.dp", tensors), model=FACTS), ["g", "g"])

    def test_not_consolidated(self, tmp_path):
        """A TensorDict that torch saves as it is, a storage a tensor, is read, too."""
        from tensordict import TensorDict

        path = tmp_path / "x.dp"
        proto = pickled.verl_proto()
        with pickled.installed(pickled.VERL, DataProto=proto):
            batch = proto.from_dict(verl_tensors(), {"uid": np.array(["g", "g"], object)})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(TensorDict, "consolidate", lambda self: self)
                batch.save_to_disk(path)
        assert_read(open_dump(path, model=FACTS), ["g", "g"])

    def test_its_own_code_loads_ours(self, tmp_path):
        """verl loads what we write, every tensor as its own batch would have it."""
        dump = open_dump(DEEPSEEK)
        path = write(dump, "verl-dp", tmp_path, 5)
        proto = pickled.verl_proto()
        with pickled.installed(pickled.VERL, DataProto=proto):
            loaded = proto.load_from_disk(path)
        plain = torch.load(write(dump, "verl-padded", tmp_path, 5), weights_only=True)
        assert loaded.batch.batch_size == (46,)
        assert set(loaded.batch.keys()) == set(plain)
        for name, tensor in plain.items():
            assert torch.equal(loaded.batch[name], tensor), name
            assert loaded.batch[name].dtype == tensor.dtype
        assert loaded.non_tensor_batch["group_id"].tolist() == [s.group_id for s in dump]
        assert loaded.meta_info.pop("timing") == {}
        loaded.check_consistency()
        assert len(loaded.select_idxs([3, 1])) == 2
        again = loaded.union(proto.from_dict({"advantages": torch.zeros(46, 3)}))
        with pickled.installed(pickled.VERL, DataProto=proto):
            again.save_to_disk(tmp_path / "again.dp")
        assert len(open_dump(tmp_path / "again.dp", model=CONFIG)) == 46


def skyrl_file(path, mask=True, about=None):
    """What SkyRL's own TrainingInputBatch.save writes; the last sample is a copy to fill up."""
    tensors = grid("left", 0)
    routes = tensors.pop("routed_experts").to(torch.uint8)
    batch = {
        "sequences": tensors["input_ids"],
        "attention_mask": tensors["attention_mask"],
        "response_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "loss_mask": torch.tensor([[0, 1, 1], [1, 0, 1]]),
        "rollout_logprobs": torch.tensor([[0.0, *LOGPROBS[0]], LOGPROBS[1]]),
        "rollout_expert_indices": routes,
        "action_log_probs": torch.zeros(2, 3).bfloat16(),
        "pixel_values": None,
    }
    if mask:
        absent = tensors["attention_mask"] == 0
        absent[:, -1] = True
        absent[1, -2] = True
        routes[absent] = torch.tensor([0, 1], dtype=torch.uint8)
        batch["router_padding_mask"] = absent
    module = pickled.skyrl_batch()
    made = module.TrainingInputBatch(batch)
    made.metadata = {"uids": ["g", "g"], "response_length": 3} if about is None else about
    made = module.pad_training_input_batch(made, 2)
    names = {n: getattr(module, n) for n in ("TrainingInputBatch", "_rebuild_tensor_batch")}
    with pickled.installed(pickled.SKYRL, **names):
        made.save(path)
    return path


@pytest.mark.trainers
@skyrl
class TestSkyrl:
    """training_input.pkl, by SkyRL 0.3.0's own code."""

    def test_is_read(self, tmp_path):
        """Left-padded rows are found, and copies that fill up the batch left out."""
        dump = open_dump(skyrl_file(tmp_path / "x.pkl", mask=False), model=FACTS)
        assert_read(dump, ["g", "g"])
        assert dump[1].loss_mask.tolist() == [False, True, False, True]

    def test_uncaptured_rows_are_missing(self, tmp_path):
        """Rows that router_padding_mask says are fillers are missing, arange or not."""
        dump = open_dump(skyrl_file(tmp_path / "x.pkl"), model=FACTS)
        assert dump[0].routes.missing_TL is None
        assert dump[1].routes.missing_TL.tolist() == [[False], [False], [True]]
        np.testing.assert_array_equal(dump[1].routes.ids_TLK[:2, 0], ROWS[1][:2])

    def test_groups_by_bounds(self, tmp_path):
        """Without uids, the bounds of each prompt's samples tell the groups."""
        about = {"policy_prompt_boundaries": [(0, 1), (1, 2), (2, 4)]}
        dump = open_dump(skyrl_file(tmp_path / "x.pkl", False, about), model=FACTS)
        assert [sample.group_id for sample in dump] == ["0", "1"]
        assert [sample.sample_id for sample in dump] == ["0", "1"]

    @pytest.mark.parametrize("name", ["skyrl-pkl", "skyrl-0.3-pkl"])
    def test_its_own_code_loads_ours(self, tmp_path, name):
        """SkyRL loads what we write, every tensor as the dict of tensors has it."""
        dump = open_dump(DEEPSEEK)
        path = write(dump, name, tmp_path, 5)
        module = pickled.skyrl_batch()
        names = {n: getattr(module, n) for n in ("TrainingInputBatch", "_rebuild_tensor_batch")}
        with pickled.installed(pickled.SKYRL, **names):
            loaded = pickle.loads(path.read_bytes())
        plain = torch.load(write(dump, name.removesuffix("-pkl"), tmp_path, 5), weights_only=True)
        assert isinstance(loaded, module.TrainingInputBatch)
        assert set(loaded) == set(plain)
        assert (loaded.batch_size, loaded.device) == (46, torch.device("cpu"))
        for key, tensor in plain.items():
            assert torch.equal(loaded[key], tensor), key
        assert loaded.metadata["uids"] == [s.group_id for s in dump]
        assert loaded[2:5]["sequences"].shape[0] == 3


class TestRoll:
    """step_N.pkl, as ROLL 8eb27cc2 pickles it."""

    def test_is_read(self, tmp_path):
        """Right-padded rows, prompts by their mask, log-probs a place early come out."""
        tensors = grid("right", 6)
        tensors |= {
            "prompts": torch.tensor([[0, 5, 6], [0, 0, 9]]),  # left-padded, as it was asked
            "prompt_mask": torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool(),
            "response_mask": torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0]]),
            "infer_logprobs": torch.tensor([[0, *LOGPROBS[0], 0, 0], [*LOGPROBS[1], 0, 0]]),
            "prompt_id": torch.tensor([4, 4]),
        }
        path = tmp_path / "step_000001.pkl"
        about = {"metrics": {"a": np.float32(2)}, "global_step": 1}
        path.write_bytes(pickled.roll_pickle(tensors, {"tags": ["x", "y"]}, about))
        dump = open_dump(path, model=FACTS)
        assert_read(dump, ["4", "4"])
        assert dump[1].loss_mask.tolist() == [False, True, False, True]

    def test_its_code_loads_ours(self, tmp_path):
        """ROLL's __setstate__ loads what we write; all columns are arrays of objects."""
        dump = open_dump(DEEPSEEK)
        path = write(dump, "roll-pkl", tmp_path, 5)
        with pickled.installed(pickled.ROLL, DataProto=pickled.NoRoll):
            batch, columns, remote, about = pickle.loads(path.read_bytes()).parts
        plain = torch.load(write(dump, "roll", tmp_path, 5), weights_only=True)
        assert (remote, about, batch.batch_size) == (None, {}, (46,))
        for name, tensor in plain.items():
            assert torch.equal(batch[name], tensor), name
        assert {(a.dtype, a.shape) for a in columns.values()} == {(np.dtype(object), (46,))}
        for i, sample in enumerate(dump):
            n = sample.prompt_length
            scores = batch["infer_logprobs"][i, n - 1 : sample.num_tokens - 1]
            np.testing.assert_allclose(scores, sample.logprobs, rtol=1e-6)
            assert batch["prompt_mask"][i].sum() == n


def write(dump, name, folder, num_layers=2):
    """Write a dump in the form of a target."""
    target = target_named(name)
    path = Path(folder) / f"{name}{target.suffix}"
    write_target(dump, Shape(target, dump.meta, num_layers, None, True), path, force=True)
    return path


class TestOurs:
    """What we write, read back."""

    @pytest.mark.parametrize("name", PICKLES)
    def test_names_and_groups_come_back(self, tmp_path, name):
        """Sample ids, groups, log-probs and loss masks are those of the dump."""
        dump = open_dump(DEEPSEEK)
        back = open_dump(write(dump, name, tmp_path, 5), model=CONFIG)
        for mine, theirs in zip(dump, back, strict=True):
            assert (theirs.sample_id, theirs.group_id) == (mine.sample_id, mine.group_id)
            np.testing.assert_array_equal(theirs.routes.ids_TLK, mine.routes.ids_TLK)
            np.testing.assert_allclose(theirs.logprobs, mine.logprobs, rtol=1e-6)
            assert theirs.loss_mask.sum() == mine.response_length

    @pytest.mark.parametrize("name", PICKLES)
    def test_same_dump_same_bytes(self, tmp_path, name):
        """The bytes depend on the dump alone."""
        dump = open_dump(DEEPSEEK)
        first = write(dump, name, tmp_path, 5).read_bytes()
        assert write(dump, name, tmp_path, 5).read_bytes() == first

    def test_an_empty_prompt(self, tmp_path):
        """A response from the first token on has no log-prob before the first: it is left out."""
        sample = make_sample(
            make_routes([[[0, 1]]], (1,), 4), "a", [], [2, 3], logprobs=np.array([-1.0, -2.0])
        )
        path = write(make_dump([sample], (1,), 4, 2), "roll-pkl", tmp_path)
        assert open_dump(path, model=FACTS)[0].logprobs.tolist() == [0.0, -2.0]

    def test_the_suffix_decides(self, capsys, tmp_path):
        """convert SRC x.dp writes verl's batch; a .pkl must say whose it is."""
        codes = {}
        for name in ("x.dp", "x.pkl"):
            done = run(capsys, "convert", DEEPSEEK, "--save", tmp_path / name)
            codes[name] = (done.code, "--to" in done.err)
        assert codes == {"x.dp": (0, False), "x.pkl": (2, True)}
        assert len(open_dump(tmp_path / "x.dp", model=CONFIG)) == 46


class TestForeign:
    """Pickles that are no batch."""

    @pytest.mark.parametrize("value", [{"a": 1}, [1, 2], 7, None, np.zeros(3)])
    def test_no_batch(self, tmp_path, value):
        """A pickle of something else is refused by what it is."""
        path = tmp_path / "x.pkl"
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(FormatError, match="known form: verl's or ROLL's DataProto") as caught:
            open_dump(path, model=FACTS)
        assert str(caught.value).startswith(f"{path}: ")

    def test_by_name(self, tmp_path):
        """Format pickle on text says what is wrong."""
        path = tmp_path / "x"
        path.write_text("{}")
        with pytest.raises(RoutectlError, match="refused pickle: opcode 0x7b"):
            open_dump(path, model=FACTS, format="pickle")
