"""check: what is wrong with a dump, from the dump alone or against a reference.

Shape suffixes: L MoE layers, E experts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...dump import Dump, DumpMeta, Sample
from ...errors import FormatError, MismatchError
from ...gate_logprobs import digest_routes
from ..batches import is_of_small, runs_in_columns
from ..pairs.align import checked, name_of
from ..pairs.join import join_keys
from .against.compare import Comparer
from .against.compared import ComparedSamples
from .alone.scripts import Library
from .book.ledger import Ledger
from .book.legal import Legal
from .book.results import Book, CheckResult, Place
from .by_tokens import Witness
from .lesson import Lesson, Reader, learn, view_of
from .load import check_axes, filler_by_rank
from .options import CheckOptions
from .quiet import quiet_samples
from .rows import View, check_holes, check_rows_of
from .samples import Groups, WeightVersions, check_segments
from .siblings import Siblings, first_siblings
from .starts import RowsAgainstTokens

__all__ = ["CheckOptions", "CheckPartial", "Checker", "check", "partners_of"]


@dataclass(slots=True)
class CheckPartial:
    """What some samples of a dump come to; those of all its samples add up, in any order.

    layers counts MoE layers. witness is of the dump's own tokens. Nothing in it grows with the
    samples: what is kept of single ones is bounded.
    """

    load_LE: NDArray[np.int64]
    filler_L: NDArray[np.int64]
    samples: int = 0
    tokens: int = 0
    rows: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    counts: RowsAgainstTokens = field(default_factory=RowsAgainstTokens)
    versions: WeightVersions = field(default_factory=WeightVersions)
    groups: Groups = field(default_factory=Groups)
    witness: Witness = field(default_factory=Witness)
    compared: ComparedSamples | None = None

    @classmethod
    def empty(cls, meta: DumpMeta) -> "CheckPartial":
        """Of no samples."""
        layers = len(meta.layers_L)
        return cls(np.zeros((layers, meta.num_experts), np.int64), np.zeros(layers, np.int64))

    def __add__(self, other: "CheckPartial") -> "CheckPartial":
        ledger = self.ledger + other.ledger
        return CheckPartial(
            self.load_LE + other.load_LE,
            self.filler_L + other.filler_L,
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.rows + other.rows,
            ledger,
            self.counts + other.counts,
            self.versions + other.versions,
            self.groups + other.groups,
            self.witness.joined(other.witness, ledger, len(self.filler_L)),
            None
            if self.compared is None or other.compared is None
            else self.compared + other.compared,
        )

    def result(self, checker: "Checker") -> CheckResult:
        """The findings, those of all samples together too.

        Where there is a reference, rows that nothing explained are read again.
        """
        meta, options, lesson = checker.meta, checker.options, checker.lesson
        ledger = self.ledger + Ledger()
        self.counts.close(ledger)
        self.versions.close(ledger)
        self.groups.close(ledger)
        whole = Book()
        if meta.wire_dtype and "+" in meta.wire_dtype:
            whole.add("R008", None, detail=meta.wire_dtype)
        ranks: Any = filler_by_rank(self.load_LE, self.filler_L, options.ep)
        if ranks is not None:
            rows = int(self.filler_L.sum()) // meta.top_k
            whole.add("R602", None, rows=rows, detail=ranks)
        ledger.take(whole, {})
        power = explained = None
        if checker.comparer is not None and self.compared is not None:
            explained = checker.comparer.result(checker.again, self.compared, ledger)
        if lesson.learnt is not None:
            power = self.witness.close(lesson.learnt, meta, ledger)
        found = ledger.findings()
        return CheckResult(meta, self.samples, self.tokens, self.rows, found, explained, power)


class Checker:
    """Judges samples of a dump one by one, by what was learnt from some of them."""

    def __init__(
        self,
        reader: Reader,
        lesson: Lesson,
        options: CheckOptions,
        first_N: NDArray[np.int32] | None = None,
        comparer: Comparer | None = None,
    ) -> None:
        """``first_N`` are those of ``first_siblings``, where they are known already."""
        self.reader, self.lesson, self.options = reader, lesson, options
        self.meta, self.dump = reader.dump.meta, reader.dump
        self.comparer = comparer
        first_N = first_siblings(self.dump.keys) if first_N is None else first_N
        self.siblings = Siblings(first_N, self._routed)
        self.library = Library.of(self.dump)

    def partial(self, indices: Iterable[int]) -> CheckPartial:
        """What some samples come to."""
        found = CheckPartial.empty(self.meta)
        found.compared = None if self.comparer is None else self.comparer.empty()
        together = self.comparer is None and not self.dump.digests and is_of_small(self.dump)
        every = np.fromiter(indices, np.int64)
        for columns, run in runs_in_columns(self.dump, every, together=together):
            left = run if columns is None else self._add_quiet(columns, run, found)
            for index in left.tolist():
                found.samples += 1
                book = self._add(index, found, Book())
                if book is not None:
                    found.ledger.take(book, index)
        return found

    def _add_quiet(
        self, columns: SampleColumns, run: NDArray[np.int64], found: CheckPartial
    ) -> NDArray[np.int64]:
        """Count the samples of a run that there is nothing to tell of; gives back the others."""
        first = columns.first
        asked_S = np.zeros(len(columns), np.bool_)
        asked_S[run - first] = True
        spans = np.flatnonzero(asked_S & (columns.spans_S > 0))[:1] + first
        known = found.versions.first
        if len(spans) and (known is None or spans[0] < known[0]):
            asked_S[spans - first] = False  # its version is that of the dump
        of = self.siblings.first_N[first : first + len(columns)]
        quiet = quiet_samples(columns, asked_S, of, self.lesson, self.options)
        if quiet is None:
            return run
        places = np.flatnonzero(quiet.there_S)
        rows_S = columns.num_rows_S[places]
        found.samples += len(places)
        found.tokens += int(rows_S.sum())
        found.rows += int(rows_S.sum()) * len(self.meta.layers_L)
        found.load_LE += quiet.load_LE
        found.counts.check_together(columns, places)
        found.groups.check_together(columns, places)
        if self.lesson.learnt is not None:
            found.witness.seen.count_sound(np.where(columns.known_S[places], rows_S, 0))
        return run[~quiet.there_S[run - first]]

    def _add(self, index: int, found: CheckPartial, book: Book) -> Book | None:
        """Look at one sample; the book with what is wrong with it, None where it waits."""
        sample, legal = self.reader.read(index, self.lesson, book)
        if sample is None:
            return book
        left = self._judge(index, sample, legal, found, book)
        if not legal.cut:
            found.counts.begin(sample, (index, name_of(sample, index)), book)
        return left

    def _judge(
        self, index: int, sample: Sample, legal: Legal, found: CheckPartial, book: Book
    ) -> Book | None:
        """The same of a sample that was read."""
        name = name_of(sample, index)
        astray = not legal.cut and found.counts.check(sample, (index, name), book)
        check_segments(sample, name, book)
        found.versions.check(sample, (index, name), book)
        found.groups.check(sample, (index, name))
        bare = sample
        if sample.routes is not None:
            digests = self.dump.digests
            if digests and digest_routes(sample.routes) != digests[index]:
                book.add("R010", Place(name), rows=sample.routes.rows)
            bare = self._add_rows(sample, name, legal, found, book)
        self.siblings.check(bare, (index, name), astray, book)
        told = seen = False
        if self.comparer is not None and found.compared is not None:
            told, seen = self.comparer.see(index, bare, legal, book, found.compared)
        learnt = self.lesson.learnt
        if learnt is None:
            return book
        if not legal.trusted:
            return book
        judged = learnt.judge(bare, index, self.library)
        layers = len(self.meta.layers_L)
        return found.witness.hear(judged, book, found.ledger, layers, told=told, seen=seen)

    def _add_rows(
        self, sample: Sample, name: str, legal: Legal, found: CheckPartial, book: Book
    ) -> Sample:
        """Look at the rows; the sample as it is held against others, filler missing."""
        assert sample.routes is not None
        routes = checked(sample.routes, self.meta)
        found.tokens += routes.num_tokens
        found.rows += routes.rows
        if not legal.trusted:
            return sample
        view, scan = view_of(sample, name, legal, self.meta, self.options)
        if routes.missing_TL is not None:
            found.filler_L += routes.top_k * routes.missing_TL.sum(axis=0)
        if self.meta.trainer == "slime":
            check_holes(view, book)
        if self._look(view, legal, book):
            found.load_LE += scan.load_LE
        return view.without_filler(sample)

    def _look(self, view: View, legal: Legal, book: Book) -> bool:
        """Judge rows by themselves; whether their experts are the layers' own."""
        check_rows_of(view, self.options.hash_layers, book)
        whole = legal.bad_TL is None or not legal.bad_TL.any()
        if not whole or check_axes(view, book):
            return False
        self.lesson.load.check(view, book)
        return True

    def again(self, index: int) -> tuple[Sample, Legal]:
        """A sample whose findings are known, as it is held against others.

        Raises FormatError where it cannot be read.
        """
        sample, legal = self.reader.read(index, self.lesson, Book())
        if sample is None:
            raise FormatError(f"sample {index} cannot be read")
        if sample.routes is None or not legal.trusted:
            return sample, legal
        view, _ = view_of(sample, "", legal, self.meta, self.options)
        self._look(view, legal, Book())
        return view.without_filler(sample), legal

    def _routed(self, index: int) -> Sample | None:
        """The same; None where it has no routes that can be read."""
        try:
            sample, _ = self.again(index)
        except FormatError:
            return None
        return None if sample.routes is None else sample


