"""What ``routectl watch`` is asked: a folder followed, each new dump in it checked."""

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ...errors import RoutectlError
from ...reports.text.wording import plural
from ..inputs import Input, parse_input
from ..options import argument, check_bounds, fail_on_option, option
from ..progress import SILENT, Progress
from ..reading import Reading, refuse_severity
from .follower import Follower, stamp_of
from .look import Looked, Lookout, check_template, reference_of

__all__ = ["WatchRequest", "Watched", "watch_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """A folder, and when and how the files in it are checked; times are in seconds."""

    folder: Path = argument(metavar="DIR", help="The folder; those below it too.")
    pattern: tuple[str, ...] = option(
        (),
        metavar="GLOB",
        help="Only such paths below DIR, as '*.jsonl' or '*.npz::start=0'; repeatable.",
    )
    settle: float = option(5.0, least=0.0, help="Seconds without a change before a file is read.")
    give_up: float = option(
        120.0,
        least=0.0,
        help="Seconds without a change after which an unreadable file is reported.",
    )
    interval: float = option(
        2.0, least=0.01, most=86400, help="Seconds between two looks at the folder."
    )
    once: bool = option(False, help="End when every file that is there was looked at.")
    until_idle: float | None = option(
        None, least=0.0, metavar="SECONDS", help="End when nothing has changed for so long."
    )
    against: str | None = option(
        None,
        metavar="PATTERN",
        help="The reference of a dump: a path with {name} of the dump in it, its {stem}, or "
        "{parent}, its folder below DIR.",
    )
    fail_on: str = fail_on_option()
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        _ = self.patterns
        refuse_severity(self.fail_on)
        if self.against is not None:
            check_template(self.against)

    @property
    def patterns(self) -> tuple[Input, ...]:
        """The patterns, each with what it says of its files. Raises RoutectlError."""
        return tuple(parse_input(text, exists=lambda _: False) for text in self.pattern)

    def said_of(self, path: Path) -> Input:
        """A file with what the first pattern that it matches says of it."""
        below = path.relative_to(self.folder).as_posix()
        for one in self.patterns:
            if fnmatchcase(below, one.path):
                return replace(one, path=str(path))
        return Input(str(path))

    def reference_of(self, path: Path) -> str:
        """Where the reference of a file is."""
        assert self.against is not None
        return reference_of(self.against, PurePosixPath(path.relative_to(self.folder).as_posix()))


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watch came to: dumps seen, those with a finding, those that could not be checked.

    others   files that are no dumps
    pending  files that are there and were not told of: waited for, or not looked at yet
    """

    dumps: int
    failed: int
    unchecked: int
    others: int
    pending: int

    @property
    def exit_code(self) -> int:
        """0 nothing found, 1 a finding or more, 2 a dump unchecked, a file pending, none seen."""
        return 2 if self.unchecked or self.pending or not self.dumps else int(self.failed > 0)


def watch_folder(request: WatchRequest, progress: Progress = SILENT) -> Watched:
    """Follow a folder until the request's end; a dump's document goes to ``progress.part``.

    Raises UnknownModelError where the first dump does not say its model and the request does not
    either: no other would be checked. On KeyboardInterrupt it says what it came to, and raises it
    on.
    """
    from ...formats.documents.facts import read_model

    if not request.folder.is_dir():
        raise RoutectlError(f"{request.folder}: no folder is there")
    reading = request.reading
    if reading.model is not None:
        read_model(reading.model)  # a wrong one is said now, not with every file
    against = None if request.against is None else request.reference_of
    lookout = Lookout(reading, against, request.said_of)
    globs = [one.path for one in request.patterns]
    follower = Follower(request.folder, globs, request.settle)
    watch = _Watch(request, follower, lookout, progress)
    watch.active = time.monotonic()
    try:
        while not watch.look():
            time.sleep(request.interval)
    except KeyboardInterrupt:
        progress.note(f"{request.folder}: {_told(watch.found())}")
        raise
    found = watch.found()
    progress.note(f"{request.folder}: {_told(found)}")
    return found


def _told(found: Watched) -> str:
    """What a watch came to, in words."""
    pending = f"{found.pending} pending" if found.pending else ""
    if not found.dumps:
        return f"no dump was seen, {pending}" if pending else "no dump was seen"
    seen = plural(found.dumps, "dump")
    said = [f"{seen} seen", f"{found.failed} failed", f"{found.unchecked} unchecked", pending]
    others = f"; {plural(found.others, 'other file')}" if found.others else ""
    return ", ".join(filter(None, said)) + others


@dataclass(slots=True)
class _Watch:
    """A watch under way: what is followed, how it is looked at, what was found so far."""

    request: WatchRequest
    follower: Follower
    lookout: Lookout
    progress: Progress
    codes: dict[Path, int] = field(default_factory=dict)
    passed: set[Path] = field(default_factory=set)
    waited_for: set[Path] = field(default_factory=set)
    active: float = 0.0

    def look(self) -> bool:
        """Look at the folder once, and at each file that has come to rest; whether it is over."""
        patience = max(self.request.give_up, self.request.settle)
        for path in self.follower.poll(time.monotonic()):
            before = stamp_of(path)
            if before is None:
                self.follower.take_back(path)
                continue
            began = time.monotonic()
            found = self._looked(path)
            self.active = time.monotonic()
            if before != stamp_of(path):
                self.follower.take_back(path)  # what was read is no more
                continue
            if found.doubtful and self.follower.put_off(path, patience, began):
                self._tell_wait(path, found, patience)
                continue
            self._tell(path, found)
        return self._over()

    def _looked(self, path: Path) -> Looked:
        """A look at a file; an unknown model is trouble unless a dump has been checked before."""
        from ...formats.documents.facts import UnknownModelError

        try:
            return self.lookout.look(path)
        except UnknownModelError as error:
            if not self.codes:
                raise
            return Looked(error=f"{str(error).removeprefix(f'{path}: ')}; {error.hint}")

    def _tell_wait(self, path: Path, found: Looked, patience_s: float) -> None:
        """Say once of a file why it is waited for."""
        if path not in self.waited_for:
            self.waited_for.add(path)
            why = found.error or "samples of it cannot be read"
            self.progress.note(f"{path}: {why}; waited for, {patience_s:g} s at most: --give-up")

    def _tell(self, path: Path, found: Looked) -> None:
        from ...reports.check.document import watch_document

        if found.result is None and found.error is None:
            self.passed.add(path)
            return
        self.passed.discard(path)
        document = watch_document(
            path.relative_to(self.follower.root).as_posix(),
            datetime.now().astimezone().isoformat(timespec="seconds"),
            found.result,
            error=found.error,
            fail_on=self.request.fail_on,
        )
        self.codes[path] = document["exit_code"]
        self.progress.part(document)

    def _over(self) -> bool:
        if not self.follower.resting:
            return False
        last = max(self.active, self.follower.changed or 0.0)
        idle_s = self.request.until_idle
        return self.request.once or (idle_s is not None and time.monotonic() - last >= idle_s)

    def found(self) -> Watched:
        """What it has come to so far."""
        codes, told = list(self.codes.values()), self.codes.keys() | self.passed
        pending = len(self.follower.paths() - told)
        return Watched(len(codes), codes.count(1), codes.count(2), len(self.passed), pending)
