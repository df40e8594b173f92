"""What payloads look like where nothing tells their model: rows are read by their own shape."""

from collections.abc import Iterable

from ...errors import RoutectlError
from ...model import MAX_EXPERTS, ModelFacts
from ..documents.facts import GUESSED
from .encodings import decode_payload
from .fireworks import R3_BASE64
from .payload import NEMO_RL, NPY_BASE64, from_base64
from .sample import WireSample
from .shapes import TokenExtent

__all__ = ["facts_of_shape", "guess_facts"]


def facts_of_shape(layers: int, slots: int) -> ModelFacts:
    """Facts by which rows of so many columns and ids are read, whatever the ids are.

    No model's: the layers are columns as written, and E is the most that ids can have.
    """
    return ModelFacts(
        layers, tuple(range(layers)), MAX_EXPERTS, min(slots, MAX_EXPERTS), None, source=GUESSED
    )


def guess_facts(wires: Iterable[WireSample]) -> ModelFacts:
    """Facts of the first payload that says a shape: columns and ids of its rows.

    Of one without axes, such as SGLang's, a row is one column of all ids of a token, whose number
    follows from the tokens; where they are not known either, each id is a row.
    """
    for wire in wires:
        payload = wire.prompt_payload if wire.payload is None else wire.payload
        if payload is None:
            continue
        try:
            shape = _shape(payload, wire)
        except RoutectlError:
            continue
        if shape is not None and 0 not in shape:
            return facts_of_shape(*shape)
    return facts_of_shape(1, 1)


def _shape(payload: object, wire: WireSample) -> tuple[int, int] | None:
    """Columns and ids of a row; None where the payload does not say them."""
    headed = (NEMO_RL, NPY_BASE64, R3_BASE64)
    if isinstance(payload, str) and not payload.startswith(headed):
        return _flat(len(from_base64(payload, wire.where)) // 4, wire)
    extent = TokenExtent(wire.num_tokens, wire.response_length, wire.said_start)
    ids = decode_payload(payload, facts_of_shape(1, 1), extent, wire.where).ids
    if ids.ndim == 2:
        return 1, ids.shape[1]
    return (ids.shape[1], ids.shape[2]) if ids.ndim == 3 else None


def _flat(count: int, wire: WireSample) -> tuple[int, int] | None:
    """One column of all ids of a token, by the counts of rows that engines give."""
    likely = TokenExtent(wire.num_tokens, wire.response_length, wire.said_start).likely
    return next(((1, count // rows) for rows in likely if rows and count % rows == 0), None)
