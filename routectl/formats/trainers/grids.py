"""Padded batches of trainers: where the tokens of each row are, and its prompt.

Shape suffixes: B samples, S positions, W layers, K top_k.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ..documents.fields import as_float64, text
from ..documents.masks import flags_in
from ..responses.weight_versions import weight_spans
from ..wire.sample import WireSample
from .fields import PackedRows, numbers_in, tokens_in, whole_mask, wire_of

__all__ = ["read_grid"]

_TOKENS = ("input_ids", "sequences")
_MASKS = ("response_mask", "token_mask")
_LOSS = ("loss_mask", "response_mask", "token_mask")
_LOGPROBS = ("rollout_log_probs", "rollout_logprobs", "generation_logprobs")
_NEXT = "infer_logprobs"  # ROLL's: of the next token, one column fewer
_VALID = "r3_routing_valid"  # AReaL's: of a sample, false where it has rows that were not captured


def _first(doc: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((doc[name] for name in names if doc.get(name) is not None), None)


def _scored(doc: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that log-probs may have; AReaL's is a common one."""
    return _LOGPROBS if doc.get(_VALID) is None else (*_LOGPROBS, "logprobs")


def _flags(value: Any, where: str, name: str, i: int | None = None) -> NDArray[np.bool_]:
    """A mask of the batch as booleans, or the row of one sample."""
    numbers = numbers_in(value, f"{where}: {name}")
    return flags_in(numbers if i is None else numbers[i], where, name)


def _attention(doc: Mapping[str, Any], shape: tuple[int, ...], where: str) -> NDArray[np.bool_]:
    """Where the tokens of a grid are, bool [B, S]."""
    mask: NDArray[np.bool_]
    if doc.get("attention_mask") is not None:
        mask = _flags(doc["attention_mask"], where, "attention_mask")
    elif doc.get("input_lengths") is not None:
        lengths = numbers_in(doc["input_lengths"], f"{where}: input_lengths")
        mask = np.arange(shape[1])[None] < lengths.reshape(-1, 1)
    else:
        raise FormatError(
            f"{where}: a grid with neither attention_mask nor input_lengths",
            hint="save attention_mask [B, S] with it: nothing else tells tokens from padding",
        )
    if mask.shape != shape[:2]:
        raise FormatError(f"{where}: attention_mask {mask.shape} for routes {shape}")
    return mask


def _prompt_of(doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], where: str) -> int:
    """Prompt tokens of row i: by ROLL's mask of them, by the width of verl's prompts, else up to
    the first token of the response.
    """
    total = int(mask_S.sum())
    if doc.get("prompt_mask") is not None:
        flags = ~_flags(doc["prompt_mask"], where, "prompt_mask", i)
        return _to_first(flags, mask_S) if flags.shape == mask_S.shape else total
    if doc.get(_VALID) is not None:
        first = "loss_mask" if doc.get("versions") is None else "versions"
        row_S = numbers_in(doc.get(first), f"{where}: {first}")[i]
        return _to_first(row_S > (0 if first == "loss_mask" else -1), mask_S)
    if doc.get("prompts") is not None:
        return int(mask_S[: numbers_in(doc["prompts"], where).shape[1]].sum())
    flags = _first(doc, _MASKS)
    if flags is None:
        return total
    flags = _flags(flags, where, "response_mask", i)
    return total - int(flags.sum()) if len(flags) != len(mask_S) else _to_first(flags, mask_S)


def _to_first(flags_S: NDArray[np.bool_], mask_S: NDArray[np.bool_]) -> int:
    """Tokens before the first one that is flagged; all of them when none is."""
    flagged = np.flatnonzero(flags_S & mask_S)
    return int(mask_S[: flagged[0]].sum()) if flagged.size else int(mask_S.sum())


