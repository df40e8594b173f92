"""What an Arrow table of a result is made of: columns with a dtype and a unit, and its rows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "F_TAU",
    "LAYER",
    "LOGPROB_TOKENS",
    "OLD_SAMPLE",
    "POSITION",
    "ArrowColumn",
    "Frame",
    "arrow_batch",
    "arrow_of",
    "arrow_schema",
    "counted_columns",
]

Rows = Iterable[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """A column: int64, float64, string, bool, list<int64> or list<string>.

    unit is what it counts, "0..1" of a rate, empty of a name; about says the rest. A cell is null
    where the figure is not defined.
    """

    name: str
    dtype: str
    unit: str
    about: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A table of a kind of result: what one of its rows is, its columns, and the rows.

    rows takes a result, and the margin up to which a flip is a near-tie.
    """

    name: str
    about: str
    columns: tuple[ArrowColumn, ...]
    rows: Callable[[Any, float], Rows]


LAYER = ArrowColumn("layer", "int64", "", "transformer layer, from 0")
POSITION = ArrowColumn("position", "int64", "positions", "absolute, from 0")
OLD_SAMPLE = ArrowColumn("sample", "string", "", "its id in OLD, or its place")
LOGPROB_TOKENS = ArrowColumn("logprob_tokens", "int64", "tokens", "with log-probs on both sides")
F_TAU = ArrowColumn("f_tau", "float64", "0..1", "tokens with a ratio over 2 or under 1/2")


def counted_columns(*more: str) -> tuple[ArrowColumn, ...]:
    """The columns of compared rows, and of tokens where they are counted too."""
    tokens = (
        ArrowColumn("tokens", "int64", "tokens", "with a compared row"),
        ArrowColumn("tokens_mismatched", "int64", "tokens", "with a mismatched row"),
    )
    return (
        *(tokens if "tokens" in more else ()),
        ArrowColumn("rows", "int64", "rows", "compared"),
        ArrowColumn("rows_mismatched", "int64", "rows", "whose expert sets differ"),
        ArrowColumn("mismatch_rate", "float64", "0..1", "rows_mismatched / rows"),
    )


def arrow_schema(columns: Sequence[ArrowColumn]) -> "pa.Schema":
    """The Arrow schema of columns; each one's unit is in the metadata of its field."""
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "list<int64>": pa.list_(pa.int64()),
        "list<string>": pa.list_(pa.string()),
    }
    return pa.schema(
        [
            pa.field(c.name, kinds[c.dtype], metadata={"unit": c.unit, "about": c.about})
            for c in columns
        ]
    )


def arrow_batch(
    columns: Sequence[ArrowColumn], rows: Sequence[tuple[Any, ...]]
) -> "pa.RecordBatch":
    """Rows as a record batch."""
    import pyarrow as pa

    schema = arrow_schema(columns)
    cells = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array([_storable(cell) for cell in column], field.type)
        for field, column in zip(schema, cells, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_of(frame: Frame, result: Any, eps: float) -> "pa.Table":
    """A table of a result; each column's unit is in the metadata of its field."""
    import pyarrow as pa

    return pa.Table.from_batches([arrow_batch(frame.columns, list(frame.rows(result, eps)))])


def _storable(cell: Any) -> Any:
    """A cell as Arrow takes it: half of a surrogate pair in a foreign name is its escape."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell
