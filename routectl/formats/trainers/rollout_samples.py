"""Samples of slime's and miles's rollout dumps: ``{"rollout_id", "samples": [Sample.to_dict()]}``.

Sources: slime 624b824a (utils/types.py, observability/rollout_data_utils.py), miles 31f1ca96 and
vime 2b83ea20 (data/tensor.py, utils/types.py), which may hold routes as a list of tensors.
``to_dict`` copies ``__dict__``, so that any key may be beside those read here. Both merge the
segments of a partial rollout as they come (``existing[:start] + new``), and no start is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import WeightSpan
from ...errors import FormatError
from ...files.names import is_own_name
from ...pickled.names import DUMPS
from ...pickled.torch_files import MappedTensor
from ...visible import quoted
from ..arrays.files import open_array_file
from ..documents.fields import one_line, text
from ..responses.weight_versions import weight_spans
from ..wire.payload import IntArray, from_lists
from ..wire.sample import WireSample
from .fields import numbers_in, response_scores, tokens_in, whole_mask, wire_of

__all__ = ["read_rollout"]

_STATUS = {"completed": "stop", "truncated": "length", "aborted": "abort", "failed": "failed"}
_SPILLED = tuple(
    DUMPS[module, "DiskTensorRef"] for module in ("slime.utils.tensor_store", "vime.data.tensor")
)


def read_rollout(samples: Sequence[Any], path: Path, trainer: str) -> list[WireSample]:
    """The sequences of a rollout dump. Raises FormatError on what is no Sample.to_dict."""
    found = [_of_sample(doc, path, f"{path}: sample {i}") for i, doc in enumerate(samples)]
    return [replace(wire, trainer=trainer) for wire in found]


def _of_sample(doc: Any, path: Path, where: str) -> WireSample:
    if not isinstance(doc, Mapping) or "tokens" not in doc:
        raise FormatError(f"{where}: got {type(doc).__name__}, expected a sample with tokens")
    tokens = tokens_in(doc["tokens"], f"{where}: tokens")
    length = doc.get("response_length")
    if type(length) is not int:
        raise FormatError(f"{where}: response_length: got {quoted(length, 40)}, expected a count")
    prompt = len(tokens) - length
    about = doc.get("metadata")
    about = about if isinstance(about, Mapping) else {}
    cache = doc.get("prefix_cache_info")
    cached = cache.get("cached_tokens") if isinstance(cache, Mapping) else None
    own = about.get("weight_spans")
    siblings = _first(about.get("group_id"), doc.get("group_index"), doc.get("rollout_id"))
    return wire_of(
        where,
        _routes(doc.get("rollout_routed_experts"), path, where),
        tokens,
        prompt,
        sample_id=text(_first(about.get("sample_id"), doc.get("index"))),
        group_id=text(siblings),
        logprobs=response_scores(doc.get("rollout_log_probs"), length, where, "rollout_log_probs"),
        loss_mask=whole_mask(doc.get("loss_mask"), prompt, len(tokens), where),
        weight_spans=_versions(doc, own, length, prompt, where),
        finish_reason=_STATUS.get(str(doc.get("status"))),
        cached_tokens=cached if type(cached) is int and 0 <= cached < 1 << 31 else None,
    )


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _routes(value: Any, path: Path, where: str) -> IntArray | None:
    """[N - 1, W, K]: a tensor, numpy's array, nested lists, or a file that slime spilled it to."""
    if value is None:
        return None
    if isinstance(value, _SPILLED):
        return _spilled(value, path, where)
    if isinstance(value, list) and value and all(isinstance(one, MappedTensor) for one in value):
        return _joined([numbers_in(one, where) for one in value], where)
    return from_lists(value, where) if isinstance(value, list) else numbers_in(value, where)


def _joined(parts: Sequence[NDArray[Any]], where: str) -> NDArray[Any]:
    """The rows of a partial rollout's segments, end to end."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1 or parts[0].ndim != 3:
        raise FormatError(f"{where}: got segments of shapes {sorted(p.shape for p in parts)}")
    return np.concatenate(parts)


def _spilled(ref: Any, dump: Path, where: str) -> NDArray[Any]:
    """A tensor that slime spilled (utils/tensor_store.py), out of the dump's own spill folder.

    slime links spilled files to ``<dump>_r3_spill/<id>/<n>_<name>`` and pickles the path as it was
    then; only its last two parts are used. Raises FormatError.
    """
    path, expected = ref.fields.get("path"), ref.fields.get("shape")
    parts = Path(path).parts[-2:] if isinstance(path, str) else ()
    if len(parts) != 2 or not all(is_own_name(part) for part in parts):
        raise FormatError(f"{where}: a spilled tensor without a path")
    file = dump.parent / f"{dump.stem}_r3_spill" / parts[0] / parts[1]
    if not file.is_file():
        raise FormatError(f"{where}: its routes were spilled to {file}, which is not there")
    held = open_array_file(file, "safetensors")
    shape = held.shapes.get("tensor")
    if shape != expected:
        raise FormatError(f"{where}: {file} holds {shape}, expected {one_line(expected)}")
    return held.read("tensor")


def _versions(
    doc: Mapping[str, Any], own: Any, length: int, prompt: int, where: str
) -> tuple[WeightSpan, ...]:
    """Whose tokens are whose: as routectl wrote it, by slime's segments, or by calls alone."""
    if own is not None:
        return _spans(own, where)
    segments = doc.get("queue_policy_segments")
    if segments is None:
        return weight_spans(doc, length, where)
    return _of_segments(segments, prompt, prompt + length, where)


def _of_segments(segments: Any, prompt: int, total: int, where: str) -> tuple[WeightSpan, ...]:
    """The spans of a sample that was generated by several policies, over response tokens.

    A segment {start, stop, branch, reported_versions} is of tokens from the first one on, and has
    the versions that all calls up to its end reported: its own are those that the segment before
    has not. Several make one span, "v3+v4"; a segment of which none is known has no span.
    Source: slime (data/transport.py, record_generation_provenance). Raises FormatError.
    """
    spans: list[WeightSpan] = []
    before: list[str] = []
    end = 0
    for segment in segments if isinstance(segments, list | tuple) else (None,):
        part = segment if isinstance(segment, Mapping) else {}
        said = part.get("reported_versions")
        start, stop = (
            at if type(at := part.get(name)) is int else -1 for name in ("start", "stop")
        )
        if not end <= start <= stop <= total or not isinstance(said, list | tuple | None):
            raise FormatError(
                f"{where}: queue_policy_segments: got {quoted(segment, 80)}, expected start, stop "
                f"and reported_versions, in order up to {total} tokens"
            )
        names = [str(version) for version in said or ()]
        new = names[len(before) :] if names[: len(before)] == before else names
        first = max(start - prompt, 0)
        if new and stop - prompt > first:
            version = "+".join(dict.fromkeys(new))
            spans.append(WeightSpan(version, first, stop - prompt))
        before, end = names or before, stop
    return tuple(spans)


def _spans(known: Any, where: str) -> tuple[WeightSpan, ...]:
    """The spans that ``convert --to`` wrote into a sample's metadata."""
    try:
        spans = [(str(version), start, end) for version, start, end in known]
        if not all(type(at) is int and 0 <= at < 1 << 31 for _, *places in spans for at in places):
            raise ValueError(known)
    except (TypeError, ValueError):
        raise FormatError(
            f"{where}: weight_spans: got {quoted(known)}, expected [version, start, end]"
        ) from None
    return tuple(WeightSpan(*span) for span in spans)
