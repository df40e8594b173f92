"""WireSample: one sequence as a response named it, its payload still encoded.

Every text format ends here; ``to_sample`` decodes the payload and settles which rows it holds.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...damage import Fault
from ...dump import Dump, Sample, SampleKey, WeightSpan, key_of
from ...errors import FormatError
from ...gate_logprobs import gates_of_weights
from ...model import ModelFacts
from .encodings import Decoded, decode_payload
from .layers import with_rows
from .payload import IntArray, from_lists
from .shapes import TokenExtent, as_rows, lightllm_axes

__all__ = ["NoRoutesError", "NoSamplesError", "WireSample", "to_sample", "weighed", "with_media"]


class NoSamplesError(FormatError):
    """The file reads well and is no dump: an error response, a configuration, a listing."""


class NoRoutesError(NoSamplesError):
    """The file holds samples, and none of them has routes: nobody asked for them.

    ``dump`` is what was read, for whoever needs tokens alone; None where its model is not known.
    """

    def __init__(self, message: str, *, hint: str | None = None, dump: Dump | None = None) -> None:
        super().__init__(message, hint=hint)
        self.dump = dump


@dataclass(frozen=True, slots=True)
class WireSample:
    """A sequence and its payload. ``start`` is what the request asked for, None when not known.

    ``payload`` is None when the response has none. ``prompt_payload`` is the other half of the
    split form of vLLM 0.21. ``media_tokens`` counts positions of the prompt, at its end, whose
    id is not told (-1). ``any_rows`` is of arrays that people save: they begin at 0 where no start
    is told, may end anywhere, and a row of the last token is one. ``trainer`` is DumpMeta's.
    ``weights`` are the combine
    weights of an array payload [R, W, K], float32 of its shape.
    """

    where: str
    payload: Any = None
    prompt_payload: Any = None
    start: int | None = None
    sample_id: str | None = None
    group_id: str | None = None
    prompt_ids: NDArray[np.int32] | None = None
    response_ids: NDArray[np.int32] | None = None
    prompt_length: int | None = None
    response_length: int | None = None
    logprobs: NDArray[np.float64] | None = None
    loss_mask: NDArray[np.bool_] | None = None
    weight_spans: tuple[WeightSpan, ...] = ()
    finish_reason: str | None = None
    cached_tokens: int | None = None
    retractions: int | None = None
    engine: str | None = None
    engine_version: str | None = None
    media_tokens: int = 0
    any_rows: bool = False
    weights: NDArray[np.float32] | None = None
    trainer: str | None = None

    @property
    def key(self) -> SampleKey:
        """What this sequence is joined by."""
        return key_of(self.sample_id, self.prompt_ids, self.response_ids)

    @property
    def has_routes(self) -> bool:
        """Whether the response holds a payload, be it one of zero rows."""
        return self.payload is not None or self.prompt_payload is not None

    @property
    def said_start(self) -> int | None:
        """The start that the payload says itself, else the request's."""
        own = self.payload.get("start") if isinstance(self.payload, dict) else None
        return own if type(own) is int and own >= 0 else self.start

    @property
    def num_tokens(self) -> int | None:
        """N = P + G, or None when either is not known."""
        if self.prompt_length is None or self.response_length is None:
            return None
        return self.prompt_length + self.response_length


_OF_SAMPLES = {one.name for one in fields(Sample)}
_SAID = [one.name for one in fields(WireSample) if one.name in _OF_SAMPLES]


def _join_split(wire: WireSample) -> IntArray:
    """Prompt rows, then response rows.

    Source: vLLM 0.21.0 (#39917): ``prompt_routed_experts`` [P, MoE layers, K] beside
    ``choices[].routed_experts`` [G or G-1, MoE layers, K], -1 for rows of a cached prefix.
    """
    parts = [from_lists(part, wire.where) for part in (wire.prompt_payload, wire.payload or [])]
    parts = [part for part in parts if part.size] or parts[:1]
    if len({part.shape[1:] for part in parts}) > 1:
        raise FormatError(
            f"{wire.where}: prompt_routed_experts {parts[0].shape} and routed_experts "
            f"{parts[1].shape} are not of one layer count and top_k"
        )
    return np.concatenate(parts)


