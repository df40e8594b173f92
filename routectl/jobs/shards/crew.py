"""Who does the work of a command: options that every command with shards takes."""

from dataclasses import dataclass

from ..options import check_bounds, option
from .processors import processors

__all__ = ["ALONE", "Crew"]

_SHARDS = 16  # a process: the last ones to end are not waited for long
_FEW = 256  # shards at least, so that progress is seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """This process, or several of this machine. ``jobs`` None: all processors that it may use.

    Raises RoutectlError for a number below 1.
    """

    jobs: int | None = option(None, least=1, shared=True, help="Use so many processes.")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def size(self) -> int:
        """How many processes there are at most."""
        return processors() if self.jobs is None else self.jobs

    @property
    def most(self) -> int:
        """Into how many shards work is cut at most."""
        return max(_FEW, _SHARDS * self.size)


ALONE = Crew(jobs=1)
