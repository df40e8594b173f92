"""verl's jagged batch, a TensorDict of nested tensors in a torch file.

Shape suffixes: R rows, W layers, K top_k.
"""

import logging
from typing import IO, Any

import numpy as np
import torch

from ...dump import Sample
from ...errors import RoutectlError, extra_hint
from ...files.scratch import scratch_file
from .rows import Feed, TargetRows, tokens_of
from .torch_lists import response_part

__all__ = ["write_jagged"]


def _trajectory_key(placed: TargetRows, taken: dict[str, int]) -> str:
    """``{uid}_{session}_{index}``: the uid is a group's and has no underscore of its own."""
    sample = placed.sample
    uid = str(sample.group_id or sample.sample_id or placed.index).replace("_", "-")
    session = taken[uid] = taken.get(uid, -1) + 1
    return f"{uid}_{session}_0"


def _trajectory(placed: TargetRows, where: str) -> dict[str, Any]:
    """The fields of one trajectory but its routes, as ``AgentLoopOutput.as_dict`` makes them."""
    sample, tokens = placed.sample, tokens_of(placed.sample, where)
    mask = response_part(sample, "loss_mask") or [1] * (sample.response_length or 0)
    fields = {
        "prompts": torch.tensor(sample.prompt_ids, dtype=torch.int64),
        "responses": torch.tensor(sample.response_ids, dtype=torch.int64),
        "response_mask": torch.tensor(mask, dtype=torch.int64),
        "input_ids": torch.tensor(tokens, dtype=torch.int64),
        "loss_mask": torch.tensor(mask, dtype=torch.int64),
        "position_ids": torch.arange(len(tokens)),
    }
    if sample.logprobs is not None:
        fields["rollout_log_probs"] = torch.tensor(sample.logprobs, dtype=torch.float32)
    return fields


def _tag(sample: Sample) -> dict[str, Any]:
    """What verl's TransferQueue knows of a trajectory; the steps, which a dump has not, are 0.

    Source: verl 0.9.1 (trainer/ppo/v1/agent_loop_tq.py); RolloutSkip sets the steps as it loads.
    """
    return {
        "status": "success",
        "prompt_len": sample.prompt_length,
        "response_len": sample.response_length,
        "seq_len": sample.num_tokens,
        **dict.fromkeys(("global_steps", "min_global_steps", "max_global_steps"), 0),
    }


def write_jagged(feed: Feed, stream: IO[bytes]) -> int:
    """Write a tq_batch.pt: a TensorDict of jagged fields, with tags and keys.

    Source: verl 0.9.1 (utils/skip/rollout_skip.py, experimental/agent_loop/agent_loop.py).
    """
    try:
        from tensordict import TensorDict
    except ImportError:
        raise RoutectlError(
            "--to verl writes a TensorDict, and tensordict is not installed",
            hint=f"--to verl-padded, or {extra_hint('trainers')}",
        ) from None
    fields: dict[str, list[torch.Tensor]] = {}
    keys: list[str] = []
    tags: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    with scratch_file() as file:
        for placed in feed:
            where = feed.where(placed.index, placed.sample)
            trajectory = _trajectory(placed, where)
            if keys and trajectory.keys() != fields.keys():
                raise RoutectlError(
                    f"{where}: log-probs are there for some samples and not for others"
                )
            for name, tensor in trajectory.items():
                fields.setdefault(name, []).append(tensor)
            keys.append(_trajectory_key(placed, taken))
            tags.append(_tag(placed.sample))
            assert placed.ids_RWK is not None
            file.write(placed.ids_RWK.data)
        if keys:
            jagged = _nested(fields) | {"routed_experts": _nested_routes(file, feed, fields)}
            batch = TensorDict(jagged, batch_size=[len(keys)])
            torch.save({"tensordict": batch, "tags": tags, "keys": keys, "global_steps": 0}, stream)
    return len(keys)


def _nested(fields: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {n: torch.nested.as_nested_tensor(t, layout=torch.jagged) for n, t in fields.items()}


def _nested_routes(
    file: IO[bytes], feed: Feed, fields: dict[str, list[torch.Tensor]]
) -> torch.Tensor:
    """The rows of all trajectories, N each, mapped from a temporary file."""
    meta, width = feed.shape.meta, feed.shape.num_layers
    lens = torch.tensor([0, *(len(tokens) for tokens in fields["input_ids"])])
    offsets = torch.cumsum(lens, 0)
    file.flush()
    shape = (int(offsets[-1]), width or 0, meta.top_k)
    ids_RWK: Any = np.memmap(file, feed.shape.dtype(), "r+", shape=shape)
    log = logging.getLogger("torch.fx._symbolic_trace")  # warns of what torch itself calls here
    log.disabled = True
    try:
        return torch.nested.nested_tensor_from_jagged(torch.from_numpy(ids_RWK), offsets)
    finally:
        log.disabled = False
