"""Finished parts of a long run, kept beside its output so that a killed run can go on."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError, RoutectlError
from ...files.destinations import cannot_write
from ...files.places import waiting_for
from ...files.private import close_to_others, private_folder
from ...files.reading import read_bytes
from ...files.temporaries import discard_folder, is_at, lock_is_had
from ...files.writing import replacing
from ...gate_logprobs import digest_routes

if TYPE_CHECKING:
    from ...dump import DumpMeta, Sample

__all__ = ["Parts", "holding_parts", "open_parts", "parts_folder"]

_JOB = "job.json"
_ENDING = ".partial"


@dataclass(frozen=True, slots=True)
class Parts:
    """``NAME.parquet.partial/``: what is run, and native files of the samples that are done.

    A part is some consecutive samples, ``FIRST-LAST.MODE.parquet`` for each mode that is run.
    Each file appears whole or not at all, so that the folder is good after any interruption, and
    several processes of a run can write parts of other samples at the same time. One run at a time
    holds the folder, and only its user can look into it.
    With ``tokens`` false the files have no token ids.
    """

    folder: Path
    modes: tuple[str, ...]
    tokens: bool = True

    def done(self) -> list[range]:
        """The samples of each part that is finished in every mode, ascending.

        Raises FormatError where two parts have the same sample.
        """
        names = set.intersection(*(self._names(mode) for mode in self.modes))
        parts = [self._samples_of(name) for name in sorted(names)]
        for before, part in pairwise(parts):
            if part.start < before.stop:
                raise FormatError(f"{self.folder}: sample {part.start} is in two parts")
        return parts

    def todo(self, total: int) -> list[int]:
        """Which of so many samples are in no finished part, ascending."""
        done = {index for part in self.done() for index in part}
        return [index for index in range(total) if index not in done]

    def add(
        self, first: int, samples: Mapping[str, Sequence["Sample"]], metas: Mapping[str, "DumpMeta"]
    ) -> None:
        """Finish a part: as many samples in each mode, from that one on.

        Whether routing is group-limited is known from the samples.
        """
        from ...formats.native.container import write_native

        for mode, held in samples.items():
            part = range(first, first + len(held))
            grouped = any(
                s.routes is not None and s.routes.group_margin_TL is not None for s in held
            )
            about = replace(metas[mode], group_margins=grouped)
            kept = held if self.tokens else [sample.without_tokens() for sample in held]
            write_native(kept, about, self._path(part, mode), force=True)
            close_to_others(self._path(part, mode))

    def tidy(self) -> None:
        """Let go of parts that are not finished in every mode; nobody may be writing."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        done = self.done()
        for mode in self.modes:
            for name in self._names(mode):
                if self._samples_of(name) not in done:
                    (self.folder / f"{name}.{mode}.parquet").unlink()

    def drop_if_empty(self) -> None:
        """Let go of the folder where no part is finished: there is nothing to go on from."""
        if not self.done():
            self.drop()

    def drop(self) -> None:
        """Let go of the folder."""
        discard_folder(self.folder, self.folder.name.removesuffix(_ENDING))

    def join(self, mode: str, meta: "DumpMeta", output: Path, *, force: bool) -> None:
        """Write a mode's parts as one file."""
        from ...formats.native.container import open_native, write_native

        paths = [self._path(part, mode) for part in self.done()]
        grouped = any(open_native(path).meta.group_margins for path in paths)
        about = replace(meta, group_margins=grouped)
        write_native(self._samples(mode), about, output, force=force)

    def is_joined(self, mode: str, output: Path) -> bool:
        """Whether a file holds the routes of all parts: a run was killed after it wrote it."""
        from ...formats.native.container import open_native

        try:
            written = open_native(output)
        except RoutectlError:
            return False
        if not self.tokens and any(key.prompt or key.tokens for key in written.keys):
            return False
        return _digests(written) == _digests(self._samples(mode))

    def _samples(self, mode: str) -> Iterator["Sample"]:
        from ...formats.native.container import open_native

        for part in self.done():
            path = self._path(part, mode)
            held = open_native(path)
            if len(held) != len(part):
                raise FormatError(f"{path}: got {len(held)} samples, expected {len(part)}")
            yield from held

    def _path(self, part: range, mode: str) -> Path:
        return self.folder / f"{part.start:08d}-{part.stop - 1:08d}.{mode}.parquet"

    def _names(self, mode: str) -> set[str]:
        ending = f".{mode}.parquet"
        return {path.name.removesuffix(ending) for path in self.folder.glob(f"*{ending}")}

    def _samples_of(self, name: str) -> range:
        first, _, last = name.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise FormatError(f"{self.folder}: {name}: not a part, expected FIRST-LAST")
        return range(int(first), int(last) + 1)


def _digests(samples: "Iterable[Sample]") -> list[str | None]:
    return [None if s.routes is None else digest_routes(s.routes) for s in samples]


def parts_folder(output: Path) -> Path:
    """Where the finished parts of an output wait."""
    return waiting_for(output, _ENDING)


@contextmanager
def holding_parts(
    output: Path, job: dict[str, Any], modes: tuple[str, ...], *, resume: bool
) -> Iterator[Parts]:
    """The parts of a job, as open_parts gives them; no other run has them in the block.

    Where no part is finished, there is nothing to go on from: the job is begun. Raises
    RoutectlError where another run has them, or the folder cannot be made.
    """
    folder = parts_folder(output)
    private_folder(folder, _is_ours)
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        if lock_is_had(fd) is False or not is_at(fd, folder):
            raise RoutectlError(f"{folder}: another run writes it")
        fresh = not any(folder.glob("*.parquet"))
        if fresh:
            _begin(folder / _JOB, job)
        yield open_parts(output, job, modes, resume=resume or fresh)
    finally:
        with suppress(OSError):
            folder.rmdir()  # where nothing was begun
        os.close(fd)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds parts already, or nothing."""
    return (folder / _JOB).exists() or not any(folder.iterdir())


def _begin(path: Path, job: dict[str, Any]) -> None:
    with replacing(path, force=True, private=True) as stream:
        stream.write(json.dumps(job, indent=1).encode() + b"\n")


def open_parts(output: Path, job: dict[str, Any], modes: tuple[str, ...], *, resume: bool) -> Parts:
    """The parts of a job: those of an earlier run of the same job, or none yet.

    Raises MismatchError when there are parts and ``resume`` was not asked for, or when they are of
    another job, naming what differs.
    """
    parts = Parts(parts_folder(output), modes, job["tokens"])
    path = parts.folder / _JOB
    is_new = not os.path.lexists(parts.folder)
    private_folder(parts.folder, _is_ours)
    if is_new:
        _begin(path, job)
        return parts
    for held in parts.folder.iterdir():
        close_to_others(held)
    if not resume:
        raise MismatchError(
            f"{parts.folder}: an earlier run left finished parts there",
            hint="--resume to go on from them, or delete the folder",
        )
    try:
        earlier = json.loads(read_bytes(path))
        names = sorted(name for name in job if earlier[name] != job[name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(f"{path}: not the job of an earlier run; delete the folder") from None
    if names:
        name = names[0]
        raise MismatchError(
            f"{parts.folder}: parts of another run: {name} was {earlier[name]}, is {job[name]}"
        )
    return parts
