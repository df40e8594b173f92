"""Finished parts of a long run, kept beside its output so that a killed run can go on."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, MismatchError

if TYPE_CHECKING:
    from ..dump import DumpMeta, Sample

__all__ = ["Parts", "open_parts"]

_JOB = "job.json"


@dataclass(frozen=True, slots=True)
class Parts:
    """``NAME.parquet.partial/``: what is run, and a native file for each part that is done.

    Each file appears whole or not at all, so that the folder is good after any interruption.
    """

    folder: Path

    def done(self) -> list[Path]:
        """The finished parts, in order."""
        found = sorted(self.folder.glob("*.parquet"))
        expected = [self._path(n) for n in range(len(found))]
        if found != expected:
            raise FormatError(f"{self.folder}: parts are missing: got {[p.name for p in found]}")
        return found

    def samples(self) -> Iterator["Sample"]:
        """The samples of all finished parts."""
        from ..formats.native import open_native

        for path in self.done():
            yield from open_native(path)

    def count(self) -> int:
        """How many samples are finished."""
        from ..formats.native import open_native

        return sum(len(open_native(path)) for path in self.done())

    def add(self, samples: Sequence["Sample"], meta: "DumpMeta") -> None:
        """Finish a part; whether routing is group-limited is known from its samples."""
        from ..formats.native import write_native

        grouped = any(
            s.routes is not None and s.routes.group_margin_TL is not None for s in samples
        )
        about = replace(meta, group_margins=grouped)
        write_native(samples, about, self._path(len(self.done())), force=False)

    def keep(self, number: int) -> None:
        """Let go of all but the first parts."""
        for path in self.done()[number:]:
            path.unlink()

    def drop_if_empty(self) -> None:
        """Let go of the folder where no part is finished: there is nothing to go on from."""
        if not self.done():
            shutil.rmtree(self.folder, ignore_errors=True)

    def join(self, meta: "DumpMeta", output: Path, *, force: bool) -> int:
        """Write all parts as one file, let go of them, and return the number of samples."""
        from ..formats.native import open_native, write_native

        grouped = any(open_native(path).meta.group_margins for path in self.done())
        about = replace(meta, group_margins=grouped)
        count = write_native(self.samples(), about, output, force=force)
        shutil.rmtree(self.folder)
        return count

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"


def open_parts(output: Path, job: dict[str, Any], *, resume: bool) -> Parts:
    """The parts of a job: those of an earlier run of the same job, or none yet.

    Raises MismatchError when there are parts and ``resume`` was not asked for, or when they are of
    another job, naming what differs.
    """
    parts = Parts(output.with_name(output.name + ".partial"))
    path = parts.folder / _JOB
    if not parts.folder.exists():
        parts.folder.mkdir(parents=True)
        path.write_text(json.dumps(job, indent=1) + "\n", "utf-8")
        return parts
    if not resume:
        raise MismatchError(
            f"{parts.folder}: an earlier run left finished parts there",
            hint="--resume to go on from them, or delete the folder",
        )
    try:
        earlier = json.loads(path.read_text("utf-8"))
        names = sorted(name for name in job if earlier[name] != job[name])
    except (OSError, ValueError, KeyError, TypeError):
        raise FormatError(f"{path}: not the job of an earlier run; delete the folder") from None
    if names:
        name = names[0]
        raise MismatchError(
            f"{parts.folder}: parts of another run: {name} was {earlier[name]}, is {job[name]}"
        )
    return parts
