"""Batches pickled by the trainers' own classes: verl's, SkyRL's, and ROLL's as its source has it.

verl and SkyRL are run out of their installed files (tests/support/foreign.py). ROLL is on no
registry: its two methods are written out here.
"""

import contextlib
import functools
import io
import pickle
import sys
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import torch

from support import foreign

__all__ = [
    "ROLL",
    "SKYRL",
    "VERL",
    "NoRoll",
    "installed",
    "roll_pickle",
    "skyrl_batch",
    "verl_proto",
]

VERL, SKYRL = "verl.protocol", "skyrl.backends.skyrl_train.training_batch"
ROLL = "roll.distributed.scheduler.protocol"


class _Any:
    """A type of tensors: Float[torch.Tensor, "batch"] is just that."""

    def __class_getitem__(cls, item):
        return cls


@functools.cache
def verl_proto():
    """verl's DataProto."""
    import tensordict  # noqa: F401 - before the stubs, so that it stays loaded

    platform = SimpleNamespace(is_available=lambda: False)
    module = foreign.load_file(
        "verl",
        "protocol.py",
        {
            "ray": {"ObjectRef": object},
            "verl.utils.device": {"get_device_id": None, "get_torch_device": lambda: platform},
            "verl.utils.py_functional": {
                "list_of_dict_to_dict_of_list": None,
                "union_two_dict": lambda a, b: a | b,
            },
            "verl.utils.torch_functional": {"allgather_dict_tensors": None},
            "verl.utils.transferqueue_utils": dict.fromkeys(["BatchMeta", "KVBatchMeta"]),
        },
    )
    module.DataProto.__module__ = VERL
    return module.DataProto


@functools.cache
def skyrl_batch():
    """SkyRL's module of TrainingInputBatch."""
    stub = {
        "jaxtyping": dict.fromkeys(("Bool", "Float", "Integer"), _Any),
        "skyrl.backends.skyrl_train.utils.replay_utils": {"make_replay_padding_indices": None},
    }
    module = foreign.load_file("skyrl", "backends/skyrl_train/training_batch.py", stub)
    for name in ("TrainingInputBatch", "TensorBatch", "_rebuild_tensor_batch"):
        getattr(module, name).__module__ = SKYRL
    return module


class NoRoll:
    """ROLL's DataProto, as far as a pickle goes: __getstate__ and __setstate__ of 8eb27cc2."""

    def __init__(self, batch, columns, about) -> None:
        self.parts = batch, columns, None, about

    def __getstate__(self):
        batch, *others = self.parts
        buffer = io.BytesIO()
        torch.save(batch.contiguous().consolidate(), buffer)
        return buffer, *others

    def __setstate__(self, state):
        buffer, *others = state
        buffer.seek(0)
        self.parts = torch.load(buffer, weights_only=False, map_location="cpu"), *others


NoRoll.__module__, NoRoll.__qualname__ = ROLL, "DataProto"


@contextlib.contextmanager
def installed(module, **names):
    """``module`` is importable inside, and has ``names``."""
    parents = module.split(".")
    made = {".".join(parents[: i + 1]): ModuleType(parents[i]) for i in range(len(parents))}
    vars(made[module]).update(names)
    with mock.patch.dict(sys.modules, made):
        yield


def roll_pickle(tensors, columns, about):
    """What ROLL's rollout mock writes."""
    from tensordict import TensorDict

    size = len(next(iter(tensors.values())))
    objects = {}
    for name, values in columns.items():
        objects[name] = np.empty(size, object)
        objects[name][:] = values
    with installed(ROLL, DataProto=NoRoll):
        return pickle.dumps(
            NoRoll(TensorDict(tensors, [size]), objects, about), pickle.HIGHEST_PROTOCOL
        )
