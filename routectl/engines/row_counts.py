"""Whether a live answer has the rows that its tokens need, and which model would fit if not.

An engine that just answered has a row for each token but the last, from the start on: N - 1 - start
of them. Files have other forms too (see formats.wire.sample), and a payload of bare ids another
model's sizes: read with those, a wrong model may look like one of these forms.
Shape suffixes: T tokens, R rows, L layers, K top_k.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..formats.wire.encodings import payload_engine
from ..formats.wire.payload import from_base64, from_npy
from ..formats.wire.sample import WireSample, to_sample
from ..model import ModelFacts
from .server import Server

__all__ = ["check_rows_of_answer", "rows_due"]

_ID_BYTES = 4  # SGLang's ids are int32
_MOST_K = 16  # of the sizes that are told as those that would fit
_LOOKED_AT = 64  # first rows, in which an expert that is there twice is looked for
_TWICE = 0.1  # share of rows that tells a wrong K from an engine's fault


def rows_due(wire: WireSample) -> int:
    """N - 1 - start, the rows that an engine gives. Raises FormatError where N is not known."""
    if wire.num_tokens is None:
        raise FormatError(f"{wire.where}: it says neither its tokens nor how many there are")
    return max(0, wire.num_tokens - 1 - (wire.said_start or 0))


def _tokens(wire: WireSample) -> str:
    start = f" - start {wire.said_start}" if wire.said_start else ""
    return (
        f"N = {wire.num_tokens} tokens ({wire.prompt_length} prompt + {wire.response_length} "
        f"response) have N - 1{start}"
    )


def _raw_ids(wire: WireSample, where: str) -> NDArray[np.int32] | None:
    """The ids of a payload without a header; None for one that says its sizes, or is damaged."""
    if wire.prompt_payload is not None or payload_engine(wire.payload) != "sglang":
        return None
    data = from_base64(wire.payload, where)
    return None if len(data) % _ID_BYTES else np.frombuffer(data, "<i4")


def _sizes(each: int) -> Iterator[tuple[int, int]]:
    """L and K whose product is ``each``."""
    return ((each // k, k) for k in range(1, _MOST_K + 1) if each % k == 0)


def _fitting(ids: int, rows: int) -> str:
    if not rows or ids % rows:
        return "which fits no L x K"
    fits = ", ".join(f"{width} x {k}" for width, k in _sizes(ids // rows))
    return f"{ids // rows} ids a row, which L x K = {fits} would fit"


def _model(facts: ModelFacts) -> str:
    """L x K of a model as engines write them."""
    moe = len(facts.layers)
    width = f"{facts.num_layers}" if moe == facts.num_layers else f"{facts.num_layers} (or {moe})"
    return f"L x K = {width} x {facts.top_k}"


def _hint(server: Server) -> str:
    runs = server.weights or server.model
    return "--model CONFIG.json of the model that the server runs" + (f": {runs}" if runs else "")


def _explained(wire: WireSample, facts: ModelFacts | None, where: str) -> str | None:
    """What the payload says where it is not N - 1 - start rows of the model; None where it is."""
    rows, ids = rows_due(wire), _raw_ids(wire, where)
    given = "" if facts is None else f"; the given model has {_model(facts)}"
    if ids is not None:
        if facts is not None:
            widths = {facts.num_layers, len(facts.layers)}
            fits = ids.size in {rows * width * facts.top_k for width in widths}
        else:
            fits = ids.size > 0 and ids.size % rows == 0 if rows else ids.size == 0
        return (
            None
            if fits
            else f"{where}: got {_ID_BYTES * ids.size} bytes = {ids.size} ids of routes, but "
            f"{_tokens(wire)} = {rows} rows, {_fitting(ids.size, rows)}{given}"
        )
    if wire.prompt_payload is not None or payload_engine(wire.payload) != "vllm":
        return None
    shape = from_npy(from_base64(wire.payload, where), where).shape
    if len(shape) == 3 and shape[0] == rows and (facts is None or _of_model(shape, facts)):
        return None
    return f"{where}: got routes of shape {shape}, but {_tokens(wire)} = {rows} rows{given}"


def _of_model(shape: tuple[int, ...], facts: ModelFacts) -> bool:
    widths = (facts.num_layers, len(facts.layers))
    return not shape[0] or (shape[1] in widths and shape[2] == facts.top_k)


def _repeats(ids_RK: NDArray[Any]) -> float:
    """The share of rows that hold an expert twice; rows of one id only are fillers."""
    ordered = np.sort(ids_RK, axis=1)
    real = ordered[:, 0] != ordered[:, -1]
    twice = (ordered[real, 1:] == ordered[real, :-1]).any(axis=1)
    return float(twice.mean()) if twice.size else 0.0


def _misread(wire: WireSample, ids_TLK: NDArray[Any], facts: ModelFacts, where: str) -> str | None:
    """What tells that ids without a header are another model's of the same L x K.

    A router gives no expert twice to a token. Read at a K that is too large a row spans layers,
    and many do.
    """
    share = _repeats(ids_TLK[:_LOOKED_AT].reshape(-1, facts.top_k))
    ids = _raw_ids(wire, where) if share >= _TWICE else None
    if ids is None:
        return None
    rows = rows_due(wire)
    each = ids.size // rows
    first = ids[: _LOOKED_AT * each]
    sizes = [(width, k) for width, k in _sizes(each) if 1 < k < facts.top_k]
    other = [size for size in sizes if not _repeats(first.reshape(-1, size[1]))]
    if not other:
        return None
    fits = ", ".join(f"{width} x {k}" for width, k in reversed(other))
    return (
        f"{where}: {share:.0%} of its rows hold an expert twice as {_model(facts)}, none as "
        f"L x K = {fits}: got {_ID_BYTES * ids.size} bytes, and {_tokens(wire)} = {rows} rows"
    )


def check_rows_of_answer(
    wire: WireSample, facts: ModelFacts | None, server: Server, where: str
) -> None:
    """Raise FormatError unless an answer decodes to exactly N - 1 - start rows of the model.

    Without ``facts`` rows are counted as far as the payload says them itself.
    """
    if facts is None:
        if wrong := _explained(wire, None, where):
            raise FormatError(wrong)
        return
    try:
        sample = to_sample(wire, facts, None)
    except FormatError:
        if wrong := _explained(wire, facts, where):
            raise FormatError(wrong, hint=_hint(server)) from None
        raise
    routes = sample.routes
    if routes is None:  # an empty payload
        if not rows_due(wire):
            return
        raise FormatError(
            f"{where}: got 0 rows, but {_tokens(wire)} = {rows_due(wire)}", hint=_hint(server)
        )
    if wire.prompt_payload is not None:  # vLLM 0.21 had a row for the last token at times
        return
    due, wrong = rows_due(wire), None
    if sample.row_form is not None or routes.num_tokens != due:
        got = routes.num_tokens + (sample.row_form == "N")
        wrong = _explained(wire, facts, where)
        wrong = wrong or f"{where}: got {got} rows, but {_tokens(wire)} = {due}"
    wrong = wrong or _misread(wire, routes.ids_TLK, facts, where)
    if wrong:
        raise FormatError(wrong, hint=_hint(server))
