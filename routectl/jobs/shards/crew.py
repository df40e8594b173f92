"""Who does the work of a command: options that every command with shards takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..options import check_bounds, option
from .processors import processors

if TYPE_CHECKING:
    from ..cluster.tasks import Cluster

__all__ = ["ALONE", "Crew"]

_SHARDS = 16  # a process: the last ones to end are not waited for long
_FEW = 256  # shards at least, so that progress is seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """This process, several of this machine, or a Ray cluster. ``jobs`` None: all processors that
    it may use.

    Raises RoutectlError for a number below 1, and for processes of this machine on a cluster.
    """

    jobs: int | None = option(None, least=1, shared=True, help="Use so many processes.")
    ray: str | None = option(
        None,
        metavar="auto|ADDRESS|local",
        shared=True,
        help="Use a Ray cluster: the one that runs here or RAY_ADDRESS names, another, or one "
        "started here for this command.",
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.jobs is not None and self.ray not in (None, "local"):
            raise RoutectlError(f"--jobs is of this machine: --ray {self.ray} has its own")

    @property
    def cluster(self) -> "Cluster":
        """The Ray cluster, connected to. Raises RoutectlError where none can be used."""
        from ..cluster.connection import connect_cluster

        assert self.ray is not None
        return connect_cluster(self.ray, self.jobs)

    @property
    def size(self) -> int:
        """How many processes there are at most."""
        if self.ray is not None:
            return self.cluster.processors
        return processors() if self.jobs is None else self.jobs

    @property
    def most(self) -> int:
        """Into how many shards work is cut at most."""
        return max(_FEW, _SHARDS * self.size)


ALONE = Crew(jobs=1)