def read_grid(
    doc: Mapping[str, Any], key: str, path: Path, about: Mapping[str, Sequence[Any]] | None = None
) -> Iterator[WireSample]:
    """The rows of a padded batch; ``about`` has sample_id, group_id and steps, one a sample.

    The routes are a grid themselves, or PackedRows, each sample's own. Rows that
    router_padding_mask says were not captured are missing.
    """
    where = f"{path}: {key}"
    held, tokens_BS = doc[key], _first(doc, _TOKENS)
    if not isinstance(held, PackedRows):
        held = numbers_in(held, where)
    mask_BS = _attention(doc, _extent(held, tokens_BS, where), str(path))
    if tokens_BS is None or numbers_in(tokens_BS, str(path)).shape != mask_BS.shape:
        raise FormatError(f"{path}: no input_ids of the grid's shape {mask_BS.shape}")
    empty = not (held.values if isinstance(held, PackedRows) else held).size
    _check_lengths(doc, -1 if empty else len(mask_BS), where)
    valid_B = _valid(doc, len(mask_BS), str(path))
    tokens_BS = numbers_in(tokens_BS, str(path))
    for i, mask_S in enumerate(mask_BS):
        at = f"{path}: sample {i}"
        prompt, total = _prompt_of(doc, i, mask_S, at), int(mask_S.sum())
        rows: NDArray[Any] | None = None
        if isinstance(held, PackedRows):
            rows = _without_uncaptured(held.of(i), doc, i, mask_S, mask_S, at)
        elif valid_B[i]:
            rows = _captured(held[i], doc, i, mask_S, at)
        yield wire_of(
            at,
            rows,
            tokens_in(tokens_BS[i][mask_S], at),
            prompt,
            logprobs=_scores(doc, i, mask_S, total - prompt, at),
            loss_mask=_loss_mask(doc, i, mask_S, prompt, at),
            **_about(_versions(doc, i, mask_S, prompt) or about or {}, i, total - prompt, at),
        )


def _valid(doc: Mapping[str, Any], samples: int, where: str) -> NDArray[np.bool_]:
    """Which samples' rows are all an engine's, bool [B].

    AReaL says it: in others it wrote the nearest row where there was none, and replays none of
    them.
    """
    if doc.get(_VALID) is None:
        return np.ones(samples, np.bool_)
    valid_B = _flags(doc[_VALID], where, _VALID)
    if valid_B.shape != (samples,):
        raise FormatError(f"{where}: {_VALID}: got {valid_B.shape}, expected one of each sample")
    return valid_B


def _extent(held: PackedRows | NDArray[Any], tokens_BS: Any, where: str) -> tuple[int, ...]:
    """The shape [B, S, ...] that attention_mask is to have."""
    if not isinstance(held, PackedRows):
        return held.shape
    shape = () if tokens_BS is None else numbers_in(tokens_BS, where).shape
    return (len(held), shape[1] if len(shape) == 2 else 0)


def _check_lengths(doc: Mapping[str, Any], samples: int, where: str) -> None:
    """Raise FormatError when a column that is read is not of the grid's samples, or none is."""
    if samples < 0:
        raise FormatError(f"{where}: got an empty grid, expected rows")
    for name in (
        "prompts",
        "prompt_mask",
        "router_padding_mask",
        _NEXT,
        *_MASKS,
        *_LOSS,
        *_scored(doc),
        *(("versions",) if doc.get(_VALID) is not None else ()),
    ):
        if doc.get(name) is not None:
            shape = numbers_in(doc[name], f"{where}: {name}").shape
            if len(shape) != 2 or shape[0] != samples:
                raise FormatError(f"{where}: {name}: got {shape}, expected {samples} rows")


def _captured(
    ids_SWK: NDArray[Any], doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], where: str
) -> NDArray[Any]:
    """The rows of a sample from its first token to its last, -1 where they were not captured.

    Routes behind the last token, where padding is to be, are rows too many.
    """
    places = np.flatnonzero(mask_S)
    part = slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)
    rows = ids_SWK[part]
    beyond = 0 if not len(places) else _routes_in(ids_SWK[part.stop :])
    if beyond:
        return ids_SWK[part.start : part.stop + beyond]
    return _without_uncaptured(rows, doc, i, mask_S, part, where)


