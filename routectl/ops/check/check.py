"""check: what is wrong with a dump, from the dump alone or against a reference.

Shape suffixes: L MoE layers, E experts.
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...damage import DamagedSampleError
from ...dump import Dump, DumpMeta, Sample
from ...errors import FormatError, MismatchError
from ...gate_logprobs import digest_routes
from ...kernels.check import scan_sample
from ...margins import EPS
from ..pairs.align import checked, name_of
from ..pairs.join import join_keys
from .against.compare import Comparer
from .alone.tables import Dictionary
from .book.legal import Legal
from .book.results import Book, CheckResult, Place
from .by_tokens import Heard, TokenWitness
from .ids import NarrowIds, check_one_rank, legal_routes
from .load import LoadModel, check_axes, filler_by_rank
from .rows import View, check_rows_of
from .samples import Groups, RowsAgainstTokens, WeightVersions, check_segments

__all__ = ["CheckOptions", "check"]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What ``check`` is told beside the dump: facts of the model and of the run.

    zero_experts how many of the E ids return their input (LongCat); expert 0 may then repeat
    hash_layers  layers that select by a table: never written by some engines
    ep           expert-parallel ranks that filler is counted for; 1 for none
    by_tokens    whether rows are held against the dump's own tokens too: it is read twice then
    prior        what another dump of the same weights taught (``learn_dictionary``), or None
    eps          the margin, in units of the selection score, up to which a flip is a near-tie
    """

    zero_experts: int = 0
    hash_layers: tuple[int, ...] = ()
    ep: int = 1
    eps: float = EPS
    by_tokens: bool = True
    prior: Dictionary | None = None


