"""What some samples of a dump say of all of it, before each sample is judged by itself.

The samples are at most 1,024, evenly spaced, and the same for every part of the dump that is
checked: so findings do not depend on how a dump is cut. Shape suffixes: L MoE layers, E experts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...damage import DamagedSampleError
from ...dump import Dump, DumpMeta, Sample
from ...errors import FormatError
from ...kernels.check import RowScan, scan_sample
from ...routes import ids_dtype
from ..pairs.align import checked, name_of
from .alone.alone import Alone
from .alone.judged import Learnt
from .alone.keeping import SAMPLES
from .book.legal import Legal
from .book.results import Book, Place
from .ids import NarrowIds, check_narrow, check_one_rank, legal_routes
from .load import LoadModel, check_axes
from .options import CheckOptions
from .rows import View

__all__ = ["Lesson", "Reader", "learn", "taught_by", "view_of"]

_BYTES = 1 << 26  # of ids that are read to learn from


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What was learnt: by what ids are cut, "" for whole ones; the load; routes by token or None.

    limit is the number from which on ids would never occur.
    """

    verdict: str
    limit: int
    load: LoadModel
    learnt: Learnt | None


@dataclass(slots=True)
class Reader:
    """Reads the samples of a dump as far as they are routes; held are some, to be read once."""

    dump: Dump
    held: dict[int, Sample | FormatError] = field(default_factory=dict)

    def raw(self, index: int) -> Sample | FormatError:
        """The sample, or what its reader says of it."""
        known = self.held.get(index)
        if known is not None:
            return known
        try:
            return self.dump[index]
        except FormatError as error:
            return error

    def read(self, index: int, lesson: Lesson | None, book: Book) -> tuple[Sample | None, Legal]:
        """The sample, and what is to be known of its rows where its reader refused it."""
        raw, meta = self.raw(index), self.dump.meta
        if isinstance(raw, DamagedSampleError):
            name = name_of(raw.sample, index)
            legal = legal_routes(raw, meta, name, book)
            if not legal.named:
                book.add("R001", Place(name), detail=str(raw), facts=_reason(raw))
            whole = legal.routes is not None
            return replace(raw.sample, routes=legal.routes) if whole else None, legal
        if isinstance(raw, FormatError):
            name = self.dump.keys[index].sample_id or f"#{index}"
            book.add("R001", Place(name), detail=str(raw), facts=_reason(raw))
            return None, Legal(None)
        routes, name = raw.routes, name_of(raw, index)
        if routes is None:
            return raw, Legal(None)
        verdict, limit = ("", 0) if lesson is None else (lesson.verdict, lesson.limit)
        narrow = check_narrow(routes, limit, verdict, name, book)
        alone = not narrow and check_one_rank(routes, name, book)
        return raw, Legal(routes, trusted=not narrow and not alone)


def _reason(error: FormatError) -> dict[str, str]:
    """What a reader's line says, less the places and the numbers that are one sample's own."""
    said = str(error).rpartition(": got")
    return {"reason": re.sub(r"\d+", "#", said[2] or said[0]).strip()}


def view_of(
    sample: Sample, name: str, legal: Legal, meta: DumpMeta, options: CheckOptions
) -> tuple[View, RowScan]:
    """A sample's rows as the checks see them; those with an id out of range are not missing."""
    assert sample.routes is not None
    routes, bad_TL = checked(sample.routes, meta), legal.bad_TL
    zero_twice = options.zero_experts > 0
    missing_TL = routes.missing_TL
    scan = scan_sample(routes.ids_TLK, routes.num_experts, missing_TL, zero_twice=zero_twice)
    if missing_TL is not None and bad_TL is not None:  # they have a finding of their own
        kept = missing_TL & ~bad_TL
        routes = replace(routes, missing_TL=kept if kept.any() else None)
    filler_TL = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
    return View(sample, name, routes, scan, filler_TL, bad_TL), scan


def taught_by(dump: Dump) -> list[int]:
    """The samples that ``learn`` reads, ascending, as far as it is known before they are read."""
    try:
        rows_S = dump.rows()
    except FormatError:
        rows_S = None
    if rows_S is None:
        return []
    meta, found, size = dump.meta, [], 0
    row_bytes = len(meta.layers_L) * meta.top_k * ids_dtype(meta.num_experts).itemsize
    for index in _spread(len(dump)):
        found.append(index)
        size += int(rows_S[index]) * row_bytes
        if size > _BYTES:
            break
    return sorted(found)


def learn(
    dump: Dump,
    options: CheckOptions,
    known: Mapping[int, Sample | FormatError] | None = None,
) -> tuple[Lesson, Reader]:
    """Read some samples and learn from them; the reader that is given back holds them.

    ``known`` are samples that were read already: what is learnt is the same.
    """
    meta, reader = dump.meta, Reader(dump)
    narrow, size = NarrowIds(meta), 0
    for index in _spread(len(dump)):
        raw = (known or {}).get(index)
        raw = reader.held[index] = reader.raw(index) if raw is None else raw
        if isinstance(raw, Sample) and raw.routes is not None:
            narrow.add(raw.routes)
            size += raw.routes.ids_TLK.nbytes
            if size > _BYTES:
                break
    shape = (len(meta.layers_L), meta.num_experts)
    nothing = LoadModel(np.zeros(shape, np.int64), meta.top_k)
    lesson = Lesson(narrow.verdict(), narrow.limit, nothing, None)
    share = len(dump) / max(len(reader.held), 1)
    alone = Alone(meta, options.prior, share=share) if options.by_tokens else None
    load_LE = np.zeros(shape, np.int64)
    for index in sorted(reader.held):
        book = Book()
        sample, legal = reader.read(index, lesson, book)
        if sample is None or not legal.trusted:
            continue
        if alone is not None:
            alone.add(sample, index)
        if sample.routes is not None and (legal.bad_TL is None or not legal.bad_TL.any()):
            view, scan = view_of(sample, "", legal, meta, options)
            load_LE += 0 if check_axes(view, book) else scan.load_LE
    learnt = None if alone is None else alone.learn()
    return replace(lesson, load=LoadModel(load_LE, meta.top_k), learnt=learnt), reader


def _spread(samples: int) -> Iterator[int]:
    """Some indices, evenly spaced, in an order of which every beginning is spread as well."""
    step = max(-(-samples // SAMPLES), 1)
    every = range(0, samples, step)
    bits = max(len(every) - 1, 0).bit_length()
    for n in range(1 << bits):
        turned = int(f"{n:0{bits}b}"[::-1], 2) if bits else 0
        if turned < len(every):
            yield every[turned]
