"""``to_arrow`` of every kind of result, and the list of its tables in docs/python.md."""

from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError, unknown
from ...margins import EPS
from ...ops.check.book.results import CheckResult
from ...ops.diff.result import DiffResult
from ...ops.staleness.staleness import Staleness
from ...ops.summary import Summary
from .check import CHECK_FRAMES
from .diff import DIFF_FRAMES
from .frame import Frame, arrow_of
from .show import SUMMARY_FRAMES
from .staleness import STALENESS_FRAMES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_table", "frames_of", "tables_markdown"]

_KINDS: tuple[tuple[str, type, tuple[Frame, ...]], ...] = (
    ("diff", DiffResult, DIFF_FRAMES),
    ("check", CheckResult, CHECK_FRAMES),
    ("staleness", Staleness, STALENESS_FRAMES),
    ("summarize", Summary, SUMMARY_FRAMES),
)


def frames_of(result: Any) -> tuple[Frame, ...]:
    """The tables that a result has. Raises TypeError for what is no result."""
    for _, kind, frames in _KINDS:
        if isinstance(result, kind):
            return frames
    raise TypeError(f"got {type(result).__name__}, expected a result of a verb")


def arrow_table(result: Any, table: str, eps: float = EPS) -> "pa.Table":
    """A table of a result by its name. Raises RoutectlError, with the names, for another one."""
    frames = frames_of(result)
    for frame in frames:
        if frame.name == table:
            return arrow_of(frame, result, eps)
    raise unknown("table", table, (frame.name for frame in frames), RoutectlError)


def tables_markdown() -> str:
    """The tables of docs/python.md: of each result, its columns with dtype and unit."""
    lines = []
    for verb, _, frames in _KINDS:
        lines += [f"### {verb}", ""]
        for frame in frames:
            lines += [f'`to_arrow("{frame.name}")`: a row is {frame.about}.', ""]
            lines += ["| column | dtype | unit | what |", "|---|---|---|---|"]
            lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.about} |" for c in frame.columns]
            lines.append("")
    return "\n".join(lines).rstrip()
