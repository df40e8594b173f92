"""The dump against what a recompute wrote: as any two dumps are compared, in shards."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MismatchError
from ..compared.compared import Judging, count, judged
from ..compared.work import ComparedWork, OpenSides, held
from ..progress import Progress
from ..reading import Reading
from ..shards.crew import Crew
from ..shards.work import Opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...dump import Dump
    from ...reports.diff.schema import DiffDocument

__all__ = ["Against", "compare_written", "open_source"]


@dataclass(frozen=True, slots=True)
class Against:
    """The dump by its path and how it is read, and how the routes are held against it."""

    path: str
    reading: Reading
    judging: Judging
    detail: bool

    @property
    def is_stream(self) -> bool:
        """Whether it is on standard input, which no other process can open."""
        return self.reading.input(self.path).path == "-"


def compare_written(
    against: Against,
    source: "Dump",
    targets: "Mapping[str, Path]",
    crew: Crew,
    progress: Progress,
) -> "dict[str, DiffDocument] | str":
    """A dump, open as ``source``, against the routes of each mode, or why nothing is compared."""
    from ...formats.native.container import open_native
    from ...ops.diff.options import DiffOptions

    if all(sample.routes is None for sample in source):
        return f"{source.meta.path} has no routes"
    found = {}
    for mode, target in targets.items():
        sides = OpenSides(source, open_native(target))
        opening = partial(_sides, against.path, against.reading, target)
        opened = held(sides) if against.is_stream else Opened(opening, sides)
        work = ComparedWork(opened, DiffOptions(detail=against.detail))
        try:
            found[mode] = judged(count(work, crew, progress), against.judging).document
        except MismatchError as error:
            return str(error)
    return found


def _sides(path: str, reading: Reading, target: Path) -> OpenSides:
    """The dump and what was written, opened again."""
    from ...formats.native.container import open_native

    return OpenSides(open_source(path, reading), open_native(target))


def open_source(path: str, reading: Reading) -> "Dump":
    """The dump; one that has tokens and no routes too."""
    from ...formats.wire.sample import NoRoutesError

    try:
        return reading.open(path)
    except NoRoutesError as error:
        if error.dump is None:
            raise
        return error.dump
