"""Routes: the experts that every token of one sequence took in every MoE layer.

Shape suffixes: T tokens, L MoE layers, K top_k, E num_experts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import lt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .margins import Margins, least_margins

__all__ = [
    "Bools",
    "Ids",
    "Routes",
    "by_layer",
    "by_token",
    "ids_dtype",
    "put_layers",
    "words_of",
]

Ids = NDArray[np.unsignedinteger]
_UINT8: np.dtype[np.unsignedinteger] = np.dtype(np.uint8)
_UINT16: np.dtype[np.unsignedinteger] = np.dtype(np.uint16)
Bools = NDArray[np.bool_]
_TILE = 512  # rows that are moved at a time: those of all layers stay in the cache


def ids_dtype(num_experts: int) -> np.dtype[np.unsignedinteger]:
    """uint8 where num_experts <= 256, else uint16 (what vLLM 0.32 emits for the same E)."""
    if not 1 <= num_experts <= 65536:
        raise ValueError(f"num_experts must be in 1..65536, got {num_experts}")
    return _UINT8 if num_experts <= 256 else _UINT16


def words_of(ids_TLK: Ids) -> Ids:
    """The same bytes as the widest words that tile a row, the last axis."""
    row_bytes = ids_TLK.shape[-1] * ids_TLK.itemsize
    for dtype in (np.uint64, np.uint32, np.uint16):
        if row_bytes % np.dtype(dtype).itemsize == 0:
            return ids_TLK.view(dtype)
    return ids_TLK


def by_layer(ids_TLK: Ids) -> bool:
    """Whether the rows of each layer lie end to end, and those of one token apart."""
    row = ids_TLK.shape[2] * ids_TLK.itemsize
    together = ids_TLK.strides[0] == row and ids_TLK.strides[2] == ids_TLK.itemsize
    return together and not ids_TLK.flags.c_contiguous


def by_token(ids_TLK: Ids) -> Ids:
    """The same ids in C order: as they are, or a copy."""
    if ids_TLK.flags.c_contiguous:
        return ids_TLK
    found = np.empty(ids_TLK.shape, ids_TLK.dtype)
    put_layers(found, [ids_TLK[:, i] for i in range(ids_TLK.shape[1])])
    return found


def put_layers(out_RLX: NDArray[Any], layers: Sequence[NDArray[Any]]) -> None:
    """Lay rows that are given layer by layer, [R, ...] each, side by side: ``out_RLX[:, i]``.

    Some rows of all layers at a time: layer after layer takes four times as long.
    """
    if out_RLX.ndim > 2 and all(rows.dtype == out_RLX.dtype for rows in layers):
        out_RLX, layers = words_of(out_RLX), [words_of(rows) for rows in layers]
    for first in range(0, len(out_RLX), _TILE):
        tile = slice(first, first + _TILE)
        for i, rows in enumerate(layers):
            out_RLX[tile, i] = rows[tile]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Routes:
    """The checked routes of one sequence.

    ids_TLK      uint8 (E <= 256) or uint16, C order, token-major, or ``by_layer``. Row r is the
                 token at absolute position ``start + r`` as an input. The order inside K is as
                 stored.
    layers_L     0-based transformer layer number of each MoE layer, ascending.
    num_experts  E, every id that the router can give, zero experts too; every id of a row that is
                 there is below it.
    start        absolute position of row 0.
    missing_TL   bool, True where no route was captured; None when every row is there.
                 The ids of a missing row are 0 and mean nothing.
    margin_TL    float16 boundary margin of each row, the k-th minus the (k+1)-th selection score,
                 rounded outward by ``margins.margins_to_float16``: never below the true margin, 0
                 only for an exact tie, inf where K = E or beyond 65504, NaN where it is not known,
                 missing rows among them. No sign bit is set. None when no margin is known.
    group_margin_TL  float16, the same between the last kept and the best dropped group; inf in a
                 layer without groups. None when routing is not group-limited, or not known.

    Raises ValueError when the parts do not fit together.
    """

    ids_TLK: Ids
    layers_L: tuple[int, ...]
    num_experts: int
    start: int = 0
    missing_TL: Bools | None = field(default=None)
    margin_TL: Margins | None = field(default=None)
    group_margin_TL: Margins | None = field(default=None)

    def __post_init__(self) -> None:
        ids = self.ids_TLK
        fits = ids.ndim == 3 and ids.dtype == ids_dtype(self.num_experts)
        if not fits or not (ids.flags.c_contiguous or by_layer(ids)):
            raise ValueError(
                f"ids_TLK must be a C-ordered {ids_dtype(self.num_experts)} array [T, L, K], "
                f"got {ids.dtype} {ids.shape}"
            )
        if len(self.layers_L) != ids.shape[1] or not all(map(lt, self.layers_L, self.layers_L[1:])):
            raise ValueError(f"layers_L must be {ids.shape[1]} ascending layers: {self.layers_L}")
        if not 1 <= ids.shape[2] <= self.num_experts or ids.shape[1] < 1 or self.start < 0:
            raise ValueError(f"no routes have K, L or start like this: {ids.shape}, {self.start}")
        if ids.size and int(ids.max()) >= self.num_experts:
            raise ValueError(f"id {int(ids.max())} is not below num_experts {self.num_experts}")
        missing = self.missing_TL
        if missing is not None and (missing.shape != ids.shape[:2] or missing.dtype != np.bool_):
            raise ValueError(f"missing_TL must be bool {ids.shape[:2]}, got {missing.dtype}")
        if self.group_margin_TL is not None and self.margin_TL is None:
            raise ValueError("group_margin_TL comes beside margin_TL, which is None")
        self._check_margins("margin_TL", self.margin_TL)
        self._check_margins("group_margin_TL", self.group_margin_TL)

    def __repr__(self) -> str:
        gone = self.num_tokens * len(self.layers_L) - self.rows
        missing = f", {gone:,} rows missing" if gone else ""
        margins = "" if self.margin_TL is None else ", margins"
        return (
            f"<Routes: {self.num_tokens:,} tokens from position {self.start}, "
            f"{len(self.layers_L)} MoE layers, K {self.top_k}, E {self.num_experts}"
            f"{missing}{margins}>"
        )

    def _check_margins(self, name: str, margin_TL: Margins | None) -> None:
        if margin_TL is None:
            return
        shape = self.ids_TLK.shape[:2]
        if margin_TL.shape != shape or margin_TL.dtype != np.float16:
            raise ValueError(f"{name} must be float16 {shape}, got {margin_TL.dtype}")
        if margin_TL.size and int(margin_TL.view(np.uint16).max()) > 0x7FFF:
            raise ValueError(f"{name} has a sign bit set: margins_to_float16 makes none")
        if self.missing_TL is not None and not np.isnan(margin_TL[self.missing_TL]).all():
            raise ValueError(f"{name} must be NaN where a row is missing")

    def columns(self, columns: Sequence[int]) -> "Routes":
        """The same tokens with some of the layers, by their index into layers_L, ascending."""
        parts = self._rows(lambda array_TL: np.ascontiguousarray(array_TL[:, columns]))
        return replace(self, **parts, layers_L=tuple(self.layers_L[i] for i in columns))

    def between(self, first: int, end: int) -> "Routes":
        """The rows of positions ``first`` up to (not including) ``end`` alone; it may have none."""
        lo = max(first - self.start, 0)
        rows = slice(lo, max(end - self.start, lo))
        return replace(self, **self._rows(lambda array_TL: array_TL[rows]), start=self.start + lo)

    def only(self, keep: Bools) -> "Routes":
        """The same rows, those missing that are not kept; ``keep`` is bool [T] or [T, L]."""
        gone_TL = np.broadcast_to(
            ~keep if keep.ndim == 2 else ~keep[:, None], self.ids_TLK.shape[:2]
        )
        missing_TL = gone_TL.copy() if self.missing_TL is None else gone_TL | self.missing_TL

        def blank(array_TL: Any) -> Any:
            return np.where(missing_TL, array_TL.dtype.type(np.nan), array_TL)

        parts = {name: blank(array_TL) for name, array_TL in self._margins().items()}
        return replace(self, **parts, missing_TL=missing_TL)

    def _margins(self) -> dict[str, Margins]:
        """The margins of the rows, by field, those that there are."""
        named = {"margin_TL": self.margin_TL, "group_margin_TL": self.group_margin_TL}
        return {name: array_TL for name, array_TL in named.items() if array_TL is not None}

    def _rows(self, part: Callable[[Any], Any]) -> dict[str, Any]:
        """A part of everything that has an entry for each row, by field."""
        arrays: dict[str, Any] = {"ids_TLK": self.ids_TLK, **self._margins()}
        if self.missing_TL is not None:
            arrays["missing_TL"] = self.missing_TL
        return {name: part(array) for name, array in arrays.items()}

    @property
    def least_margin_TL(self) -> Margins | None:  # noqa: N802
        """How near each row was to another selection: the smaller of its margins that are known."""
        if self.margin_TL is None or self.group_margin_TL is None:
            return self.margin_TL
        return least_margins(self.margin_TL, self.group_margin_TL)

    @property
    def num_tokens(self) -> int:
        """T, the tokens that have a place here, missing rows included."""
        return int(self.ids_TLK.shape[0])

    @property
    def top_k(self) -> int:
        """K."""
        return int(self.ids_TLK.shape[2])

    @property
    def stop(self) -> int:
        """Absolute position after the last row."""
        return self.start + self.num_tokens

    @property
    def rows(self) -> int:
        """Rows that are there: T x L less the missing ones."""
        total = self.num_tokens * len(self.layers_L)
        return total if self.missing_TL is None else total - int(self.missing_TL.sum())