def _without_uncaptured(
    rows: NDArray[Any],
    doc: Mapping[str, Any],
    i: int,
    mask_S: NDArray[np.bool_],
    places: slice | NDArray[np.bool_],
    where: str,
) -> NDArray[Any]:
    """The rows of the tokens at ``places``, -1 where router_padding_mask says so."""
    if doc.get("router_padding_mask") is None:
        return rows
    absent_S = _flags(doc["router_padding_mask"], where, "router_padding_mask", i)
    if absent_S.shape != mask_S.shape:
        raise FormatError(f"{where}: router_padding_mask {absent_S.shape} for {mask_S.shape}")
    absent_N = absent_S[places]
    if len(absent_N) != len(rows) or not absent_N[:-1].any():  # the last token was never fed
        return rows
    rows = rows.astype(np.int32)
    rows[absent_N] = -1
    return rows


def _routes_in(padding_SWK: NDArray[Any]) -> int:
    """How many positions there are up to the last that holds routes: no id alone, no 0..K-1."""
    if not padding_SWK.size or padding_SWK.shape[-1] == 1:
        return 0
    order = np.arange(padding_SWK.shape[-1])
    none_SW = (padding_SWK == padding_SWK[..., :1]).all(-1) | (padding_SWK == order).all(-1)
    held = np.flatnonzero(~none_SW.all(axis=1))
    return int(held[-1]) + 1 if held.size else 0


def _about(about: Mapping[str, Sequence[Any]], i: int, length: int, where: str) -> dict[str, Any]:
    """Names and weight versions of sample i."""
    one = {name: values[i] for name, values in about.items() if i < len(values)}
    return {
        "sample_id": text(one.get("sample_id", i)),
        "group_id": text(one.get("group_id")),
        "weight_spans": weight_spans(one, length, where),
    }


def _versions(
    doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], prompt: int
) -> dict[str, Sequence[Any]]:
    """AReaL's weight version of each response token as spans; -1 in what no model wrote."""
    if doc.get(_VALID) is None or doc.get("versions") is None:
        return {}
    spans, at = [], 0
    for version, run in groupby(numbers_in(doc["versions"], "versions")[i][mask_S][prompt:]):
        end = at + len(list(run))
        if version >= 0:
            spans.append({"version": str(int(version)), "start": at, "end": end})
        at = end
    return {"weight_versions": [*[None] * i, spans]}


def _part(
    row: NDArray[Any], doc: Mapping[str, Any], mask_S: NDArray[np.bool_], size: int
) -> NDArray[Any]:
    """Those of a row's values that are a response's: first in it, last, or at its places."""
    if len(row) == len(mask_S):
        return row[mask_S][int(mask_S.sum()) - size :]
    return row[:size] if doc.get("prompts") is not None else row[max(len(row) - size, 0) :]


def _loss_mask(
    doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], prompt: int, where: str
) -> NDArray[np.bool_] | None:
    """The mask of all tokens, from that of all positions or of the response."""
    flags = _first(doc, _LOSS)
    if flags is None:
        return None
    row = _flags(flags, where, "loss_mask", i)
    if len(row) == len(mask_S):
        whole: NDArray[np.bool_] = row[mask_S]
        return whole
    return whole_mask(
        _part(row, doc, mask_S, int(mask_S.sum()) - prompt), prompt, int(mask_S.sum()), where
    )


def _scores(
    doc: Mapping[str, Any], i: int, mask_S: NDArray[np.bool_], size: int, where: str
) -> NDArray[np.float64] | None:
    """The log-probs of a response."""
    scores = _first(doc, _scored(doc))
    if scores is not None:
        return as_float64(_part(numbers_in(scores, where)[i], doc, mask_S, size))
    if doc.get(_NEXT) is None:
        return None
    row: NDArray[np.float64] = np.append(0.0, as_float64(numbers_in(doc[_NEXT], where)[i]))
    if len(row) != len(mask_S):
        raise FormatError(f"{where}: {_NEXT}: got {len(row) - 1}, expected {len(mask_S) - 1}")
    return row[mask_S][int(mask_S.sum()) - size :]
