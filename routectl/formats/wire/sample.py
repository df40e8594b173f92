"""WireSample: one sequence as a response named it, its payload still encoded.

Every text format ends here; ``to_sample`` decodes the payload and settles which rows it holds.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Sample, SampleKey, WeightSpan, key_of
from ...errors import FormatError
from ...model import ModelFacts
from ...routes import Routes
from .encodings import decode_payload
from .layers import check_rows, routes_from_wire
from .payload import IntArray, from_lists

__all__ = ["NoRoutesError", "NoSamplesError", "WireSample", "to_sample"]


class NoSamplesError(FormatError):
    """The file reads well and is no dump: an error response, a configuration, a listing."""


class NoRoutesError(NoSamplesError):
    """The file holds samples, and none of them has routes: nobody asked for them."""


@dataclass(frozen=True, slots=True)
class WireSample:
    """A sequence and its payload. ``start`` is what the request asked for, None when not known.

    ``payload`` is None when the response has none. ``prompt_payload`` is the other half of the
    split form of vLLM 0.21.
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


def _decode(wire: WireSample, facts: ModelFacts, start: int | None) -> tuple[IntArray, int | None]:
    """The payload as integers [rows, layers, k], whatever its encoding, and its own start."""
    if wire.prompt_payload is not None:
        return _join_split(wire), None
    total = wire.num_tokens
    rows = None if total is None or start is None else total - 1 - start
    return decode_payload(wire.payload, facts, rows, wire.where)


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


def _place(rows: int, wire: WireSample, asked: int | None) -> tuple[int, bool, int]:
    """Where row 0 stands, whether that was inferred from the row count, and how many rows to keep.

    An engine's N tokens have rows for positions start .. N-2: the last one was never fed. Rows
    from the first token on may be one more or one less: a row for every token, of which the last
    is a filler (slime's first SGLang patch, NeMo-RL, ART), or none for the last one that was fed
    (TensorRT-LLM #18397 without the overlap scheduler).
    """
    total = wire.num_tokens
    if total is None:
        if asked is None:
            raise FormatError(
                f"{wire.where}: {rows} rows, but neither the token counts nor the start are known",
                hint="--start 0 if the rows begin at the first prompt token",
            )
        return asked, False, rows
    if rows == total > 0 and not asked:
        return 0, False, total - 1
    if asked is not None:
        if rows != total - 1 - asked and not (asked == 0 and rows == total - 2):
            raise FormatError(
                f"{wire.where}: got {rows} rows, expected {total - 1 - asked} = "
                f"{wire.prompt_length} prompt + {wire.response_length} response tokens "
                f"- 1 - start {asked}"
            )
        return asked, False, rows
    start = total - 1 - rows
    if not 0 <= start <= (wire.prompt_length or 0):
        raise FormatError(
            f"{wire.where}: got {rows} rows, expected {wire.response_length} - 1 to {total - 1} "
            f"for {wire.prompt_length} prompt + {wire.response_length} response tokens"
        )
    return start, start > 0, rows


def to_sample(wire: WireSample, facts: ModelFacts, start: int | None) -> Sample:
    """Decode the payload; ``start`` is the user's, used when the request's is not known."""
    asked = start if wire.said_start is None else wire.said_start
    said: dict[str, Any] = {name: getattr(wire, name) for name in _SAID}
    routes: Routes | None = None
    inferred, form = False, None
    if wire.has_routes:
        split = wire.prompt_payload is not None
        asked = 0 if split else asked  # the split form has no start
        ids, own = _decode(wire, facts, asked)
        check_rows(ids, wire.where)
        position, inferred, rows = _place(len(ids), wire, asked if own is None else own)
        form = "P+G" if split else "N" if rows < len(ids) else None
        routes = routes_from_wire(ids[:rows], facts, position, wire.where)
    return Sample(routes, **said, start_inferred=inferred, row_form=form)
