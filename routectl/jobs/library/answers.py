"""Results as a Python program gets them: the verb's own, with its document, tables and pictures.

Each is the result of its verb, so that it adds up, is compared and is pickled as that is; what it
has beside is what its document takes that no count says: thresholds, a reference, a rerun.
"""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ...checkpoints.facts import CheckpointFacts
from ...dump import DumpMeta
from ...errors import index_of
from ...margins import EPS
from ...ops.check.alone.results import Power
from ...ops.check.book.results import CheckResult
from ...ops.diff.diff import DiffResult
from ...ops.diff.thresholds import Threshold, Verdict, judge
from ...ops.outline import Outline
from ...ops.pack.verify import Verification
from ...ops.staleness.staleness import Staleness
from ...ops.summary import Summary
from ...reports.document import AskedEntry, Document
from ...visible import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from ...reports.pack.schema import PackDocument

__all__ = [
    "CheckAnswer",
    "CheckpointAnswer",
    "DiffAnswer",
    "OutlineAnswer",
    "PackAnswer",
    "StalenessAnswer",
    "SummaryAnswer",
    "VerifyAnswer",
    "answer_of",
]

A = TypeVar("A")


def answer_of(kind: type[A], result: Any, **more: Any) -> A:
    """A result as an answer of some class, with what that has beside."""
    return kind(**{f.name: getattr(result, f.name) for f in fields(result)}, **more)


def _asked(document: Document, asked: AskedEntry | None) -> Document:
    """A document with what was asked, where that is known."""
    return document if asked is None else {**document, "asked": asked}


class _Entries(tuple[Any, ...]):
    """A tuple of an answer, that says how many of what it has where there is no such index."""

    what: str

    def __getitem__(self, index: Any) -> Any:
        at = index if isinstance(index, slice) else index_of(index, len(self), self.what)
        return tuple.__getitem__(self, at)


class _Shown:
    """What every answer has."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for one in fields(cast("Any", self)):
            value = getattr(self, one.name)
            if type(value) is tuple:
                entries = _Entries(value)
                entries.what = one.name.replace("_", " ")
                object.__setattr__(self, one.name, entries)

    def to_dict(self) -> Document:
        """The document that the command prints with --json: docs/json.md."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from ...reports.notebook.answer import notebook_html

        return notebook_html(self.to_dict())


