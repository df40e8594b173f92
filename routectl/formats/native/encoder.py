"""A row group's routes as coded columns: rows held already are left out, the rest goes to a codec.

Shape suffixes: T tokens, L MoE layers, K top_k, N tokens of a sequence.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...codecs import codec_named
from ...codecs.block import Block, Codec
from ...codecs.dictionary import TokenDictionary
from ...codecs.orders import pack_orders
from ...codecs.row_kernels import repeats_in, sorted_rows
from ...dump import Dump, DumpMeta, Sample, digest_tokens
from ...errors import MismatchError
from ...gate_logprobs import own_gates
from ...routes import Ids, Routes, words_of
from .cells import Head, Held, about_of, held_of, put_count, put_head
from .schema import coded_name

__all__ = ["Coding", "as_coded", "code_group", "coded_sample"]


@dataclass(frozen=True, slots=True)
class Coding:
    """How to code: the codec's name, whether slot orders are kept, the base or the dictionary that
    it needs, and whether the dictionary goes into the file.

    Raises UnsupportedError for a codec that is not known, MismatchError for a base or a dictionary
    where none is needed and for none where one is.
    """

    codec: str
    keep_order: bool = False
    base: Dump | None = None
    dictionary: TokenDictionary | None = None
    stores: bool = False
    indices: dict[bytes, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        needs = codec_named(self.codec).needs
        if ("dictionary" in needs) != (self.dictionary is not None):
            what = "codes with a" if self.dictionary is None else "takes no"
            raise MismatchError(f"codec {self.codec} {what} dictionary", hint="--dictionary DICT")
        needed = "base" in needs
        if needed and self.base is None:
            raise MismatchError(f"codec {self.codec} codes against a base", hint="--base DUMP")
        if self.base is not None and not needed:
            raise MismatchError(f"codec {self.codec} takes no base", hint="--codec delta")
        for i, key in enumerate(self.base.keys if self.base is not None else ()):
            if key.tokens is not None:
                self.indices.setdefault(key.tokens, i)

    @property
    def against(self) -> Dump | TokenDictionary | None:
        """What a reader has to be given, or finds in the file."""
        return self.dictionary if self.base is None else self.base

    @property
    def sorts(self) -> bool:
        """Whether rows come back ascending."""
        return not (self.keep_order or codec_named(self.codec).keeps_order)


def as_coded(routes: Routes, *, sorts: bool) -> Routes:
    """Routes as they come back: the ids of missing rows 0, and those of others ascending."""
    ids = routes.ids_TLK
    if sorts:
        ids = sorted_rows(ids.reshape(-1, routes.top_k)).reshape(ids.shape)
    if routes.missing_TL is not None and ids[routes.missing_TL].any():
        ids = np.where(routes.missing_TL[..., None], ids.dtype.type(0), ids)
    return routes if ids is routes.ids_TLK else replace(routes, ids_TLK=ids)


def coded_sample(sample: Sample, *, sorts: bool) -> Sample:
    """A sample as it comes back; weights of its own routes go along with their slots."""
    routes = sample.routes
    if routes is None:
        return sample
    coded, gates = as_coded(routes, sorts=sorts), sample.gates
    if sorts and gates is not None and gates.is_of_own_routes:
        order_TLK = np.argsort(routes.ids_TLK, axis=2, kind="stable")
        moved = np.take_along_axis(gates.logprobs_TLK, order_TLK, axis=2)
        gates = own_gates(np.ascontiguousarray(moved), coded)
    return replace(sample, routes=coded, gates=gates)


def _sources(samples: Sequence[Sample]) -> list[int | None]:
    """For each sample the earlier one with most tokens in common that its rows can come from.

    Of sequences in dictionary order, a neighbour has the longest common prefix; where the source of
    that neighbour serves as well, it is taken, so that siblings all have the first as theirs.
    """
    found: list[int | None] = []
    known: list[tuple[bytes, int]] = []
    for i, sample in enumerate(samples):
        tokens = sample.token_ids
        best, most = None, 0
        if sample.routes is not None and tokens is not None:
            entry = (tokens.astype(">u4").tobytes(), i)
            at = bisect_left(known, entry)
            for _, j in known[max(0, at - 1) : at + 1]:
                rows = _common_rows(sample, samples[j])
                best, most = (j, rows) if rows > most else (best, most)
            insort(known, entry)
            while best is not None and (first := found[best]) is not None:
                if _common_rows(sample, samples[first]) < most:
                    break
                best = first
        found.append(best)
    return found


def _common_rows(sample: Sample, source: Sample) -> int:
    """Leading rows that follow from the same tokens in both, and have a place in the source."""
    mine, other = sample.token_ids, source.token_ids
    routes, of = sample.routes, source.routes
    if routes is None or of is None or mine is None or other is None or of.start > routes.start:
        return 0
    length = min(len(mine), len(other))
    differ = np.flatnonzero(mine[:length] != other[:length])
    prefix = int(differ[0]) if len(differ) else length
    return max(0, min(routes.num_tokens, prefix - routes.start, of.stop - routes.start))


def _shared_rows(sample: Sample, source: Sample) -> list[int]:
    """For each layer, how many leading rows of a sample equal those of its source."""
    rows, routes, of = _common_rows(sample, source), sample.routes, source.routes
    assert routes is not None
    assert of is not None
    offset = routes.start - of.start
    mine, other = words_of(routes.ids_TLK[:rows]), words_of(of.ids_TLK[offset : offset + rows])
    equal_TL = (mine == other).all(axis=2)
    if of.missing_TL is not None:
        equal_TL &= ~of.missing_TL[offset : offset + rows]
    if routes.missing_TL is not None:
        equal_TL |= routes.missing_TL[:rows]
    ends = np.where(equal_TL.all(axis=0), rows, (~equal_TL).argmax(axis=0) if rows else 0)
    return [int(end) for end in ends]


def _fitting(codec: Codec, block: Block, sorts: bool) -> Codec:
    """The codec, or the one that it falls back to, whose needs the block meets."""
    ids = block.ids_RK
    while codec.needs:
        met = {
            "tokens": block.token_ids_R is not None,
            "base": block.base_RK is not None,
            "dictionary": block.dictionary is not None,
            "distinct": "distinct" not in codec.needs
            or not repeats_in(ids if sorts else sorted_rows(ids)).any(),
        }
        if all(met[need] for need in codec.needs):
            break
        codec = codec_named(codec.fallback)
    return codec


def _code_layer(
    routes: Sequence[Routes | None],
    helds: Sequence[Held],
    shared: Sequence[int],
    layer: int,
    meta: DumpMeta,
    coding: Coding,
) -> list[bytes | None]:
    """The cells of one layer, by its index."""
    codec = codec_named(coding.codec)
    kept = [h.kept(layer, n) for h, n in zip(helds, shared, strict=True)]
    dictionary = None
    if coding.dictionary is not None:
        dictionary = coding.dictionary.layer(meta.layers_L[layer])
    sizes = (meta.num_experts, meta.top_k)
    about = about_of(helds, kept, sizes, layer, codec.needs, dictionary)
    ids: Ids = np.empty(about.shape, about.dtype)
    ends = np.cumsum(about.lens_S)
    spans = [slice(end - n, end) for end, n in zip(ends, about.lens_S, strict=True)]
    for one, keep, count, span in zip(routes, kept, shared, spans, strict=True):
        if one is not None:
            rows = one.ids_TLK[count:, layer]
            ids[span] = rows if len(rows) == len(ids[span]) else rows[keep[count:]]
    given = (about.token_ids_R, about.base_RK, about.dictionary)
    block = Block(ids, about.num_experts, about.lens_S, *given)
    codec = _fitting(codec, block, coding.sorts)
    orders = coding.keep_order and not codec.keeps_order
    coded = codec.encode(block)
    cells: list[bytes | None] = []
    for one, count, cell, span in zip(routes, shared, coded.cells, spans, strict=True):
        beside = pack_orders(ids[span]) if orders else b""
        cells.append(None if one is None else put_count(count) + cell + beside)
    cells[0] = put_head(Head(codec, orders, coded.shared)) + (cells[0] or b"")
    return cells


def code_group(samples: Sequence[Sample], meta: DumpMeta, coding: Coding) -> list[dict[str, Any]]:
    """The coded columns of the samples of a row group, whose routes are as_coded; one dict each."""
    sources = _sources(samples)
    rows: list[dict[str, Any]] = []
    helds, shared = [], []
    for sample, source in zip(samples, sources, strict=True):
        index = None
        if coding.base is not None and sample.routes is not None:
            tokens = sample.token_ids
            index = None if tokens is None else coding.indices.get(digest_tokens(tokens))
        base = None if index is None or coding.base is None else coding.base[index].routes
        rows.append({"shared_with": source, "base_index": index})
        helds.append(held_of(sample, source, base))
        none = [0] * len(meta.layers_L)
        shared.append(none if source is None else _shared_rows(sample, samples[source]))
    routes = [sample.routes for sample in samples]
    for i, layer in enumerate(meta.layers_L):
        of_layer = [counts[i] for counts in shared]
        cells = _code_layer(routes, helds, of_layer, i, meta, coding)
        for row, cell in zip(rows, cells, strict=True):
            row[coded_name(layer)] = cell
    return rows
