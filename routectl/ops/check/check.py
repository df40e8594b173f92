"""check: what is wrong with a dump, from the dump alone or against a reference.

Shape suffixes: L MoE layers, E experts.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...dump import Dump, DumpMeta, Sample
from ...errors import FormatError, MismatchError
from ...gate_logprobs import digest_routes
from ...kernels.check import scan_sample
from ...margins import EPS
from ...model import ModelFacts
from ...routes import Bools, Ids
from ..pairs.align import checked, name_of
from ..pairs.join import join_keys
from .against.compare import Comparer
from .ids import legal_routes, moe_columns
from .load import LoadModel, check_axes, filler_by_rank
from .results import Book, CheckResult, Place
from .rows import View, check_rows_of
from .samples import Groups, RowsAgainstTokens, WeightVersions, check_segments

__all__ = ["CheckOptions", "check"]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What ``check`` is told beside the dump: facts of the model and of the run.

    facts        the model's sizes, for samples that their reader refuses; None if not known
    raw          the same samples, their ids unchecked: all layers as MoE, E = 65536; None when they
                 cannot be had; one that is refused there too raises FormatError when it is read
    zero_experts ids from E on that return their input (LongCat); expert 0 may then repeat
    hash_layers  layers that select by a table: never written by some engines
    ep           expert-parallel ranks that filler is counted for; 1 for none
    eps          the margin, in units of the selection score, up to which a flip is a near-tie
    """

    facts: ModelFacts | None = None
    raw: Dump | None = None
    zero_experts: int = 0
    hash_layers: tuple[int, ...] = ()
    ep: int = 1
    eps: float = EPS


class _Pass:
    """One pass over the samples of a dump."""

    def __init__(self, meta: DumpMeta, options: CheckOptions, reference: Dump | None) -> None:
        self.meta, self.options, self.reference = meta, options, reference
        self.book = Book()
        self.comparer = (
            None if reference is None else Comparer(meta, reference.meta, self.book, options.eps)
        )
        self.groups, self.versions, self.counts = Groups(), WeightVersions(), RowsAgainstTokens()
        self.load = LoadModel(len(meta.layers_L), meta.num_experts, meta.top_k)
        self.filler_L = np.zeros(len(meta.layers_L), np.int64)
        self.samples = self.tokens = self.rows = 0

    def read(self, dump: Dump, index: int) -> tuple[Sample | None, Bools | None]:
        """The sample, and its rows with an id out of range where its reader refused it."""
        try:
            return dump[index], None
        except FormatError as error:
            name = dump.keys[index].sample_id or f"#{index}"
            facts, wide = self.options.facts, self._unchecked(index)
            if facts is None or wide is None or wide.routes is None:
                self.book.add("R001", Place(name), detail=str(error), facts=_reason(error))
                return None, None
            routes, bad_TL, known = legal_routes(
                wide.routes, facts, self.options.zero_experts, name, self.book
            )
            if not known:
                self.book.add("R001", Place(name), detail=str(error), facts=_reason(error))
            return replace(wide, routes=routes), bad_TL

    def _unchecked(self, index: int) -> Sample | None:
        """A sample that its reader refused; None where it cannot be had unchecked either."""
        if self.options.facts is not None and self.options.raw is not None:
            with suppress(FormatError):
                return self.options.raw[index]
        return None

    def _ids(self, index: int) -> Ids | None:
        """A sample's ids of MoE layers, unchecked."""
        wide, facts = self._unchecked(index), self.options.facts
        if wide is None or wide.routes is None or facts is None:
            return None
        return np.ascontiguousarray(wide.routes.ids_TLK[:, moe_columns(wide.routes, facts)])

    def _again(self, dump: Dump, index: int) -> tuple[Sample, Ids | None]:
        """A sample that was looked at before, its findings aside."""
        kept, self.book = self.book, Book()
        try:
            sample, bad_TL = self.read(dump, index)
        finally:
            self.book = kept
        assert sample is not None
        return sample, None if bad_TL is None else self._ids(index)

    def add(self, dump: Dump, index: int, other: int | None) -> None:
        """Look at one sample, and at its partner in the reference where it has one."""
        self.samples += 1
        sample, bad_TL = self.read(dump, index)
        if sample is None:
            return
        name = name_of(sample, index)
        self.counts.check(sample, name, self.book)
        check_segments(sample, name, self.book)
        self.versions.check(sample, name, self.book)
        self.groups.check(sample, dump.keys[index], name, self.book)
        if sample.routes is not None:
            if dump.digests and digest_routes(sample.routes) != dump.digests[index]:
                self.book.add("R010", Place(name), rows=sample.routes.rows)
            self._add_rows(sample, name, bad_TL)
        if self.comparer is not None and self.reference is not None and other is not None:
            ids_TLK = None if bad_TL is None else self._ids(index)
            self.comparer.add((index, other, name), sample, ids_TLK, self.reference[other])

    def _add_rows(self, sample: Sample, name: str, bad_TL: Bools | None) -> None:
        assert sample.routes is not None
        routes = checked(sample.routes, self.meta)
        self.tokens += routes.num_tokens
        self.rows += routes.rows
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
        self.groups.close(self.book)
        self.counts.close(self.book)
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
        found = self.book.findings()
        return CheckResult(self.meta, self.samples, self.tokens, self.rows, found, explained)


def _reason(error: FormatError) -> dict[str, str]:
    """What a reader's line says, less the places and the numbers that are one sample's own."""
    said = str(error).rpartition(": got")
    return {"reason": re.sub(r"\d+", "#", said[2] or said[0]).strip()}


def check(
    dump: Dump, reference: Dump | None = None, *, options: CheckOptions | None = None
) -> CheckResult:
    """Read every sample once and say what is wrong with it.

    A sample that its reader refuses is a finding too, and is looked at again where
    ``options.raw`` has it unchecked; other samples go on. With a ``reference`` of the same
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
