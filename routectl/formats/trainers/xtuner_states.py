"""xtuner's ``debug_rollout_<step>.pt``: groups of RolloutStates, pickled whole by torch.save.

Source: xtuner b934f462 (train/rl_trainer.py _save_debug_rollout_batch, data_proto/rl_data.py
RolloutState, rl/replay_buffer.py SerializedRayObjectRef, rl/trainer/worker.py
_add_rollout_routed_experts). Routes are an array [N - 1, L, K], or one with its layers end to end;
what stood for it in a Ray store is there by value; of a session's trace it is a list of one array a
node, before which a row of zeros stands. Nothing of xtuner is imported. Shape suffixes: N tokens,
R rows, W layers, K top_k.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...pickled.names import DUMPS
from ...pickled.records import Record
from ..documents.fields import text
from ..responses.weight_versions import weight_spans
from ..wire.sample import WireSample
from .fields import numbers_in, response_scores, tokens_in, whole_mask, wire_of

__all__ = ["is_states", "read_states"]

_STATE = DUMPS["xtuner.v1.data_proto.rl_data", "RolloutState"]
_BY_VALUE = DUMPS["xtuner.v1.rl.replay_buffer", "SerializedRayObjectRef"]


def is_states(doc: Any) -> bool:
    """Whether a torch file holds groups of RolloutStates."""
    if not isinstance(doc, list) or not all(isinstance(group, list) for group in doc):
        return False
    states = [state for group in doc for state in group]
    return bool(states) and all(isinstance(state, _STATE) for state in states)


def read_states(doc: list[list[Record]], path: Path) -> list[WireSample]:
    """The sequences of all groups. Raises FormatError on a state that lacks its tokens."""
    states = [(g, state) for g, group in enumerate(doc) for state in group]
    return [_of_state(state, g, f"{path}: sample {i}") for i, (g, state) in enumerate(states)]


def _of_state(state: Record, group: int, where: str) -> WireSample:
    doc = state.fields.get("__dict__")
    if not isinstance(doc, Mapping) or doc.get("prompt_ids") is None:
        raise FormatError(f"{where}: a RolloutState without prompt_ids")
    prompt = tokens_in(doc["prompt_ids"], f"{where}: prompt_ids")
    response = tokens_in(doc.get("response_ids") or [], f"{where}: response_ids")
    tokens = np.concatenate([prompt, response])
    return wire_of(
        where,
        _routes(doc.get("routed_experts"), where),
        tokens,
        len(prompt),
        sample_id=text(doc.get("rollout_id")),
        group_id=text(group if doc.get("group_id") is None else doc["group_id"]),
        logprobs=response_scores(doc.get("logprobs"), len(response), where, "logprobs"),
        loss_mask=whole_mask(doc.get("response_mask"), len(prompt), len(tokens), where),
        weight_spans=weight_spans(
            {"response_model_steps": doc.get("response_model_steps")}, len(response), where
        ),
        finish_reason=text(doc.get("finish_reason")),
    )


def _value(value: Any) -> Any:
    """What stood for a reference into a Ray store, or anything else as it is."""
    return value.fields.get("value") if isinstance(value, _BY_VALUE) else value


def _routes(value: Any, where: str) -> NDArray[Any] | None:
    value = _value(value)
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        return numbers_in(value, f"{where}: routed_experts")
    parts = [numbers_in(_value(part), f"{where}: routed_experts") for part in value]
    if len({part.shape[1:] for part in parts}) > 1 or not parts[0].ndim:
        raise FormatError(f"{where}: routed_experts: got nodes of several shapes")
    return np.concatenate(parts)[1:]
