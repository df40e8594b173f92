"""Torch files read by our own reader, against torch.load, and beside a trainer's own torch.load."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.trainers.fields import numbers_in
from routectl.formats.trainers.torch_dumps import read_torch
from routectl.model import ModelFacts
from routectl.pickled.torch_files import load_torch
from support.slime_files import A_IDS, all_layers, save_rollout, slime_sample

FACTS = ModelFacts(2, (1,), 4, 2, None)
NUMBERS = torch.arange(-3, 9).reshape(3, 4)
UNSIGNED = NUMBERS.abs()
TENSORS = {
    "bool": NUMBERS > 0,
    **{str(d): NUMBERS.to(d) for d in (torch.int8, torch.int16, torch.int32, torch.int64)},
    **{str(d): UNSIGNED.to(d) for d in (torch.uint8, torch.uint16, torch.uint32, torch.uint64)},
    **{str(d): NUMBERS.to(d) for d in (torch.float16, torch.float32, torch.float64)},
    "grad": NUMBERS.double().requires_grad_(),
    "view": NUMBERS[1:, ::2],
    "transposed": NUMBERS.t(),
    "stacked": torch.stack([NUMBERS, NUMBERS])[1],
    "scalar": torch.tensor(7),
    "none": torch.empty(0, 4),
}


def saved(path, value):
    """A file of torch.save."""
    torch.save(value, path)
    return path


def nested(parts, **more):
    """A nested tensor, jagged along its first axis."""
    return torch.nested.as_nested_tensor(parts, layout=torch.jagged, **more)


def jagged_batch(ids=None):
    """verl's tq_batch of two trajectories; ``ids`` are its routes."""
    tokens = [torch.arange(9), torch.arange(8)]
    fields = {
        "input_ids": nested(tokens),
        "prompts": nested([part[:2] for part in tokens]),
        "routed_experts": nested([all_layers(A_IDS)[:1].repeat(len(part), 1, 1) for part in tokens])
        if ids is None
        else ids,
        "loss_mask": nested([torch.ones_like(part[2:]) for part in tokens]),
    }
    batch = TensorDict(fields, batch_size=[2])
    return {"tensordict": batch, "tags": [{}, {}], "keys": ["a_0_0", "a_1_0"], "global_steps": 0}


class TestValues:
    """What torch.load gives, without it."""

    @pytest.mark.parametrize("name", TENSORS)
    def test_tensors(self, tmp_path, name):
        """Every dtype, view and shape is what torch.load gives, and a writer's own copy."""
        path = saved(tmp_path / "a.pt", {"x": TENSORS[name]})
        expected = torch.load(path, weights_only=True)["x"].detach().numpy()
        found = numbers_in(load_torch(path)["x"], "here")
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)
        before = path.read_bytes()
        found[...] = 1
        assert path.read_bytes() == before

    def test_big_endian(self, tmp_path):
        """Bytes that a big-endian machine wrote are the same numbers."""
        path = saved(tmp_path / "a.pt", {"x": torch.arange(4, dtype=torch.int32)})
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name.endswith("/data/0"):
                    data = np.frombuffer(data, "<i4").astype(">i4").tobytes()
                new.writestr(name, b"big" if name.endswith("byteorder") else data)
        found = numbers_in(load_torch(tmp_path / "b.pt")["x"], "here")
        assert (found.tolist(), found.dtype) == ([0, 1, 2, 3], np.dtype(np.int32))

    @pytest.mark.parametrize(
        "tensor",
        [torch.randn(3).bfloat16(), torch.tensor([1 + 2j]).conj().imag],
        ids=["bfloat16", "negated"],
    )
    def test_what_numpy_has_not(self, tmp_path, tensor):
        """A dtype that numpy has not, and elements yet to be negated, are no numbers here."""
        value = load_torch(saved(tmp_path / "a.pt", [tensor]))[0]
        with pytest.raises(FormatError, match=r"here: a tensor of \w+, expected numbers"):
            numbers_in(value, "here")

    def test_nothing_is_read_whole(self, tmp_path):
        """A tensor of 64 MB is mapped: opening the file takes a few pages of memory."""
        path = saved(tmp_path / "a.pt", {"x": torch.ones(16 << 20)})
        code = (
            "import sys, resource; from pathlib import Path\n"
            "from routectl.pickled.torch_files import load_torch\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak(); x = load_torch(Path(sys.argv[1]))['x'].array\n"
            "print(x[7], x.shape[0] >> 20, (peak() - before) < 16_000)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert done.stdout.split() == ["1.0", "16", "True"], done.stderr


class TestJagged:
    """verl's TensorDict of nested tensors."""

    def wires(self, tmp_path, ids):
        """The routes of the trajectories."""
        return [w.payload for w in read_torch(saved(tmp_path / "a.pt", jagged_batch(ids)))]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int64])
    def test_nested(self, tmp_path, dtype):
        """Each trajectory's rows are those that torch unbinds."""
        ids = nested([torch.arange(n * 4).reshape(n, 2, 2).to(dtype) for n in (3, 2)])
        found = self.wires(tmp_path, ids)
        assert [part.tolist() for part in found] == [part.tolist() for part in ids.unbind()]
        assert {part.dtype for part in found} == {ids.unbind()[0].numpy().dtype}

    def test_with_holes(self, tmp_path):
        """Lengths that leave holes between the offsets, and another ragged axis, are kept to."""
        values = torch.arange(40, dtype=torch.int32).reshape(10, 2, 2)
        ids = torch.nested.nested_tensor_from_jagged(
            values, torch.tensor([0, 5, 10]), torch.tensor([3, 2])
        )
        found = self.wires(tmp_path, ids)
        assert [part.tolist() for part in found] == [values[0:3].tolist(), values[5:7].tolist()]
        across = nested([torch.arange(3 * n * 2).reshape(3, n, 2) for n in (2, 1)])
        found = self.wires(tmp_path, across)
        assert [part.tolist() for part in found] == [part.tolist() for part in across.unbind()]

    def test_padded(self, tmp_path):
        """A padded column, a plain tensor, is unbound by rows, strides of 0 too."""
        ids = torch.arange(12).reshape(1, 3, 2, 2).expand(2, 3, 2, 2)
        found = self.wires(tmp_path, ids)
        assert [part.tolist() for part in found] == [part.tolist() for part in ids.unbind()]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"routed_experts": torch.arange(2)}, r"a tensor \(2,\), expected rows"),
            ({"routed_experts": torch.zeros(3, 1, 2, 2)}, "columns of several lengths"),
            ({"input_ids": "x"}, "str, expected a tensor"),
            ({"prompts": None}, "NoneType, expected a tensor"),
        ],
    )
    def test_no_batch(self, tmp_path, change, said):
        """Columns that are no tensors of one count of samples are refused in one line."""
        doc = jagged_batch()
        doc["tensordict"] = {**doc["tensordict"], **change}
        with pytest.raises(FormatError, match=f"no tq_batch with routed_experts: .*{said}"):
            read_torch(saved(tmp_path / "a.pt", doc))