def with_media(
    prompt: NDArray[np.int32] | None, counted: int | None
) -> tuple[NDArray[np.int32] | None, int]:
    """The prompt's ids, with -1 for positions that the engine counts beyond them, and their number.

    An engine expands images and audio to many positions, whose rows it gives (miles takes such
    responses: rows beyond those of the client's ids). Where they stand is not told: the ids keep
    their order from the front, and -1 follows.
    """
    more = 0 if prompt is None or counted is None else max(0, counted - len(prompt))
    if prompt is None or not more:
        return prompt, 0
    return np.concatenate([prompt, np.full(more, -1, np.int32)]), more


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where row 0 stands, whether that was inferred from the row count, how many rows are kept."""

    start: int
    inferred: bool
    rows: int
    fault: Fault | None = None


def _place(rows: int, wire: WireSample, asked: int | None, engine: str | None) -> _Placed:
    """Where the rows stand against the tokens.

    An engine's N tokens have rows for positions start .. N-2: the last one was never fed. There may
    be one more: a row for every token, of which the last is a filler (slime's first SGLang patch,
    NeMo-RL, ART), or, from the first token on, one less: none for the last one that was fed
    (TensorRT-LLM #18397 without the overlap scheduler). Arrays that people save may end anywhere.
    """
    total = wire.num_tokens
    if wire.any_rows:
        begin = asked or 0
        return _Placed(begin, False, rows, _surplus(rows, wire, begin))
    if total is None:
        if asked is None:
            raise FormatError(
                f"{wire.where}: {rows} rows, but neither the token counts nor the start are known",
                hint="PATH::start=0 if the rows begin at the first prompt token",
            )
        return _Placed(asked, False, rows)
    start = total - 1 - rows if asked is None else asked
    if asked is None and start == 1 and _is_tensorrt(engine):
        start = asked = 0
    if rows > 0 and rows == total - (asked or 0):
        return _Placed(asked or 0, False, rows - 1)
    if asked is not None:
        short = total - 1 - asked - rows
        if short == 0 or (asked == 0 and short == 1):
            return _Placed(asked, False, rows)
        fault = _surplus(rows, wire, asked) or _wrong(rows, wire, asked)
        return _Placed(asked, False, rows, fault)
    if 0 <= start <= (wire.prompt_length or 0):
        return _Placed(start, start > 0, rows)
    return _Placed(0, False, rows, _surplus(rows, wire, None) or _wrong(rows, wire, None))


def _is_tensorrt(engine: str | None) -> bool:
    """Whether an engine is TensorRT-LLM, by any of its names."""
    name = (engine or "").lower().replace("-", "").replace("_", "")
    return name.startswith(("tensorrt", "trtllm"))


def _surplus(rows: int, wire: WireSample, start: int | None) -> Fault | None:
    """The fault of rows beyond the tokens."""
    total, begin = wire.num_tokens, start or 0
    if total is None or begin + rows <= total:
        return None
    over = f"{begin + rows - total} beyond the last token"
    if wire.any_rows:
        text = f"got {rows} rows from position {begin}, expected at most {total - begin} for "
        return Fault("rows", f"{text}{total} tokens: {over}")
    return Fault("rows", f"{_wrong(rows, wire, start).text}: {over}")


def _wrong(rows: int, wire: WireSample, start: int | None) -> Fault:
    """The fault of another count of rows than the tokens have."""
    total, response = wire.num_tokens or 0, wire.response_length or 0
    lengths = f"{wire.prompt_length} prompt + {response} response tokens"
    if start is None:
        text = f"got {rows} rows, expected {response} - 1 to {total - 1} for {lengths}"
    else:
        text = f"got {rows} rows, expected {total - 1 - start} = {lengths} - 1 - start {start}"
    return Fault("rows", text)


def _narrowed(wire: WireSample, rows: int, asked: int | None) -> WireSample:
    """The sequence without the media's positions where its rows are of the prompt's ids alone."""
    prompt, more = wire.prompt_ids, wire.media_tokens
    if not more or prompt is None or wire.num_tokens is None:
        return wire
    left = wire.num_tokens - more - (asked or 0)
    if rows not in (left - 1, left):
        return wire
    kept = prompt[: len(prompt) - more]
    return replace(wire, prompt_ids=kept, prompt_length=len(kept), media_tokens=0)


def weighed(sample: Sample, wire: WireSample, facts: ModelFacts) -> Sample:
    """``sample`` with the weights of its own rows as gates; as it is where there are none.

    Raises FormatError where they are no weights.
    """
    routes, weights_RWK = sample.routes, wire.weights
    if routes is None or weights_RWK is None:
        return sample
    columns = facts.layers if weights_RWK.shape[1] == facts.num_layers else facts.layers[:0]
    kept = weights_RWK[: routes.num_tokens]
    try:
        gates = gates_of_weights(kept[:, list(columns)] if columns else kept, routes)
    except ValueError as error:
        raise FormatError(f"{wire.where}: {error}") from None
    return replace(sample, gates=gates)


def to_sample(
    wire: WireSample, facts: ModelFacts, start: int | None, engine: str | None = None
) -> Sample:
    """Decode the payload; ``start`` is the user's, used when the request's is not known.

    ``engine`` is who wrote it, where the sequence does not say. A payload without a row, where
    tokens are to have some, is as good as none: routes are None then. Raises DamagedSampleError
    where rows can be read that are not as they should be, FormatError where none can.
    """
    asked = start if wire.said_start is None else wire.said_start
    said: dict[str, Any] = {name: getattr(wire, name) for name in _SAID}
    if not wire.has_routes:
        return Sample(None, **said)
    split, engine = wire.prompt_payload is not None, wire.engine or engine
    if split or (wire.any_rows and asked is None):
        asked = 0  # the split form has no start
    if split:
        decoded = Decoded(_join_split(wire))
    else:
        extent = TokenExtent(wire.num_tokens, wire.response_length, asked)
        decoded = decode_payload(wire.payload, facts, extent, wire.where)
    asked = asked if decoded.start is None else decoded.start
    extent = TokenExtent(wire.num_tokens, wire.response_length, asked)
    if not decoded.ids.size and decoded.ids.ndim == 3:
        if decoded.faults:
            return with_rows(
                Sample(None, **said), decoded.ids, facts, asked or 0, wire.where, decoded.faults
            )
        if wire.num_tokens is None or wire.num_tokens - 1 - (asked or 0) > 0:
            return Sample(None, **said)
        return with_rows(
            Sample(None, **said),
            np.zeros((0, len(facts.layers), facts.top_k), np.uint8),
            facts,
            asked or 0,
            wire.where,
        )
    first = None if decoded.declared else False
    if engine == "lightllm":
        first = lightllm_axes(decoded.ids, facts, extent, wire.where)
    ids, faults = as_rows(decoded.ids, facts, extent, wire.where, layers_first=first)
    wire = _narrowed(wire, len(ids), asked)
    said = {name: getattr(wire, name) for name in _SAID}
    placed = _place(len(ids), wire, asked, engine)
    faults = [*decoded.faults, *faults]
    if placed.fault is not None and not decoded.faults:
        faults.append(placed.fault)
    form = "P+G" if split else "N" if placed.rows < len(ids) else None
    sample = Sample(None, **said, start_inferred=placed.inferred, row_form=form)
    return with_rows(sample, ids[: placed.rows], facts, placed.start, wire.where, faults)
