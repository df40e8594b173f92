"""Two samples of the same tokens, laid side by side: common layers, common positions.

Shape suffixes: T tokens, L compared layers, K top_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...dump import DumpMeta, Sample
from ...errors import MismatchError
from ...margins import Margins
from ...routes import Bools, Ids, Routes

__all__ = ["TOKENS", "Aligner", "Extent", "Pair", "checked", "common_layers", "name_at", "name_of"]

TOKENS = ("all", "prompt", "response")
_END = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The same tokens and layers of two samples; T is 0 where they have nothing in common.

    position is the absolute position of row 0; skip_TL marks rows missing on either side;
    the margins of a side are None where its sample has none;
    prefix is how many leading tokens are known to agree, None when one side does not know its
    tokens.
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


def name_of(sample: Sample, index: int) -> str:
    """The sample's id, else its place in the dump."""
    return sample.sample_id if sample.sample_id is not None else f"#{index}"


def name_at(columns: SampleColumns, place: int) -> str:
    """``name_of`` the sample at a place of columns."""
    name = columns.names[place]
    return f"#{columns.first + place}" if name is None else name


def checked(routes: Routes, meta: DumpMeta) -> Routes:
    """The routes, of the layers, E and K of their dump; ValueError when a dump mixes models."""
    shape = (routes.layers_L, routes.num_experts, routes.top_k)
    if shape != (meta.layers_L, meta.num_experts, meta.top_k):
        raise ValueError(f"routes of another model than their dump's: layers, E, K are {shape}")
    return routes


