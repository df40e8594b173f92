"""What torch.save holds for a trainer: lists of samples, padded grids, jagged batches, layers.

Nothing but tensors, lists, dicts, strings and numbers is written (and numpy arrays where a trainer
has them), so that ``torch.load(path, weights_only=True)`` reads all of it but a numpy one; the
jagged form is a TensorDict. Shape suffixes: B samples, S positions, R rows, W layers, K top_k.
"""

from typing import IO, Any

import numpy as np
import torch

from ..dump import Sample
from ..errors import RoutectlError
from .target_grid import grid_of
from .target_rows import Feed, TargetRows, tokens_of

__all__ = ["write_grid", "write_jagged", "write_layers", "write_samples"]

_STATUS = {"stop": "completed", "length": "truncated", "abort": "aborted", None: "completed"}
_NUMPY = ("slime-numpy", "miles")


def _response_part(sample: Sample, name: str) -> list[Any] | None:
    """Log-probs, or the loss mask of the response, as a list."""
    if name == "logprobs":
        return None if sample.logprobs is None else sample.logprobs.tolist()
    if sample.loss_mask is None:
        return None
    return [int(flag) for flag in sample.loss_mask[sample.prompt_length or 0 :]]


def _sample_dict(placed: TargetRows, groups: dict[str, int], where: str) -> dict[str, Any]:
    """A Sample.to_dict of slime or miles; what they have no field for is in its metadata.

    Source: slime 624b824a and miles 31f1ca96 (utils/types.py).
    """
    sample, tokens = placed.sample, tokens_of(placed.sample, where)
    spans = [[s.version, s.start, s.end] for s in sample.weight_spans]
    about = {"sample_id": sample.sample_id, "group_id": sample.group_id, "weight_spans": spans}
    cache = {
        "cached_tokens": sample.cached_tokens or 0,
        "total_prompt_tokens": sample.prompt_length,
    }
    return {
        "group_index": groups.setdefault(sample.group_id or f"{placed.index}", len(groups)),
        "index": placed.index,
        "prompt": "",
        "tokens": tokens.tolist(),
        "response": "",
        "response_length": sample.response_length,
        "label": None,
        "reward": None,
        "loss_mask": _response_part(sample, "loss_mask"),
        "weight_versions": [span.version for span in sample.weight_spans],
        "rollout_log_probs": _response_part(sample, "logprobs"),
        "status": _STATUS.get(sample.finish_reason, "completed"),
        "metadata": {name: value for name, value in about.items() if value},
        **({} if sample.cached_tokens is None else {"prefix_cache_info": cache}),
    }


def write_samples(feed: Feed, stream: IO[bytes]) -> int:
    """Write ``{"rollout_id", "samples": [...]}``; routes [N-1, W, K] are a tensor, or numpy's.

    Source: slime 624b824a (observability/rollout_data_utils.py); tensors since #2108, before it
    numpy arrays, as in miles, which has a ``metadata`` beside.
    """
    name, key = feed.shape.target.name, feed.shape.target.key
    groups: dict[str, int] = {}
    samples = []
    for placed in feed:
        doc = _sample_dict(placed, groups, feed.where(placed.index, placed.sample))
        assert placed.ids_RWK is not None
        doc[key] = placed.ids_RWK if name in _NUMPY else torch.from_numpy(placed.ids_RWK)
        samples.append(doc)
    extra: dict[str, Any] = {"metadata": {}} if name == "miles" else {}
    torch.save({"rollout_id": 0, **extra, "samples": samples}, stream)
    return len(samples)


def write_grid(feed: Feed, stream: IO[bytes]) -> int:
    """Write a dict of padded tensors, the batch that the trainer's own class wraps."""
    placed = feed.held()
    arrays = grid_of(placed, feed)
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, stream)
    return len(placed)


def write_layers(feed: Feed, stream: IO[bytes]) -> int:
    """Write a list with an int64 [tokens, K] tensor for each MoE layer, samples end to end.

    Source: Megatron-Core 0.16.1, ``RouterReplay.set_replay_data``.
    """
    rows = [placed.ids_RWK for placed in feed if placed.ids_RWK is not None]
    shape = feed.shape
    empty = np.zeros((0, len(shape.meta.layers_L), shape.meta.top_k), np.int64)
    ids_LRK = np.ascontiguousarray(np.concatenate([empty, *rows]).transpose(1, 0, 2))
    torch.save([torch.from_numpy(ids_RK.copy()) for ids_RK in ids_LRK], stream)
    return len(rows)


def _trajectory_key(placed: TargetRows, taken: dict[str, int]) -> str:
    """``{uid}_{session}_{index}``: the uid is a group's and has no underscore of its own."""
    sample = placed.sample
    uid = str(sample.group_id or sample.sample_id or placed.index).replace("_", "-")
    session = taken[uid] = taken.get(uid, -1) + 1
    return f"{uid}_{session}_0"


def _trajectory(placed: TargetRows, where: str) -> dict[str, Any]:
    """The fields of one trajectory, as ``AgentLoopOutput.as_dict`` makes them."""
    sample, tokens = placed.sample, tokens_of(placed.sample, where)
    assert placed.ids_RWK is not None
    mask = _response_part(sample, "loss_mask") or [1] * (sample.response_length or 0)
    fields = {
        "prompts": torch.tensor(sample.prompt_ids, dtype=torch.int64),
        "responses": torch.tensor(sample.response_ids, dtype=torch.int64),
        "response_mask": torch.tensor(mask, dtype=torch.int64),
        "input_ids": torch.tensor(tokens, dtype=torch.int64),
        "loss_mask": torch.tensor(mask, dtype=torch.int64),
        "position_ids": torch.arange(len(tokens)),
        "routed_experts": torch.from_numpy(placed.ids_RWK),
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
            hint="pip install 'routectl[trainers]', or --to verl-padded",
        ) from None
    fields: dict[str, list[torch.Tensor]] = {}
    keys: list[str] = []
    tags: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for placed in feed:
        where = feed.where(placed.index, placed.sample)
        trajectory = _trajectory(placed, where)
        if keys and trajectory.keys() != fields.keys():
            raise RoutectlError(f"{where}: log-probs are there for some samples and not for others")
        for name, tensor in trajectory.items():
            fields.setdefault(name, []).append(tensor)
        keys.append(_trajectory_key(placed, taken))
        tags.append(_tag(placed.sample))
    jagged = {n: torch.nested.as_nested_tensor(t, layout=torch.jagged) for n, t in fields.items()}
    batch = TensorDict(jagged, batch_size=[len(keys)])
    torch.save({"tensordict": batch, "tags": tags, "keys": keys, "global_steps": 0}, stream)
    return len(keys)
