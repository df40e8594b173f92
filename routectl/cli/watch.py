"""``routectl watch DIR``."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError
from ..jobs.watch.look import Looked, Lookout
from ..reports.text.wording import plural
from .options import Format, Model, NumExperts, NumLayers, Start, TopK, model_from
from .output import note

if TYPE_CHECKING:
    from ..jobs.watch.follower import Follower

__all__ = ["watch_command"]

_DIR = typer.Argument(metavar="DIR", show_default=False, help="The folder; those below it too.")
_PATTERN = typer.Option(
    "--pattern", metavar="GLOB", help="Only such paths below DIR, as '*.jsonl'; repeatable."
)
_SETTLE = typer.Option(min=0.0, help="Seconds without a change before a file is read.")
_GIVE_UP = typer.Option(
    min=0.0, help="Seconds without a change after which an unreadable file is reported."
)
_INTERVAL = typer.Option(min=0.01, help="Seconds between two looks at the folder.")
_ONCE = typer.Option("--once", help="End when every file that is there was looked at.")
_IDLE = typer.Option(
    "--until-idle",
    min=0.0,
    metavar="SECONDS",
    show_default=False,
    help="End when nothing has changed for so long.",
)
_AGAINST = typer.Option(
    "--against",
    metavar="PATTERN",
    show_default=False,
    help="The reference of a dump: a path with {name} or {stem} of the dump in it.",
)
_FAIL_ON = typer.Option(help="The least severity to exit 1 for: error, warning or note.")
_JSON = typer.Option("--json", help="Print each dump as a line of JSON.")


@dataclass(slots=True)
class _Watch:
    """A watch under way: what is followed, how it is looked at, what was found so far."""

    follower: "Follower"
    lookout: Lookout
    give_up_s: float
    fail_on: str
    as_json: bool
    codes: dict[Path, int] = field(default_factory=dict)
    passed: set[Path] = field(default_factory=set)
    active: float = 0.0

    def look(self) -> None:
        """Look at the folder once, and at each file that has come to rest."""
        from ..jobs.watch.follower import stamp_of

        for path in self.follower.poll(time.monotonic()):
            before = stamp_of(path)
            if before is None:
                continue
            began = time.monotonic()
            found = self.lookout.look(path)
            self.active = time.monotonic()
            if before != stamp_of(path):
                continue  # what was read is no more: the next look tells of it again
            if found.doubtful and self.follower.put_off(path, self.give_up_s, began):
                continue
            self._say(path, found)

    def _say(self, path: Path, found: Looked) -> None:
        from ..reports.check.document import watch_document
        from ..reports.check.text import watch_text

        if found.result is None and found.error is None:
            self.passed.add(path)
            return
        self.passed.discard(path)
        document = watch_document(
            path.relative_to(self.follower.root).as_posix(),
            datetime.now().astimezone().isoformat(timespec="seconds"),
            found.result,
            error=found.error,
            fail_on=self.fail_on,
        )
        self.codes[path] = document["exit_code"]
        print(json.dumps(document) if self.as_json else watch_text(document), flush=True)

    def over(self, once: bool, idle_s: float | None) -> bool:
        """Whether the watch has come to its end."""
        if not self.follower.resting:
            return False
        last = max(self.active, self.follower.changed or 0.0)
        return once or (idle_s is not None and time.monotonic() - last >= idle_s)

    def finish(self) -> int:
        """Say what it came to, and give the exit code."""
        found = list(self.codes.values())
        if not found:
            note(f"{self.follower.root}: no dump was seen")
            return 2
        seen = plural(len(found), "dump")
        said = f"{seen} seen, {found.count(1)} failed, {found.count(2)} unchecked"
        if self.passed:
            said += f"; {plural(len(self.passed), 'other file')}"
        note(f"{self.follower.root}: {said}")
        return max(found)


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; the list holds which came."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def watch_command(
    folder: Annotated[Path, _DIR],
    pattern: Annotated[list[str] | None, _PATTERN] = None,
    settle: Annotated[float, _SETTLE] = 5.0,
    give_up: Annotated[float, _GIVE_UP] = 120.0,
    interval: Annotated[float, _INTERVAL] = 2.0,
    once: Annotated[bool, _ONCE] = False,
    until_idle: Annotated[float | None, _IDLE] = None,
    against: Annotated[str | None, _AGAINST] = None,
    fail_on: Annotated[str, _FAIL_ON] = "error",
    as_json: Annotated[bool, _JSON] = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Follow a training run's dump folder: check each new dump, print a line each.

    A file is read when it has not changed for --settle seconds; one that cannot be read then is
    waited for, and reported once when it has not changed for --give-up seconds. DIR is stat'ed and
    never written into. Ends by --once, --until-idle, Ctrl-C (130) or SIGTERM (143). Exit status
    of an end of its own: 0 no finding of the severity of --fail-on, 1 at least one, 2 a dump that
    could not be checked, or none seen. docs/live.md says more.
    """
    from ..formats.documents.facts import read_model
    from ..jobs.watch.follower import Follower
    from ..ops.check.findings import SEVERITIES

    if fail_on not in SEVERITIES:
        raise RoutectlError(f"--fail-on {fail_on!r} is not known: {', '.join(SEVERITIES)}")
    if against is not None and "{name}" not in against and "{stem}" not in against:
        raise RoutectlError(f"--against {against}: expected {{name}} or {{stem}} in it")
    if not folder.is_dir():
        raise RoutectlError(f"{folder}: no folder is there")
    facts = model_from(model, num_layers, top_k, num_experts)
    if isinstance(facts, Path):
        read_model(facts)  # a wrong one is said now, not with every file
    lookout = Lookout(facts, form, start, against)
    follower = Follower(folder, pattern or (), settle)
    watch = _Watch(follower, lookout, max(give_up, settle), fail_on, as_json)
    watch.active = time.monotonic()
    with _ended_by_signals() as came:
        try:
            while True:
                watch.look()
                if watch.over(once, until_idle):
                    return watch.finish()
                time.sleep(interval)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.stdout.flush()
            watch.finish()
            return 128 + (came[0] if came else signal.SIGINT)
