"""A run shared by workers of a Ray cluster: one a GPU, or one with so many CPU threads."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError, UnsupportedError
from ..progress import Progress, tokens_rate
from .parts import Parts, parts_folder
from .samples import modes_of
from .share import DeviceWork, do_work

if TYPE_CHECKING:
    from ...forward import Prepared
    from ..cluster.tasks import Cluster, Here

__all__ = ["Elsewhere", "elsewhere_of"]

_TITLE = "routectl recomputing"  # of a task, for Ray's dashboard
_LOOK_S = 1.0  # between two looks at which parts are finished


@dataclasses.dataclass(frozen=True, slots=True)
class Elsewhere:
    """Workers of a cluster: how many, of which device, and with how many CPU threads each.

    sharing are those that share the memory of a node, at most. Each is one task of Ray's with one
    share of the samples, so that it reads the checkpoint once; parts that are finished are not made
    again where Ray calls it a second time.
    """

    cluster: "Cluster"
    device: str
    size: int
    threads: int
    sharing: int

    @property
    def _needs(self) -> dict[str, Any]:
        """What Ray keeps free for one of them."""
        if self.device == "cuda":
            return {"num_gpus": 1}
        return {"num_cpus": self.threads}

    def prepare(self, work: DeviceWork) -> "Prepared":
        """The checkpoint opened by its headers, and how a worker would run it: this process may
        have no GPU.
        """
        asked = self.cluster.call(_prepared_there, work, self.threads, **self._needs)
        said = self.cluster.result(asked, f"opening {work.options.checkpoint}")
        return dataclasses.replace(work.given((), device="cpu").prepare(), **said)

    def run(self, works: Sequence[DeviceWork], progress: Progress) -> None:
        """Have the parts of each finished; what has no samples is left out.

        When one fails, the others are given up. Raises the first one's RoutectlError, or one that
        says how Ray lost it.
        """
        shares = [work for work in works if work.indices]
        calls = {
            self.cluster.call(
                _done_there, work, self.threads, name=_name(work), **self._needs
            ): work
            for work in shares
        }
        parts = Parts(parts_folder(works[0].output), modes_of(works[0].options))
        waiting, total, done = list(calls), sum(len(work.indices) for work in shares), 0
        before = _finished(parts)
        try:
            with progress.counting("recomputing", total, "samples", tokens_rate) as advance:
                while waiting:
                    ready, waiting = self.cluster.first(waiting, _LOOK_S)
                    for ref in ready:
                        for line in self.cluster.result(ref, _name(calls[ref])):
                            progress.note(line)
                    more = _finished(parts) - before - done
                    if more:
                        advance(0, more)
                        done += more
        except BaseException:
            self.cluster.give_up(waiting)
            raise


def elsewhere_of(cluster: "Cluster", device: str, threads: int | None) -> Elsewhere:
    """The workers of a cluster for ``--device`` and ``--threads``: one for each of its GPUs, where
    it has some, else as many as its processors give; each has all of the smallest node's, unless
    told.

    Raises UnsupportedError for a device that it has not, RoutectlError for too many threads.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UnsupportedError(f"device {device}: expected auto, cuda or cpu with --ray")
    if cluster.gpus and device != "cpu":
        return Elsewhere(cluster, "cuda", cluster.gpus, threads or 1, 1)
    if device == "cuda":
        raise UnsupportedError("device cuda: no node of the cluster has a GPU")
    nodes = cluster.processors_by_node
    each = threads or min(nodes, default=1)
    size = sum(here // each for here in nodes)
    if not size:
        raise RoutectlError(f"--threads {each}: got nodes of {max(nodes, default=0)} processors")
    return Elsewhere(cluster, "cpu", size, each, max(here // each for here in nodes))


def _name(work: DeviceWork) -> str:
    """A share, as a message calls it."""
    return f"samples {work.indices[0]} to {work.indices[-1]}"


def _finished(parts: Parts) -> int:
    return sum(map(len, parts.done()))


def _placed(work: DeviceWork, threads: int) -> DeviceWork:
    """The work on the device that this worker has; sets its CPU threads."""
    from ...forward import pick_devices

    device = pick_devices(work.options.device, threads)[0]
    return work.given(work.indices, device=device)


def _prepared_there(here: "Here", work: DeviceWork, threads: int) -> dict[str, Any]:
    """What a worker finds of a checkpoint that another one may not: fields of Prepared."""
    with here.entered():
        prepared = _placed(work, threads).prepare()
        names = ("streamed", "free_bytes", "provenance")
        return {name: getattr(prepared, name) for name in names}


def _done_there(here: "Here", work: DeviceWork, threads: int) -> list[str]:
    """Finish the parts of a share; what is to be said of it."""
    said: list[str] = []
    with here.entered():
        do_work(_placed(work, threads), said.append)
    return said
