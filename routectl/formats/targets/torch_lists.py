"""Torch files for trainers: lists of samples, padded grids, layers; written without torch.

Nothing but tensors, lists, dicts, strings and numbers is written (and numpy arrays where a trainer
has them), so that ``torch.load(path, weights_only=True)`` reads all of it but a numpy one. One
sample's routes are in memory at a time.
Shape suffixes: B samples, S positions, R rows, W layers, K top_k.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample
from ...files.scratch import scratch_file
from ...pickled.archive_writer import spooled, torch_archive
from ...pickled.opcodes import Made, Streamed, numbers_array
from .grid import PackedGrid, grid_of
from .rows import Feed, TargetRows, tokens_of

__all__ = ["response_part", "write_grid", "write_layers", "write_samples"]

_STATUS = {"stop": "completed", "length": "truncated", "abort": "aborted", None: "completed"}
_NUMPY = ("slime-numpy", "miles")


def response_part(sample: Sample, name: str) -> list[Any] | None:
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
        "loss_mask": response_part(sample, "loss_mask"),
        "weight_versions": [span.version for span in sample.weight_spans],
        "rollout_log_probs": response_part(sample, "logprobs"),
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
    count = 0

    def samples(routes_of: Callable[[NDArray[Any]], Made]) -> Iterator[dict[str, Any]]:
        nonlocal count
        for placed in feed:
            count += 1
            doc = _sample_dict(placed, groups, feed.where(placed.index, placed.sample))
            assert placed.ids_RWK is not None
            yield doc | {key: routes_of(placed.ids_RWK)}

    extra: dict[str, Any] = {"metadata": {}} if name == "miles" else {}
    with torch_archive(stream) as archive:
        routes_of = numbers_array if name in _NUMPY else archive.tensor
        archive.finish({"rollout_id": 0, **extra, "samples": samples(routes_of)})
    return count


def write_grid(feed: Feed, stream: IO[bytes]) -> int:
    """Write a dict of padded tensors, the batch that the trainer's own class wraps.

    PackedGrid routes are a dict of the arguments that SkyRL's PackedTensor is made of.
    """
    placed = feed.survey()
    with torch_archive(stream) as archive:
        batch: dict[str, Any] = {}
        for name, held in grid_of(placed, feed).items():
            if isinstance(held, PackedGrid):
                batch[name] = {part: archive.tensor(array) for part, array in held.parts.items()}
            else:
                batch[name] = archive.tensor(held)
        archive.finish(batch)
    return len(placed)


def _from_file(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Streamed:
    """All that was written to a temporary file, as an array."""
    return Streamed(shape, dtype, lambda: (np.frombuffer(b, dtype) for b in spooled(file).pieces()))


def write_layers(feed: Feed, stream: IO[bytes]) -> int:
    """Write a list with an int64 [tokens, K] tensor for each MoE layer, samples end to end.

    Source: Megatron-Core 0.16.1, ``RouterReplay.set_replay_data``.
    """
    meta, samples, rows = feed.shape.meta, 0, 0
    with ExitStack() as stack, torch_archive(stream) as archive:
        files = [stack.enter_context(scratch_file()) for _ in meta.layers_L]
        for placed in feed:
            assert placed.ids_RWK is not None
            samples += 1
            rows += len(placed.ids_RWK)
            for i, file in enumerate(files):
                file.write(np.ascontiguousarray(placed.ids_RWK[:, i]).data)
        tensors = (_from_file(file, (rows, meta.top_k), np.dtype("<i8")) for file in files)
        archive.finish([archive.tensor(tensor) for tensor in tensors])
    return samples
