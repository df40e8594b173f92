"""Two samples of the same tokens, laid side by side: common layers, common positions.

Shape suffixes: T tokens, L compared layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import DumpMeta, Sample
from ...errors import MismatchError
from ...margins import Margins
from ...routes import Bools, Ids, Routes

__all__ = ["TOKENS", "Aligner", "Pair", "checked", "common_layers", "name_of"]

TOKENS = ("all", "prompt", "response")
_END = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The same tokens and layers of two samples; T is 0 where they have nothing in common.

    position is the absolute position of row 0; skip_TL marks rows missing on either side;
    the margins of a side are None where its sample has none;
    rows_old and rows_new count what each side has in the selected tokens; prefix is how many
    leading tokens are known to agree, None when one side does not know its tokens.
    """

    name: str
    old_TLK: Ids
    new_TLK: Ids
    skip_TL: Bools | None
    old_margin_TL: Margins | None
    new_margin_TL: Margins | None
    position: int
    prompt_length: int | None
    cached: int
    prefix: int | None
    rows_old: int
    rows_new: int


def name_of(sample: Sample, index: int) -> str:
    """The sample's id, else its place in the dump."""
    return sample.sample_id if sample.sample_id is not None else f"#{index}"


def checked(routes: Routes, meta: DumpMeta) -> Routes:
    """The routes, of the layers, E and K of their dump; ValueError when a dump mixes models."""
    shape = (routes.layers_L, routes.num_experts, routes.top_k)
    if shape != (meta.layers_L, meta.num_experts, meta.top_k):
        raise ValueError(f"routes of another model than their dump's: layers, E, K are {shape}")
    return routes


