"""Functions that a cluster calls for this process, and what comes of them.

Where they run, how often one is tried that lost its worker or its node, what is spilled to disk and
what waits: that is Ray's.
"""

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from ...errors import RoutectlError
from ...limits import Limits, limits, within
from ...version import __version__

__all__ = ["Cluster", "Here", "Lent", "packed", "remote_function", "unpacked"]

_INSTALL = "install this routectl on all nodes, or ray job submit --runtime-env-json ..."


@dataclass(frozen=True, slots=True)
class Here:
    """What a function that runs elsewhere takes over from the process that asked for it.

    folder, where relative paths begin; budgets; and version, which must be the worker's own.
    """

    folder: str
    budgets: Limits
    version: str = __version__

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A worker as if it were the process that asked; to be used by what runs elsewhere.

        Raises RoutectlError for another version. One that comes out of the block is as ``told``.
        """
        with suppress(OSError):
            os.chdir(self.folder)
        try:
            if self.version != __version__:
                raise RoutectlError(
                    f"{_node()}: has routectl {__version__}, expected {self.version}", hint=_INSTALL
                )
            with within(self.budgets):
                yield
        except RoutectlError as error:
            self.told(error)
            raise

    def told(self, error: RoutectlError) -> RoutectlError:
        """An error of a worker, with a hint where it lacks the folder of relative paths."""
        if error.hint is None and not os.path.isdir(self.folder):
            error.hint = f"{_node()} has no {self.folder}: a path must be one that all nodes see"
        return error


def _node() -> str:
    return f"node {socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Lent:
    """Something that lies pickled in the cluster's memory; each worker has one copy of its own."""

    ref: Any

    def __call__(self) -> Any:
        """The thing; to be used by what runs elsewhere."""
        return _fetched(self.ref)


@lru_cache(maxsize=1)  # what a worker opens stays open for the next of its tasks
def _fetched(ref: Any) -> Any:
    import ray

    return unpacked(ray.get(ref))


def packed(thing: Any) -> bytes:
    """Something as it travels: what Ray packs itself comes with arrays that nobody may write to."""
    return pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Any:
    """What was packed, by this program on this cluster."""
    return pickle.loads(data)  # noqa: S301 - no file, no foreign bytes


@lru_cache
def remote_function(function: Callable[..., Any]) -> Any:
    """A function as Ray calls it: made once, or each call sends the function itself anew."""
    import ray

    return ray.remote(function)


@dataclass(frozen=True)
class Cluster:
    """Ray, connected. Functions that it calls take a Here first, and belong to a module."""

    ray: Any

    @property
    def processors(self) -> int:
        """How many the nodes have together now; more nodes may come."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    @property
    def processors_by_node(self) -> list[int]:
        """Those of each node that has some."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [int(has["CPU"]) for has in nodes if has.get("CPU", 0) >= 1]

    @property
    def gpus(self) -> int:
        """How many GPUs the nodes have together now."""
        return int(self.ray.cluster_resources().get("GPU", 0))

    @cached_property
    def here(self) -> Here:
        """This process."""
        return Here(os.getcwd(), limits())

    def hold(self, thing: Any) -> Lent:
        """Put something into the cluster's memory, once for all workers."""
        return Lent(self.ray.put(packed(thing)))

    def call(self, function: Callable[..., Any], *given: Any, **how: Any) -> Any:
        """Have a function called somewhere; what comes of it, to be waited for. ``how`` is Ray's.

        What comes of other calls may be among its arguments.
        """
        return remote_function(function).options(**how).remote(self.here, *given)

    def first(self, waiting: Sequence[Any], timeout_s: float | None = None) -> tuple[Any, Any]:
        """What is done of what is waited for, at least one unless time is up, and the rest."""
        done, rest = self.ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        if rest:  # whatever else is done already
            more, rest = self.ray.wait(rest, num_returns=len(rest), timeout=0)
            done += more
        return done, rest

    def result(self, ref: Any, of: str) -> Any:
        """What came of a call that is done, or will be.

        Raises the RoutectlError that it raised, or one that says how Ray lost it.
        """
        from ray import exceptions

        try:
            return self.ray.get(ref)
        except exceptions.RayTaskError as error:
            _raise_cause(error, of)
        except exceptions.RayError as error:
            raise _lost(error, of) from None

    def give_up(self, waiting: Sequence[Any]) -> None:
        """Let go of calls whose results nobody wants any more."""
        for ref in waiting:
            self.ray.cancel(ref)


def _raise_cause(error: Any, of: str) -> NoReturn:
    """Raise what a function raised; a bug with the lines of its worker."""
    from ray import exceptions

    cause = error.cause
    if isinstance(cause, RoutectlError):
        raise cause from None
    if isinstance(cause, exceptions.RayError):
        raise _lost(cause, of) from None
    if "No module named 'routectl" in str(error):
        raise RoutectlError("the cluster's workers have no routectl", hint=_INSTALL) from None
    raise RuntimeError(f"in a worker of Ray:\n{error}")


def _lost(error: Any, of: str) -> RoutectlError:
    said = str(error).splitlines() or [type(error).__name__]
    return RoutectlError(f"{of}: given up by Ray: {said[0]}")
