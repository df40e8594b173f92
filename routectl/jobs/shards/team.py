"""Workers that are there from one run of a command to the next, and before its first.

A command that reads, and then counts by what it read, need not start them twice; one whose inputs
are large has them import while it opens these itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ...errors import RoutectlError
from .crew import Crew
from .processes import Workers

__all__ = ["Team", "current_team", "one_team"]

_EARLY_BYTES = 128 << 20  # of native files whose counting takes seconds, whatever is asked
_UNCODED = 4  # so many bytes of text or of arrays take as long as one of a native file
_EARLY = 16  # workers at most that are started before anything is known but that


@dataclass(slots=True)
class Team:
    """The workers that wait for a run; None where there are none yet."""

    workers: Workers | None = None

    def end(self) -> None:
        """End them."""
        if self.workers is not None:
            self.workers.end()
            self.workers = None


_CURRENT: ContextVar[Team | None] = ContextVar("team", default=None)


def current_team() -> Team | None:
    """That of the block around; None outside of any."""
    return _CURRENT.get()


@contextmanager
def one_team(crew: Crew, paths: Sequence[str], modules: Sequence[str] = ()) -> Iterator[None]:
    """A block whose runs share their workers; a block within a block is part of it.

    ``paths`` are the inputs as they were named: where they are large files of this machine, workers
    are started at once, and import ``modules``.
    """
    if _CURRENT.get() is not None or crew.ray is not None:
        yield
        return
    team = Team()
    token = _CURRENT.set(team)
    try:
        count = min(crew.size - 1, _EARLY)
        if count and sum(map(_file_bytes, paths)) >= _EARLY_BYTES:
            with suppress(RoutectlError):  # told where it matters: when there is work
                team.workers = Workers(count, modules)
        yield
    finally:
        _CURRENT.reset(token)
        team.end()


def _file_bytes(name: str) -> int:
    """The size of a file of this machine, as if it were native; 0 of anything else."""
    try:
        path = Path(name)
        size = path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError):
        return 0
    return size if path.suffix == ".parquet" else size // _UNCODED