def common_layers(
    old: DumpMeta, new: DumpMeta, wanted: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Layers of both, of old alone and of new alone; the models must be of one shape."""
    for name in ("top_k", "num_experts", "id_space"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            raise MismatchError(
                f"{old.path} and {new.path} cannot be compared: {name} is {a} in OLD and {b} in NEW"
            )
    both = [layer for layer in old.layers_L if layer in new.layers_L]
    if wanted is not None:
        absent = [layer for layer in wanted if layer not in both]
        if absent:
            raise MismatchError(
                f"layers {absent} are not MoE layers of both dumps: those are {_ranges(both)}"
            )
        both = sorted(set(wanted))
    if not both:
        raise MismatchError(
            f"no common layer: OLD has {_ranges(old.layers_L)}, NEW has {_ranges(new.layers_L)}"
        )
    return (
        tuple(both),
        tuple(layer for layer in old.layers_L if layer not in new.layers_L),
        tuple(layer for layer in new.layers_L if layer not in old.layers_L),
    )


def _ranges(layers: Sequence[int]) -> str:
    return f"{layers[0]}..{layers[-1]} ({len(layers)})" if layers else "none"


class _Side:
    """One dump's part: picks rows and columns out of its samples."""

    def __init__(self, meta: DumpMeta, layers: Sequence[int]) -> None:
        self.meta = meta
        same = tuple(layers) == meta.layers_L
        self.columns = None if same else [meta.layers_L.index(layer) for layer in layers]

    def _rows(self, sample: Sample, lo: int, hi: int) -> tuple[Routes, slice]:
        """The routes, and which of their rows are of positions lo..hi-1."""
        assert sample.routes is not None
        routes = checked(sample.routes, self.meta)
        begin = max(lo - routes.start, 0)
        return routes, slice(begin, max(hi - routes.start, begin))

    def _wanted(self, array_TL: Any, rows: slice) -> Any:
        """Rows and the wanted columns of an array; None stays None."""
        if array_TL is None or self.columns is None:
            return None if array_TL is None else array_TL[rows]
        return np.ascontiguousarray(array_TL[rows][:, self.columns])

    def window(self, sample: Sample, lo: int, hi: int) -> tuple[Ids, Bools | None, Margins | None]:
        """Ids, missing rows and margins of positions lo..hi-1, as far as they are there."""
        routes, rows = self._rows(sample, lo, hi)
        ids, margin_TL = self._wanted(routes.ids_TLK, rows), routes.least_margin_TL
        return ids, self._wanted(routes.missing_TL, rows), self._wanted(margin_TL, rows)

    def present(self, sample: Sample, lo: int, hi: int) -> int:
        """How many rows of positions lo..hi-1 are there."""
        if sample.routes is None:
            return 0
        routes, rows = self._rows(sample, lo, hi)
        missing = self._wanted(routes.missing_TL, rows)
        layers = len(routes.layers_L) if self.columns is None else len(self.columns)
        size = len(range(*rows.indices(routes.num_tokens)))
        return size * layers - (0 if missing is None else int(missing.sum()))


def _prefix(a: NDArray[np.int32] | None, b: NDArray[np.int32] | None) -> int | None:
    """Tokens before two sequences part; None when one of them is not known."""
    if a is None or b is None:
        return None
    size = min(len(a), len(b))
    parted = np.flatnonzero(a[:size] != b[:size])
    return int(parted[0]) if len(parted) else size


def _prompt_length(old: Sample, new: Sample) -> int | None:
    return new.prompt_length if old.prompt_length is None else old.prompt_length


class Aligner:
    """Lays pairs of samples side by side for one choice of layers and tokens.

    tokens is one of TOKENS; response starts at the first generated token as an input. by_prompt
    tells that the samples are known to share the prompt only, unless their token ids say more.
    """

    def __init__(
        self, old: DumpMeta, new: DumpMeta, layers: Sequence[int], tokens: str, *, by_prompt: bool
    ) -> None:
        self.old, self.new = _Side(old, layers), _Side(new, layers)
        self.tokens = tokens
        self.by_prompt = by_prompt

    def _selected(self, old: Sample, new: Sample, name: str) -> tuple[int, int]:
        """The first selected position and the one after the last."""
        prompt_length = _prompt_length(old, new)
        if self.tokens == "all":
            return 0, _END
        if prompt_length is None:
            raise MismatchError(
                f"sample {name}: --tokens {self.tokens} needs the prompt length, "
                "which neither side knows"
            )
        return (0, prompt_length) if self.tokens == "prompt" else (prompt_length, _END)

    def rows(self, old: Sample, new: Sample, name: str) -> tuple[int, int]:
        """How many rows each side has in the selected tokens."""
        first, end = self._selected(old, new, name)
        return self.old.present(old, first, end), self.new.present(new, first, end)

    def pair(self, old: Sample, new: Sample, name: str) -> Pair:
        """Lay two samples with routes side by side."""
        assert old.routes is not None
        assert new.routes is not None
        first, end = self._selected(old, new, name)
        rows_old, rows_new = self.rows(old, new, name)
        prefix = _prefix(old.token_ids, new.token_ids)
        if prefix is None and self.by_prompt:
            prefix = _prefix(old.prompt_ids, new.prompt_ids)
        lo = max(first, old.routes.start, new.routes.start)
        hi = min(end, old.routes.stop, new.routes.stop, _END if prefix is None else prefix)
        old_TLK, old_missing, old_margin_TL = self.old.window(old, lo, hi)
        new_TLK, new_missing, new_margin_TL = self.new.window(new, lo, hi)
        masks = [m for m in (old_missing, new_missing) if m is not None]
        return Pair(
            name=name,
            old_TLK=old_TLK,
            new_TLK=new_TLK,
            skip_TL=np.logical_or.reduce(masks) if masks else None,
            old_margin_TL=old_margin_TL,
            new_margin_TL=new_margin_TL,
            position=lo,
            prompt_length=_prompt_length(old, new),
            cached=max(old.cached_tokens or 0, new.cached_tokens or 0),
            prefix=prefix,
            rows_old=rows_old,
            rows_new=rows_new,
        )
