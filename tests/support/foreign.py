"""verl's and mcore_bridge's own functions, out of their installed files.

Both are installed with ``pip install --no-deps``, so what their modules import is not there. A file
is run alone, with stubs in place of its imports, and sys.modules stays as it was. The parallel
sizes that Megatron would tell are those of ``on_rank``.
"""

import ast
import contextlib
import functools
import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Optional
from unittest import mock

import torch

__all__ = [
    "HAVE_MCORE_BRIDGE",
    "HAVE_SKYRL",
    "HAVE_VERL",
    "HAVE_VERL_0_9_1",
    "MPU",
    "balanced_partitions",
    "definitions",
    "karmarkar_karp",
    "load_file",
    "micro_batches",
    "on_rank",
    "rearrange_micro_batches",
    "skyrl_packed",
    "split_cp_inputs",
    "verl_util",
    "workload",
]

HAVE_VERL = importlib.util.find_spec("verl") is not None
HAVE_VERL_0_9_1 = HAVE_VERL and metadata.version("verl") != "0.9.0"  # the one for Python 3.13
HAVE_MCORE_BRIDGE = importlib.util.find_spec("mcore_bridge") is not None
HAVE_SKYRL = importlib.util.find_spec("skyrl") is not None

_NOW = {"tp": 1, "cp": 1, "cp_rank": 0}
MPU = SimpleNamespace(  # what megatron.core.parallel_state tells
    get_tensor_model_parallel_world_size=lambda: _NOW["tp"],
    get_context_parallel_world_size=lambda: _NOW["cp"],
    get_context_parallel_rank=lambda: _NOW["cp_rank"],
    get_dynamic_data_context_parallel_groups=lambda group_size: f"a group of {group_size}",
)


@contextlib.contextmanager
def on_rank(tp=1, cp=1, cp_rank=0):
    """Foreign functions called inside run on this rank; cp_rank is its rank in any CP group."""
    before = dict(_NOW)
    _NOW.update(tp=tp, cp=cp, cp_rank=cp_rank)
    try:
        with mock.patch.object(torch.distributed, "get_rank", return_value=cp_rank):
            yield
    finally:
        _NOW.update(before)


def _file(package, path):
    """An installed package's file, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"{package} is not there: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0]) / path


def load_file(package, path, stubs):
    """The module of an installed file, run with ``stubs``: module name -> what it holds."""
    modules = {name: ModuleType(name) for name in stubs}
    for name, module in modules.items():
        vars(module).update(stubs[name])
    spec = importlib.util.spec_from_file_location(f"foreign_{package}", _file(package, path))
    loaded = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, modules):
        spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def verl_util():
    """verl.models.mcore.util; its PackedSeqParams holds whatever it is given."""
    stubs = {
        "megatron.core": {"parallel_state": MPU},
        "megatron.core.packed_seq_params": {"PackedSeqParams": SimpleNamespace},
        "verl.utils.device": {"is_npu_available": False},
        "verl.utils.model": {"CausalLMOutputForPPO": None},
    }
    util = load_file("verl", "models/mcore/util.py", stubs)
    util.logger = SimpleNamespace(warning_once=lambda message: None)  # verl adds warning_once
    return util


@functools.cache
def _seqlen_balancing():
    return load_file(
        "verl",
        "utils/seqlen_balancing.py",
        {
            "verl.protocol": {"DataProto": None},
            "verl.utils": {"tensordict_utils": SimpleNamespace()},
            "verl.utils.device": {"get_device_name": None},
        },
    )


def karmarkar_karp(lens, parts):
    """verl's karmarkar_karp, parts of any number of items."""
    return _seqlen_balancing().karmarkar_karp(lens, parts, equal_size=False)


def balanced_partitions(lens, parts, *, equal_size=False):
    """verl's get_seqlen_balanced_partitions, parts of any number of items or of as many."""
    return _seqlen_balancing().get_seqlen_balanced_partitions(lens, parts, equal_size=equal_size)


def workload(lens):
    """verl's calculate_workload."""
    return _seqlen_balancing().calculate_workload(torch.tensor(lens, dtype=torch.int64)).tolist()


def micro_batches(ranks, max_tokens, multiple=None):
    """verl's rearrange_micro_batches on ranks of samples of these lengths: the lists of each rank.

    The ranks are threads, and their all_reduce one over threads; of a batch it takes the lengths,
    and its micro-batches are not made.
    """
    module = _seqlen_balancing()
    wait, said = threading.Barrier(len(ranks), timeout=60), {}

    def all_reduce(tensor, op, group):
        said[threading.get_ident()] = tensor.clone()
        wait.wait()
        every = torch.stack(list(said.values()))
        tensor.copy_(every.amax(0) if op == torch.distributed.ReduceOp.MAX else every.amin(0))
        wait.wait()

    ops = torch.distributed.ReduceOp
    ring = SimpleNamespace(is_initialized=lambda: True, all_reduce=all_reduce, ReduceOp=ops)
    names = {
        "dist": ring,
        "get_device_name": lambda: "cpu",
        "tu": SimpleNamespace(index_select_tensor_dict=lambda batch, part: None),
    }

    def on(lens):
        ends = torch.tensor([0, *lens]).cumsum(0)
        ids = SimpleNamespace(is_nested=True, offsets=lambda: ends)
        return module.rearrange_micro_batches(
            {"input_ids": ids}, max_tokens, dp_group="all", num_batches_divided_by=multiple
        )[1]

    with mock.patch.multiple(module, **names), ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(on, ranks))


def rearrange_micro_batches(batch, max_token_len, **more):
    """verl's own, whose micro-batches are not made: their lists are what is wanted."""
    module = _seqlen_balancing()
    made = SimpleNamespace(index_select_tensor_dict=lambda batch, part: None)
    with mock.patch.object(module, "tu", made):
        return module.rearrange_micro_batches(batch, max_token_len, **more)


def definitions(package, path, wanted, names):
    """Functions and classes of an installed file, alone, run over ``names``; it also has them."""
    file = _file(package, path)
    tree = ast.parse(file.read_text("utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") in wanted]
    exec(compile(tree, str(file), "exec"), names)
    return SimpleNamespace(**{name: names[name] for name in wanted})


def skyrl_packed(indices_BSLK, mask_BS, *, fp8):
    """SkyRL 0.3.0's _pack_replay_indices on this rank, [rows, L, K]; zeros are padding."""
    path = "backends/skyrl_train/distributed/megatron/packing_utils.py"
    names = {"torch": torch, **vars(load_file("skyrl", path, {}))}
    path, wanted = "backends/skyrl_train/utils/replay_utils.py", "_pack_replay_indices"
    pack = getattr(definitions("skyrl", path, [wanted], names), wanted)
    modules = {name: ModuleType(name) for name in ("megatron", "megatron.core")}
    modules["megatron.core.parallel_state"] = MPU  # which it imports as it runs
    modules["megatron"].core = modules["megatron.core"]
    modules["megatron.core"].parallel_state = MPU
    with mock.patch.dict(sys.modules, modules):
        return pack(indices_BSLK, mask_BS, fp8_enabled=fp8)[0]


@functools.cache
def split_cp_inputs():
    """mcore_bridge's split_cp_inputs, alone: its module imports much of Megatron."""
    names = {"torch": torch, "mpu": MPU, "Optional": Optional}
    path = "utils/megatron_utils.py"
    return definitions("mcore_bridge", path, ["split_cp_inputs"], names).split_cp_inputs