def common_layers(
    old: DumpMeta, new: DumpMeta, wanted: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Layers of both, of old alone and of new alone; the models must be of one shape.

    Of wanted layers none is of one side alone.
    """
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
    if wanted is not None:
        return tuple(both), (), ()
    return (
        tuple(both),
        tuple(layer for layer in old.layers_L if layer not in new.layers_L),
        tuple(layer for layer in new.layers_L if layer not in old.layers_L),
    )


def _ranges(layers: Sequence[int]) -> str:
    return f"{layers[0]}..{layers[-1]} ({len(layers)})" if layers else "none"


class _Side:
    """One dump's part: picks rows and columns out of its samples; alone are its own layers."""

    def __init__(self, meta: DumpMeta, layers: Sequence[int], alone: Sequence[int]) -> None:
        self.meta = meta
        self.columns = self._columns(layers)
        self.alone = self._columns(alone)
        self.counted = self._columns(sorted({*layers, *alone}))

    def _columns(self, layers: Sequence[int]) -> list[int] | None:
        """Where layers are; None for all."""
        if tuple(layers) == self.meta.layers_L:
            return None
        return [self.meta.layers_L.index(layer) for layer in layers]

    def _rows(self, sample: Sample, lo: int, hi: int) -> tuple[Routes, slice]:
        """The routes, and which of their rows are of positions lo..hi-1."""
        assert sample.routes is not None
        routes = checked(sample.routes, self.meta)
        begin = max(lo - routes.start, 0)
        return routes, slice(begin, max(hi - routes.start, begin))

    def _wanted(self, array_TL: Any, rows: slice) -> Any:
        """Rows and the wanted columns of an array; None stays None."""
        return _part(array_TL, rows, self.columns)

    def window(self, sample: Sample, lo: int, hi: int) -> tuple[Ids, Bools | None, Margins | None]:
        """Ids, missing rows and margins of positions lo..hi-1, as far as they are there."""
        routes, rows = self._rows(sample, lo, hi)
        ids, margin_TL = self._wanted(routes.ids_TLK, rows), routes.least_margin_TL
        return ids, self._wanted(routes.missing_TL, rows), self._wanted(margin_TL, rows)

    def present(self, sample: Sample, lo: int, hi: int, columns: list[int] | None) -> int:
        """How many rows of positions lo..hi-1 are there, in some columns; None for all."""
        if sample.routes is None or columns == []:
            return 0
        routes, rows = self._rows(sample, lo, hi)
        missing = _part(routes.missing_TL, rows, columns)
        layers = len(routes.layers_L) if columns is None else len(columns)
        size = len(range(*rows.indices(routes.num_tokens)))
        return size * layers - (0 if missing is None else int(missing.sum()))

    def missing(self, sample: Sample, lo: int, hi: int) -> Bools | None:
        """Rows of positions lo..hi-1 that are missing, bool [T, L]; None where none is."""
        routes, rows = self._rows(sample, lo, hi)
        return self._wanted(routes.missing_TL, rows)  # type: ignore[no-any-return]


def _part(array_TL: Any, rows: slice, columns: list[int] | None) -> Any:
    """Rows and columns of an array; None stays None, and columns None are all."""
    if array_TL is None or columns is None:
        return None if array_TL is None else array_TL[rows]
    return np.ascontiguousarray(array_TL[rows][:, columns])


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows that two samples have in the selected tokens.

    old, new              in the compared layers
    alone_old, alone_new  in the layers of one side alone
    lost_old, lost_new    of old, of new: those that the other side lacks though nothing says that
                          it leaves them out. What says so: a start that is declared, a loss mask,
                          the last token, which an engine never feeds, and tokens that part
    """

    old: int
    new: int
    alone_old: int
    alone_new: int
    lost_old: int
    lost_new: int


def _lost(have: tuple[_Side, Sample], lack: tuple[_Side, Sample], first: int, end: int) -> int:
    """Rows of positions first..end-1 that one side has and the other lost."""
    (side, sample), (other_side, other) = have, lack
    if sample.routes is None:
        return 0
    lo, hi = max(first, sample.routes.start), max(min(end, sample.routes.stop), 0)
    routes = other.routes
    if routes is None:
        return side.present(sample, lo, hi, side.columns)
    if not other.start_inferred:
        lo = max(lo, routes.start)
    begin, stop = min(max(lo, routes.start), hi), min(hi, routes.stop)
    if lo >= hi or (routes.missing_TL is None and begin == lo and stop == hi):
        return 0
    layers = len(side.meta.layers_L) if side.columns is None else len(side.columns)
    lost_TL = np.ones((hi - lo, layers), np.bool_)
    absent_TL = side.missing(sample, lo, hi)
    if absent_TL is not None:
        lost_TL &= ~absent_TL
    if begin < stop:
        there_TL = other_side.missing(other, begin, stop)
        lost_TL[begin - lo : stop - lo] &= False if there_TL is None else there_TL
    if other.loss_mask is not None:
        lost_TL[_masked_out(other.loss_mask, lo, hi)] = False
    return int(lost_TL.sum())


def _masked_out(loss_mask: Bools, lo: int, hi: int) -> Bools:
    """Positions lo..hi-1 that a loss mask leaves out, as the token fed or as the token made."""
    trained = np.ones(max(hi + 1, len(loss_mask)), np.bool_)
    trained[: len(loss_mask)] = loss_mask
    return ~(trained[lo:hi] & trained[lo + 1 : hi + 1])


def _fed(old: Sample, new: Sample) -> int:
    """How many tokens a model was fed: all but the last, as far as either side knows."""
    known = [s.num_tokens for s in (old, new) if s.num_tokens is not None]
    stops = [s.routes.stop for s in (old, new) if s.routes is not None]
    return max(known or stops, default=1) - 1


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

    layers are those of both, of old alone and of new alone, as of ``common_layers``. tokens is one
    of TOKENS; response starts at the first generated token as an input. by_prompt tells that the
    samples are known to share the prompt only, unless their token ids say more.
    """

    def __init__(
        self,
        old: DumpMeta,
        new: DumpMeta,
        layers: tuple[Sequence[int], Sequence[int], Sequence[int]],
        tokens: str,
        *,
        by_prompt: bool,
    ) -> None:
        both, of_old, of_new = layers
        self.old, self.new = _Side(old, both, of_old), _Side(new, both, of_new)
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

    def _prefix(self, old: Sample, new: Sample) -> int | None:
        """How many leading tokens are known to agree; None where that is not known."""
        prefix = _prefix(old.token_ids, new.token_ids)
        if prefix is None and self.by_prompt:
            prefix = _prefix(old.prompt_ids, new.prompt_ids)
        return prefix

    def extent(self, old: Sample, new: Sample, name: str) -> Extent:
        """How many rows each side has in the selected tokens, and lacks of the other's."""
        first, end = self._selected(old, new, name)
        counts = []
        for side, sample in ((self.old, old), (self.new, new)):
            counts += [side.present(sample, first, end, c) for c in (side.columns, side.alone)]
        prefix = self._prefix(old, new)
        end = min(end, _fed(old, new), _END if prefix is None else prefix)
        sides = (self.old, old), (self.new, new)
        return Extent(
            old=counts[0],
            new=counts[2],
            alone_old=counts[1],
            alone_new=counts[3],
            lost_old=_lost(*sides, first, end),
            lost_new=_lost(*sides[::-1], first, end),
        )

    def rows_alone(self, sample: Sample, *, is_new: bool) -> int:
        """Rows of a sample without a partner, in the layers that its side is compared by.

        All of them where the prompt's length, which a selection of tokens needs, is not known.
        """
        side, split = self.new if is_new else self.old, sample.prompt_length
        first = split if split is not None and self.tokens == "response" else 0
        end = split if split is not None and self.tokens == "prompt" else _END
        return side.present(sample, first, end, side.counted)

    def pair(self, old: Sample, new: Sample, name: str) -> Pair:
        """Lay two samples with routes side by side."""
        assert old.routes is not None
        assert new.routes is not None
        first, end = self._selected(old, new, name)
        prefix = self._prefix(old, new)
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
        )
