"""slime's train-data dumps: the tokens, log-probs and micro-batches of a step, without routes.

Source: slime 624b824a (observability/train_data_utils.py, ``--save-debug-train-data`` and
``--dump-details``), format_version 2: ``{"format_version", "rollout_id", "rank", "samples",
"dp_shards", ...}``. Samples are those of the rollout dump in its order; fields are named in the
plural, as the columns are that they come from. Routes are dropped before it is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...dump import Sample
from ...errors import FormatError, UnsupportedError
from ...pickled.torch_files import load_torch
from ...visible import quoted
from ..documents.fields import one_line, text
from .fields import response_scores, tokens_in, whole_mask

__all__ = ["TrainData", "is_train_data", "read_train_data", "train_data_of"]

_VERSION = 2


@dataclass(frozen=True, slots=True)
class TrainData:
    """What a train-data dump holds; ``str`` says it in one line.

    samples have no routes, and as logprobs those that the trainer computed (log_probs), None
    where it did not. positions are their places in the rollout dump, None where that is not
    told. shards are the dp_shards: micro-batches by data-parallel rank, as read_plan takes them.
    """

    samples: tuple[Sample, ...]
    positions: tuple[int | None, ...]
    shards: tuple[Any, ...]

    def __str__(self) -> str:
        scored = sum(sample.logprobs is not None for sample in self.samples)
        tokens = sum(sample.num_tokens or 0 for sample in self.samples)
        told = (shard.get("micro_batch_indices") for shard in self.shards)
        batches = sum(len(steps) for steps in told if isinstance(steps, list))
        return (
            f"slime's train data: {len(self.samples)} samples of {tokens} tokens, {scored} with "
            f"log-probs; {batches} micro-batches on {len(self.shards)} data-parallel ranks"
        )


def is_train_data(doc: Any) -> bool:
    """Whether a torch file's content is a train-data dump, of slime or of miles."""
    return isinstance(doc, Mapping) and ("dp_shards" in doc or "rollout_data" in doc)


def read_train_data(path: Path) -> TrainData:
    """A train-data dump. Raises FormatError, or UnsupportedError for another version."""
    doc = load_torch(path)
    if not is_train_data(doc):
        raise FormatError(f"{path}: no train data of slime: no dp_shards in it")
    return train_data_of(doc, path)


def train_data_of(doc: Mapping[str, Any], path: Path) -> TrainData:
    """The same of a file's content."""
    version = doc.get("format_version")
    if version != _VERSION:
        raise UnsupportedError(
            f"{path}: train data of format_version {one_line(version)}, this routectl reads "
            f"slime's {_VERSION}"
        )
    samples, shards = doc.get("samples"), doc.get("dp_shards")
    if not isinstance(samples, list) or not isinstance(shards, list):
        raise FormatError(f"{path}: train data without a list of samples and one of dp_shards")
    if not all(isinstance(shard, Mapping) for shard in shards):
        raise FormatError(f"{path}: dp_shards: expected a mapping for each data-parallel rank")
    read = [_sample(entry, f"{path}: sample {i}") for i, entry in enumerate(samples)]
    places = [entry.get("rollout_position") for entry in samples]
    return TrainData(
        tuple(read), tuple(p if type(p) is int else None for p in places), tuple(shards)
    )


def _sample(doc: Any, where: str) -> Sample:
    if not isinstance(doc, Mapping) or "tokens" not in doc:
        raise FormatError(f"{where}: got {type(doc).__name__}, expected a sample with tokens")
    tokens = tokens_in(doc["tokens"], f"{where}: tokens")
    length = doc.get("response_lengths")
    if type(length) is not int or not 0 <= length <= len(tokens):
        raise FormatError(
            f"{where}: response_lengths: got {quoted(length, 40)}, expected a count of "
            f"{len(tokens)} tokens"
        )
    prompt = len(tokens) - length
    return Sample(
        routes=None,
        sample_id=text(doc.get("sample_index")),
        prompt_ids=tokens[:prompt],
        response_ids=tokens[prompt:],
        prompt_length=prompt,
        response_length=length,
        loss_mask=whole_mask(doc.get("loss_masks"), prompt, len(tokens), where),
        logprobs=response_scores(doc.get("log_probs"), length, where, "log_probs"),
    )