class _Pass:
    """One pass over the samples of a dump."""

    def __init__(self, meta: DumpMeta, options: CheckOptions, reference: Dump | None) -> None:
        self.meta, self.options, self.reference = meta, options, reference
        self.book = Book()
        self.comparer = None
        if reference is not None:
            self.comparer = Comparer(meta, reference.meta, self.book, options.eps)
        self.groups, self.versions = Groups(), WeightVersions()
        self.counts, self.narrow = RowsAgainstTokens(), NarrowIds(meta)
        self.load = LoadModel(len(meta.layers_L), meta.num_experts, meta.top_k)
        self.filler_L = np.zeros(len(meta.layers_L), np.int64)
        self.samples = self.tokens = self.rows = 0
        self.witness = TokenWitness.of(meta, options.prior) if options.by_tokens else None

    def read(self, dump: Dump, index: int) -> tuple[Sample | None, Legal]:
        """The sample, and what is to be known of its rows where its reader refused it."""
        try:
            sample = dump[index]
        except DamagedSampleError as error:
            name = name_of(error.sample, index)
            legal = legal_routes(error, self.meta, name, self.book)
            if not legal.named:
                self.book.add("R001", Place(name), detail=str(error), facts=_reason(error))
            whole = legal.routes is not None
            return replace(error.sample, routes=legal.routes) if whole else None, legal
        except FormatError as error:
            name = dump.keys[index].sample_id or f"#{index}"
            self.book.add("R001", Place(name), detail=str(error), facts=_reason(error))
            return None, Legal(None)
        routes, name = sample.routes, name_of(sample, index)
        if routes is None:
            return sample, Legal(None)
        narrow = self.narrow.check(routes, name, self.book)
        alone = not narrow and check_one_rank(routes, name, self.book)
        return sample, Legal(routes, trusted=not narrow and not alone)

    def _again(self, dump: Dump, index: int) -> tuple[Sample, Legal]:
        """A sample that was looked at before, its findings aside."""
        kept, self.book = self.book, Book()
        try:
            sample, legal = self.read(dump, index)
        finally:
            self.book = kept
        if sample is None:
            raise FormatError(f"sample {index} cannot be read")
        return sample, legal

    def add(self, dump: Dump, index: int, other: int | None) -> None:
        """Look at one sample, and at its partner in the reference where it has one."""
        self.samples += 1
        sample, legal = self.read(dump, index)
        if sample is None:
            return
        name = name_of(sample, index)
        if not legal.cut:
            self.counts.check(sample, name, self.book)
        check_segments(sample, name, self.book)
        self.versions.check(sample, name, self.book)
        self.groups.check(sample, dump.keys[index], name, self.book)
        if sample.routes is not None:
            if dump.digests and digest_routes(sample.routes) != dump.digests[index]:
                self.book.add("R010", Place(name), rows=sample.routes.rows)
            self._add_rows(sample, name, legal)
        if self.witness is not None:
            self.witness.add(sample, index, legal)
        if self.comparer is not None and other is None:
            self.book.add("R719", Place(name))
        if self.comparer is not None and self.reference is not None and other is not None:
            self.comparer.add((index, other, name), sample, legal, self.reference[other])

    def _add_rows(self, sample: Sample, name: str, legal: Legal) -> None:
        assert sample.routes is not None
        routes, bad_TL = checked(sample.routes, self.meta), legal.bad_TL
        self.tokens += routes.num_tokens
        self.rows += routes.rows
        if not legal.trusted:
            return
        scan = scan_sample(
            routes.ids_TLK,
            routes.num_experts,
            routes.missing_TL,
            zero_twice=self.options.zero_experts > 0,
        )
        if routes.missing_TL is not None:
            self.filler_L += routes.top_k * routes.missing_TL.sum(axis=0)
            if bad_TL is not None:  # they have a finding of their own
                kept = routes.missing_TL & ~bad_TL
                routes = replace(routes, missing_TL=kept if kept.any() else None)
        view = View(sample, name, routes, scan, bad_TL)
        check_rows_of(view, self.options.hash_layers, self.book)
        whole = bad_TL is None or not bad_TL.any()
        if whole and not check_axes(view, self.book):
            self.load.check(view, self.book)

    def result(self, dump: Dump) -> CheckResult:
        """The findings, those of all samples together too."""
        self.groups.close(self.book, self.counts.close(self.book))
        if self.meta.wire_dtype and "+" in self.meta.wire_dtype:
            self.book.add("R008", None, detail=self.meta.wire_dtype)
        ranks: Any = filler_by_rank(self.load.load_LE, self.filler_L, self.options.ep)
        if ranks is not None:
            rows = int(self.filler_L.sum()) // self.meta.top_k
            self.book.add("R602", None, rows=rows, detail=ranks)
        explained = None
        if self.comparer is not None and self.reference is not None:
            for name, *_ in self.comparer.where.spans.values():  # the reference says it of each
                self.book.retract("R601", name)
            explained = self.comparer.result(partial(self._again, dump), self.reference)
        power = None
        if self.witness is not None:
            told = Heard() if self.comparer is None else Heard(*self.comparer.told())
            power = self.witness.close(partial(self._again, dump), len(dump), self.book, told)
        found = self.book.findings()
        return CheckResult(self.meta, self.samples, self.tokens, self.rows, found, explained, power)


def _reason(error: FormatError) -> dict[str, str]:
    """What a reader's line says, less the places and the numbers that are one sample's own."""
    said = str(error).rpartition(": got")
    return {"reason": re.sub(r"\d+", "#", said[2] or said[0]).strip()}


def check(
    dump: Dump, reference: Dump | None = None, *, options: CheckOptions | None = None
) -> CheckResult:
    """Read every sample once and say what is wrong with it.

    A sample that its reader refuses is a finding too, and is looked at as far as it could be read;
    other samples go on. With a ``reference`` of the same
    tokens (another engine's dump, or recomputed routes), samples are joined by their tokens, and
    what explains the mismatch is named. Raises MismatchError when no sample is in both, or E and
    K are others.
    """
    partners: dict[int, int] = {}
    if reference is not None:
        sizes = [(d.meta.num_experts, d.meta.top_k) for d in (dump, reference)]
        if sizes[0] != sizes[1]:
            raise MismatchError(
                f"the two sides are of different models: E and K are {sizes[0]} and {sizes[1]}"
            )
        partners = dict(join_keys(dump.keys, reference.keys).pairs)
    run = _Pass(dump.meta, options or CheckOptions(), reference)
    for index in range(len(dump)):
        run.add(dump, index, partners.get(index))
    return run.result(dump)
