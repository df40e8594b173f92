"""Which axis is what: rows, layers and experts of an array, told by its shape and by its ids.

Shape suffixes: T rows, W layers as written, K top_k.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...damage import Fault
from ...errors import FormatError
from ...model import ModelFacts
from .payload import IntArray

__all__ = [
    "TokenExtent",
    "as_rows",
    "ids_hint",
    "is_constant",
    "lightllm_axes",
    "model_hint",
    "raw_rows",
    "rows_of_flat",
    "shared_slots",
    "sizes_of_row",
]

_MOST_SHARED = 8  # slots beyond K that shared experts may have
_DISTINCT = 0.9  # of the rows have no id twice where they are read by the right top_k
_SURE = 16  # rows from which a slot that never changes is no chance
_TURNED = ((1, 0, 2), (0, 2, 1), (2, 0, 1), (1, 2, 0), (2, 1, 0))  # axes to rows, layers, experts


@dataclass(frozen=True, slots=True)
class TokenExtent:
    """What is known of how many rows there are to be: tokens, those of them sampled, the start."""

    tokens: int | None = None
    response: int | None = None
    start: int | None = None

    @property
    def likely(self) -> tuple[int, ...]:
        """The counts of rows that engines and trainers give, the likeliest first."""
        if self.tokens is None:
            return ()
        left = self.tokens - (self.start or 0)
        return tuple(n for n in (left - 1, left, left - 2) if n >= 0)

    def may_be(self, rows: int) -> bool:
        """Whether an engine gives so many rows: exactly these, or any late start's."""
        if self.tokens is None or self.start is not None:
            return rows in self.likely
        return (self.response or 0) - 1 <= rows <= self.tokens


def _widths(facts: ModelFacts) -> tuple[int, ...]:
    return tuple(dict.fromkeys((facts.num_layers, len(facts.layers))))


def _too_wide(facts: ModelFacts) -> tuple[int, ...]:
    """Layer counts with MTP layers' columns, or with one column too many."""
    beyond = dict.fromkeys((max(facts.mtp_layers, 1), 1))
    wide = (width + more for more in beyond for width in reversed(_widths(facts)))
    return tuple(width for width in wide if width not in _widths(facts))


def model_hint(facts: ModelFacts) -> str:
    """What to do where routes do not fit their model, which is named."""
    source = facts.source or "what was given"
    return f"the model is that of {source}: --model names the one that ran"


def ids_hint(facts: ModelFacts, highest: int) -> str:
    """The same where an id is beyond its experts: it may be a physical one."""
    if highest < facts.num_experts:
        return model_hint(facts)
    flags = "--expert-map FILE, or of one dump alone PATH::expert_map=FILE"
    return f"{model_hint(facts)}; physical ids (EPLB) need {flags}: {highest + 1} experts or more"


def sizes_of_row(facts: ModelFacts) -> Iterator[tuple[int, int]]:
    """Layers and ids of a row as they may be written: the model's own first."""
    for width in _widths(facts):
        yield width, facts.top_k
    for width in _widths(facts):
        for more in range(1, _MOST_SHARED + 1):
            yield width, facts.top_k + more
    for width in _too_wide(facts):
        yield width, facts.top_k


