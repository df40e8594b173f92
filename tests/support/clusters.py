"""A Ray cluster of several nodes on this machine: real ones, each with processes of its own."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from routectl.jobs.cluster.connection import connect_cluster

ROOT = Path(__file__).parent.parent.parent
_STORE_BYTES = 100 << 20  # Ray's least is 75 MiB
_SOON = {  # a node that is gone is known in seconds, not half a minute
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """Nodes of two processors each, and one connection to them, which routectl made."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": _SOON}
        )
        self.address: str = self._cluster.address
        self._more = [self.add()]
        before = signal.getsignal(signal.SIGTERM)
        self.cluster = connect_cluster(self.address)
        self.signals_are_kept = signal.getsignal(signal.SIGTERM) == before

    def add(self) -> object:
        """One more node."""
        return self._cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)

    def lose(self) -> None:
        """A node dies at once, with all of its workers; a new one comes."""
        gone = self._more.pop()
        self._cluster.remove_node(gone, allow_graceful=False)
        self._more.append(self.add())

    @contextmanager
    def kept_busy(self, processors: int) -> Iterator[None]:
        """So many of the four processors are somebody else's."""
        from ray.util.placement_group import placement_group, remove_placement_group

        if not processors:
            yield
            return
        others = placement_group([{"CPU": 1}] * processors)
        assert others.wait(60)
        try:
            yield
        finally:
            remove_placement_group(others)

    def close(self) -> None:
        """End all of them."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@contextmanager
def started() -> Iterator[Nodes]:
    """Two nodes, whose workers find routectl and what tests share."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    try:
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.close()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def workers(doing: str) -> list[psutil.Process]:
    """Processes of this machine that do a task of routectl's for Ray now."""
    return [
        one for one in psutil.process_iter() if _title(one).startswith(f"ray::routectl {doing}")
    ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