def test_neither_torch_nor_tensordict_is_needed(tmp_path):
    """Samples, grids, lists of layers and jagged batches are read where neither is installed."""
    ids = all_layers(A_IDS)
    grid = {
        "input_ids": torch.arange(3)[None],
        "attention_mask": torch.ones(1, 3),
        "routed_experts": ids[None],
    }
    for n, value in enumerate(([ids[:, 0]], grid, jagged_batch())):
        saved(tmp_path / f"{n}.pt", value)
    save_rollout(tmp_path / "3.pt", slime_sample())
    code = (
        "import sys; sys.modules['torch'] = sys.modules['tensordict'] = None\n"
        "from routectl.formats import open_dump; from routectl.model import ModelFacts\n"
        "facts = ModelFacts(2, (1,), 4, 2, None)\n"
        "print([len(list(open_dump(path, model=facts))) for path in sys.argv[1:]])"
    )
    paths = [tmp_path / f"{n}.pt" for n in range(4)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.stdout.strip() == "[1, 1, 2, 1]", done.stderr


@dataclass
class Reward:
    """A class of a trainer's own, in its own files."""

    value: float


def test_beside_the_trainers_own_torch_load(tmp_path):
    """While a thread reads dumps, torch.load finds what the trainer said is safe, each time."""
    own = saved(tmp_path / "own.pt", {"reward": Reward(0.5)})
    dumps = [
        save_rollout(tmp_path / "0.pt", slime_sample(rollout_routed_experts=np.array(A_IDS))),
        saved(tmp_path / "1.pt", jagged_batch()),
    ]
    done, reads = Event(), []

    def read():
        while not done.is_set():
            reads.append([len(list(open_dump(path, model=FACTS))) for path in dumps])

    thread = Thread(target=read)
    thread.start()
    try:
        values = []
        with torch.serialization.safe_globals([Reward]):
            while thread.is_alive() and (len(values) < 400 or len(reads) < 50):
                values.append(torch.load(own, weights_only=True)["reward"].value)
            assert Reward in torch.serialization.get_safe_globals()
    finally:
        done.set()
        thread.join()
    assert values == [0.5] * len(values)
    assert (len(values) >= 400, len(reads) >= 50) == (True, True)
    assert reads == [[1, 2]] * len(reads)