def check(
    dump: Dump, reference: Dump | None = None, *, options: CheckOptions | None = None
) -> CheckResult:
    """Read every sample and say what is wrong with it.

    A sample that its reader refuses is a finding too, and is looked at as far as it could be read;
    other samples go on. With a ``reference`` of the same
    tokens (another engine's dump, or recomputed routes), samples are joined by their tokens, and
    what explains the mismatch is named. Raises MismatchError when no sample is in both, or E and
    K are others.
    """
    options = options or CheckOptions()
    comparer = None
    if reference is not None:
        partners_S = partners_of(dump, reference)
        comparer = Comparer(dump.meta, reference, partners_S, options.eps, options.candidates)
    lesson, reader = learn(dump, options)
    checker = Checker(reader, lesson, options, comparer=comparer)
    return checker.partial(range(len(dump))).result(checker)


def partners_of(dump: Dump, reference: Dump) -> NDArray[np.int64]:
    """The index in the reference of each sample, int64 [S]; -1 where it has none.

    Raises MismatchError when no sample is in both, or E and K are others.
    """
    sizes = [(d.meta.num_experts, d.meta.top_k) for d in (dump, reference)]
    if sizes[0] != sizes[1]:
        raise MismatchError(
            f"the two sides are of different models: E and K are {sizes[0]} and {sizes[1]}"
        )
    partners_S = np.full(len(dump), -1, np.int64)
    pairs = join_keys(dump.keys, reference.keys).pairs
    partners_S[pairs.old_P] = pairs.new_P
    return partners_S