def raw_rows(
    data: bytes, facts: ModelFacts, extent: TokenExtent, where: str
) -> tuple[IntArray, tuple[Fault, ...]]:
    """Raw little-endian int32 as [T, W, K], and what is wrong with the number of its bytes.

    Source: SGLang 0.5.23: base64 of the int32 tensor's bytes, C order, no header: all layers,
    unless the rows fit the MoE layers alone. Raises FormatError where only another model fits.
    """
    flat: IntArray = np.frombuffer(data[: len(data) // 4 * 4], "<i4")
    whole = len(data) % 4 == 0 and flat.size > 0
    sizes, own = list(sizes_of_row(facts)), [(w, facts.top_k) for w in _widths(facts)]
    exact = [(w, k) for n in extent.likely for w, k in sizes if whole and n * w * k == flat.size]
    for width, slots in (size for size in exact if size in own):
        return flat.reshape(-1, width, slots), ()
    for width, slots in (size for size in sizes if whole and size[1] != facts.top_k):
        if flat.size % (width * slots) == 0:
            cut = flat.reshape(-1, width, slots)
            if (cut != cut[..., :1]).any() and shared_slots(cut, facts) is not None:
                return cut, ()
    for width, slots in (size for size in exact if size[1] == facts.top_k):
        return flat.reshape(-1, width, slots), ()
    cuts = [flat.reshape(-1, w, k) for w, k in own if whole and flat.size % (w * k) == 0]
    likely = [cut for cut in cuts if extent.may_be(len(cut))]
    if likely:
        return _without_dense_routes(likely, facts), ()
    rows = extent.likely[0] if extent.likely else 0
    if whole and rows and _of_another_model(flat, rows, facts):
        raise FormatError(
            f"{where}: routed_experts: got {flat.size // rows} ids for each of {rows} rows, "
            f"expected {' or '.join(f'{w} layers x top-{k}' for w, k in own)}",
            hint=model_hint(facts),
        )
    if cuts:
        return _without_dense_routes(cuts, facts), ()
    if not len(data):
        return flat.reshape(0, 0, 0), ()
    width = min((w for w, _ in own), key=lambda w: abs(flat.size / (w * facts.top_k) - rows))
    size = width * facts.top_k
    fault = Fault(
        "bytes",
        f"routed_experts: got {len(data)} bytes of raw int32, expected a multiple of "
        f"{4 * size} = 4 bytes x {width} layers x top-{facts.top_k}",
        f"{len(data) / (4 * size):.2f} rows",
    )
    return flat[: flat.size // size * size].reshape(-1, width, facts.top_k), (fault,)


def _without_dense_routes(cuts: Sequence[IntArray], facts: ModelFacts) -> IntArray:
    """The first of several readings that has no routes in a dense layer's column."""
    for cut in cuts:
        dense = set(range(cut.shape[1])) - set(facts.layers)
        if cut.shape[1] == len(facts.layers) or all(is_constant(cut[:, i]) for i in dense):
            return cut
    return cuts[0]


def _of_another_model(flat: IntArray, rows: int, facts: ModelFacts) -> bool:
    """Whether ids are the right number of rows of other layers, or of another top_k.

    Of another top_k they repeat within K of them.
    """
    each, widths, top_k = flat.size // rows, _widths(facts), facts.top_k
    if flat.size % rows or not each or any(each % (width * top_k) == 0 for width in widths):
        return False
    if each % top_k == 0:
        return True
    ordered = np.sort(flat[: flat.size // top_k * top_k].reshape(-1, top_k), axis=1)
    distinct = (np.diff(ordered, axis=1) != 0).all(axis=1).mean() > _DISTINCT
    return any(each % width == 0 for width in widths) and not distinct


def rows_of_flat(ids: IntArray, facts: ModelFacts) -> IntArray:
    """Rows with their layers end to end, [T, W x K], as [T, W, K]; any other array as it is.

    Source: Relax has them so.
    """
    if ids.ndim != 2:
        return ids
    for width, slots in sizes_of_row(facts):
        if ids.shape[1] == width * slots:
            cut = ids.reshape(len(ids), width, slots)
            if slots == facts.top_k or shared_slots(cut, facts) is not None:
                return cut
    if ids.shape[1] % facts.top_k:
        return ids
    return ids.reshape(len(ids), -1, facts.top_k)


def shared_slots(ids_TWK: IntArray, facts: ModelFacts) -> list[int] | None:
    """The slots beyond K that shared experts have in every row; None where these are none.

    A shared expert is an id from E on, or one id in all rows; rows of one id throughout are filler.
    """
    more = ids_TWK.shape[2] - facts.top_k
    if not 0 < more <= _MOST_SHARED:
        return None
    rows_NK = ids_TWK[(ids_TWK != ids_TWK[..., :1]).any(axis=2)]
    if not len(rows_NK):
        return list(range(facts.top_k, ids_TWK.shape[2]))
    shared: Any = (rows_NK >= facts.num_experts).all(axis=0)
    if len(rows_NK) >= _SURE:
        shared |= (rows_NK == rows_NK[0]).all(axis=0)
    found = [int(slot) for slot in np.flatnonzero(shared)]
    return found if len(found) == more else None


def is_constant(column_TK: IntArray) -> bool:
    """Whether a layer's column holds one id throughout, rows of -1 aside."""
    column = column_TK[(column_TK != -1).any(axis=1)]
    return not column.size or bool((column == column.flat[0]).all())


def _columns(ids_TWK: IntArray, facts: ModelFacts) -> tuple[slice, str] | None:
    """The columns that are the model's where there are more, and what the others are."""
    width, moe = ids_TWK.shape[1], len(facts.layers)
    dense = [layer for layer in range(facts.num_layers) if layer not in facts.layers]
    if width == moe:
        return slice(None), ""
    if width == facts.num_layers:
        if all(is_constant(ids_TWK[:, layer]) for layer in dense):
            return slice(None), ""
        bases: tuple[int, ...] = (moe,)
    else:
        bases = tuple(reversed(_widths(facts)))
    for base in bases:
        more = width - base
        if more > 0 and more == facts.mtp_layers:
            return slice(0, base), f"{base} and {more} of MTP behind them"
    for base in bases:
        if width - base == 1 and is_constant(ids_TWK[:, -1]):
            return slice(0, base), f"{base} and a last one that was never written"
        if width - base == 1 and is_constant(ids_TWK[:, 0]):
            return slice(1, None), f"{base} behind a first one that was never written"
    return (slice(None), "") if width == facts.num_layers else None


def _mended(ids_TWK: IntArray, facts: ModelFacts) -> tuple[IntArray, list[Fault]] | None:
    """The model's slots and columns of an array whose axes are in order; None where it has none."""
    width, slots = ids_TWK.shape[1:]
    if width not in (*_widths(facts), *_too_wide(facts)):
        return None
    faults = []
    if slots != facts.top_k:
        shared = shared_slots(ids_TWK, facts)
        if shared is None:
            return None
        kept = [slot for slot in range(slots) if slot not in shared]
        values = np.unique(ids_TWK[..., shared].max(axis=(0, 1), initial=0)).tolist()
        what = f"id {values[0]}" if len(values) == 1 else f"ids {values[0]} to {values[-1]}"
        at = "last" if shared[-1] == slots - 1 else "first" if shared[0] == 0 else "one"
        text = f"got rows of {slots} ids, expected top_k = {facts.top_k}: the {at} is a shared"
        faults.append(Fault("slots", f"{text} expert's, {what}", f"{what} in the {at} slot"))
        ids_TWK = ids_TWK[..., kept]
    columns = _columns(ids_TWK, facts)
    if columns is None:
        return None
    part, what = columns
    if what:
        faults.append(Fault("layers", f"got {width} layers, expected {what}", what))
    return ids_TWK[:, part], faults


def as_rows(
    ids: IntArray, facts: ModelFacts, extent: TokenExtent, where: str, *, layers_first: bool | None
) -> tuple[IntArray, list[Fault]]:
    """An array [T, W, K] with the axes, layers and slots of the model, and what was mended.

    layers_first  True where the file's form is [W, T, K]; None where it may be: then an array that
                  fits as such is no fault.

    Rows may be any number. Raises FormatError where no order of the axes fits the model.
    """
    if ids.ndim != 3 or ids.dtype.kind not in "iu":
        raise FormatError(
            f"{where}: got {ids.dtype} {ids.shape}, expected integers [rows, layers, top_k]"
        )
    first = (1, 0, 2) if layers_first else (0, 1, 2)
    plain = _mended(ids.transpose(first), facts)
    if plain is not None:
        return np.ascontiguousarray(plain[0]) if layers_first else plain[0], plain[1]
    for axes in _turns(ids, extent):
        turned = None if axes == first else _mended(ids.transpose(axes), facts)
        if turned is None:
            continue
        if axes == (1, 0, 2) and layers_first is None:
            return np.ascontiguousarray(turned[0]), turned[1]
        names = ["", "", ""]
        for place, name in zip(axes, ("rows", "layers", "top_k"), strict=True):
            names[place] = name
        said = f"[{', '.join(names)}]"
        text = f"got {list(ids.shape)}, which is {said}, expected [rows, layers, top_k]"
        dense = len(facts.layers) < turned[0].shape[1]
        detail = f"{list(ids.shape)} is {said}" + (", dense layers too" if dense else "")
        return turned[0], [Fault("axes", text, detail), *turned[1]]
    raise _unfit(ids, facts, where)


def lightllm_axes(ids: IntArray, facts: ModelFacts, extent: TokenExtent, where: str) -> bool | None:
    """Whether lightllm's array is [layers, rows, top_k]; None where its sizes fit neither way.

    Its answers were so, and are [rows, layers, top_k] since (lightllm 87881ae7,
    moe_route_info_manager.py extract). Raises FormatError where both fit: sizes alone tell them.
    """
    if ids.ndim != 3:
        return None
    one, two, _ = ids.shape
    rows_first = two in _widths(facts) and extent.may_be(one)
    layers_first = one in _widths(facts) and extent.may_be(two)
    if rows_first and layers_first:
        raise FormatError(
            f"{where}: routed_experts {list(ids.shape)}: lightllm writes [rows, layers, top_k], "
            "and wrote [layers, rows, top_k] before: both fit",
            hint="save it as an array of [rows, layers, top_k]",
        )
    return layers_first if rows_first or layers_first else None


def _turns(ids: IntArray, extent: TokenExtent) -> list[tuple[int, int, int]]:
    """Orders of the axes other than rows, layers, experts; first those that give a likely count."""
    every = ((0, 1, 2), *_TURNED)
    return sorted(every, key=lambda axes: not extent.may_be(ids.shape[axes[0]]))


def _unfit(ids: IntArray, facts: ModelFacts, where: str) -> FormatError:
    if ids.shape[2] != facts.top_k:
        wrong = f"got rows of {ids.shape[2]} ids, expected top_k = {facts.top_k}"
    else:
        wrong = (
            f"got {ids.shape[1]} layers, expected {facts.num_layers} (all layers) or "
            f"{len(facts.layers)} (MoE layers)"
        )
    return FormatError(f"{where}: {wrong}", hint=model_hint(facts))