class _Tabled(_Shown):
    """An answer with tables."""

    __slots__ = ()

    def to_arrow(self, table: str = "layers") -> "pa.Table":
        """One of its tables, as pandas, Polars and DuckDB read it: docs/python.md#tables.

        Columns have their unit in the metadata of their field. Raises RoutectlError, with the
        names of the tables, for another one.
        """
        from ...reports.tables.tables import arrow_table

        return arrow_table(self, table, self._eps())

    def _eps(self) -> float:
        return EPS


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiffAnswer(_Tabled, DiffResult):
    """A ``DiffResult``, the thresholds that it is held against, and the rerun's noise.

    asked is what the document says of the command line that asks the same; None of dumps in memory,
    and of a sum. compared_samples are the rows of the table of samples: about 100 bytes a sample.
    """

    limits: tuple[Threshold, ...] = ()
    eps: float = EPS
    allow_unmatched: bool = False
    noise: DiffResult | None = None
    asked: AskedEntry | None = None
    compared_samples: "tuple[pa.RecordBatch, ...]" = ()

    def __add__(self, other: DiffResult) -> "DiffAnswer":
        whole = DiffResult.__add__(self, other)
        assert isinstance(whole, DiffAnswer)
        noise = other.noise if isinstance(other, DiffAnswer) else None
        rows = other.compared_samples if isinstance(other, DiffAnswer) else ()
        both = None if self.noise is None or noise is None else self.noise + noise
        rows = self.compared_samples + rows
        return replace(whole, noise=both, asked=None, compared_samples=rows)

    @property
    def verdict(self) -> Verdict:
        """What the thresholds say; its ``exit_code`` is the command's."""
        return judge(self, self.limits, eps=self.eps, allow_unmatched=self.allow_unmatched)

    def to_dict(self) -> Document:
        """The routectl.diff/1 document."""
        from ...reports.diff.document import diff_document

        return _asked(diff_document(self, self.verdict, noise=self.noise), self.asked)

    def to_arrow(self, table: str = "layers") -> "pa.Table":
        """One of its tables: layers, samples, positions, places, examples."""
        if table == "samples":
            from ...reports.tables.streamed import table_of_samples

            return table_of_samples(self.compared_samples)
        return _Tabled.to_arrow(self, table)

    def _eps(self) -> float:
        return self.eps


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckAnswer(_Tabled, CheckResult):
    """A ``CheckResult``, the meta and sample count of the reference, and what fails.

    asked is as in ``DiffAnswer``.
    """

    reference: tuple[DumpMeta, int] | None = None
    fail_on: str = "error"
    asked: AskedEntry | None = None

    def __add__(self, other: CheckResult) -> "CheckAnswer":
        reference = self.reference
        if reference is not None and isinstance(other, CheckAnswer) and other.reference is not None:
            reference = (reference[0], reference[1] + other.reference[1])
        whole = CheckResult.__add__(self, other)
        return answer_of(CheckAnswer, whole, reference=reference, fail_on=self.fail_on)

    def to_dict(self) -> Document:
        """The routectl.check/1 document."""
        from ...reports.check.document import check_document

        return _asked(check_document(self, self.reference, fail_on=self.fail_on), self.asked)

    def to_arrow(self, table: str = "findings") -> "pa.Table":
        """One of its tables: findings, places, layers."""
        return _Tabled.to_arrow(self, table)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StalenessAnswer(_Tabled, Staleness):
    """A ``Staleness`` and its document."""

    document: Document = None

    def to_dict(self) -> Document:
        """The routectl.staleness/1 document."""
        return self.document

    def to_arrow(self, table: str = "comparisons") -> "pa.Table":
        """One of its tables: comparisons, lags, layers, samples, positions, own_rows, findings."""
        return _Tabled.to_arrow(self, table)

    def _eps(self) -> float:
        return float(self.document["eps"])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SummaryAnswer(_Tabled, Summary):
    """A ``Summary``, and how far the routes follow their tokens."""

    lift: Power | None = None

    def to_dict(self) -> Document:
        """The routectl.show/1 document."""
        from ...reports.show.document import summary_document

        return summary_document(self, lift=self.lift)

    def _repr_html_(self) -> str:
        from ...reports.notebook.answer import notebook_html
        from ...reports.show.document import summary_document

        return notebook_html(summary_document(self, lift=self.lift, detail=True))


@dataclass(slots=True, eq=False, repr=False)
class OutlineAnswer(_Shown, Outline):
    """An ``Outline``: what a dump holds whose layers, E and K nothing tells."""

    def __repr__(self) -> str:
        return (
            f"<OutlineAnswer of {visible(self.meta.path, 80, end=40)}: {self.samples:,} samples, "
            f"{self.rows:,} tokens with routes; layers and num_experts unknown: say model=>"
        )

    def to_dict(self) -> Document:
        """The routectl.outline/1 document."""
        from ...formats.documents.facts import MODEL_HINT
        from ...reports.show.outline import outline_document

        return outline_document(self, MODEL_HINT)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VerifyAnswer(_Shown, Verification):
    """A ``Verification``, and what was held against what."""

    folder: str = ""
    dump: DumpMeta | None = None

    def __repr__(self) -> str:
        from ...reports.pack.text import verified_short

        told = "\n ".join(visible(line, 300, end=60) for line in verified_short(self.to_dict()))
        return f"<VerifyAnswer of {visible(self.folder, 120, end=40)}: {told}>"

    def to_dict(self) -> Document:
        """The routectl.verify/1 document."""
        from ...reports.pack.document import verified_document

        assert self.dump is not None
        return verified_document(self, self.folder, self.dump)


class PackAnswer(dict[str, Any]):
    """The manifest of a folder that was written: its document, said in a few words."""

    def __repr__(self) -> str:
        from ...reports.pack.text import packed_headline

        line = packed_headline(cast("PackDocument", self))
        return f"<PackAnswer: {line.text.plain}; a dict with {', '.join(self)}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckpointAnswer(_Shown, CheckpointFacts):
    """The ``CheckpointFacts`` of weights."""

    def to_dict(self) -> Document:
        """The routectl.checkpoint/1 document."""
        from ...reports.show.checkpoint import checkpoint_document

        return checkpoint_document(self)
