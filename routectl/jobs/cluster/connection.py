"""The Ray cluster that ``--ray`` names: found and connected to, or started on this machine.

Ray keeps one connection a process, until the process ends or it calls ``ray.shutdown()``: several
requests of a program share it, and one that the program has made itself is used as it is.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import RoutectlError, UnsupportedError, extra_hint
from .tasks import Cluster

__all__ = ["connect_cluster"]

_PATIENCE_S = 10.0  # for a head node to answer; Ray itself tries for two minutes
_QUIET = {"log_to_driver": False, "logging_level": "CRITICAL"}  # errors are told once, by routectl
_LOCAL = {"include_dashboard": False, **_QUIET}
_UNSENT = ("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody


def connect_cluster(named: str, processors: int | None = None) -> Cluster:
    """The cluster that was named: auto, local, or an address; ``processors`` are those of a local
    one.

    Raises UnsupportedError where Ray is not installed, and RoutectlError where no cluster answers,
    or this process is connected to another.
    """
    ray = _loaded()
    if ray.is_initialized():
        _refuse_other(ray, named)
        return Cluster(ray)
    address = os.environ.get("RAY_ADDRESS", named) if named == "auto" else named
    try:
        with _signals_kept():
            if address == "local":
                _start(ray, processors)
            else:
                _reach(address)
                ray.init(address=address, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreached(named, error) from None
    return Cluster(ray)


def _loaded() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise UnsupportedError(
            "--ray needs ray, which is not installed", hint=extra_hint("ray")
        ) from None
    return ray


def _start(ray: Any, processors: int | None) -> None:
    """Start Ray on this machine; it ends with this process."""
    name, value = _UNSENT
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        ray.init(address="local", num_cpus=processors, **_LOCAL)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _refuse_other(ray: Any, named: str) -> None:
    """Raise RoutectlError where an address is named that is not the one that is connected to."""
    if named in ("auto", "local") or "://" in named:
        return
    here = ray.get_runtime_context().gcs_address
    if not _is_at(named, here):
        raise RoutectlError(
            f"--ray {named}: this program is connected to the cluster at {here}",
            hint="ray.shutdown() ends that connection",
        )


def _is_at(named: str, here: str) -> bool:
    """Whether two addresses are one: Ray calls a loopback one by the node's own."""
    host, _, port = named.rpartition(":")
    its_host, _, its_port = here.rpartition(":")
    try:
        found = socket.gethostbyname(host)
    except (OSError, UnicodeError):
        return False
    return port == its_port and (found == its_host or found.startswith("127."))


def _reach(address: str) -> None:
    """Knock at an address. Raises ConnectionError, TimeoutError; nothing for one without a port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except TimeoutError:
        raise TimeoutError(f"nothing answers within {_PATIENCE_S:.0f} s") from None
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from None


def _unreached(named: str, error: Exception) -> RoutectlError:
    """Why there is no cluster, in one line."""
    if named == "auto" and "RAY_ADDRESS" not in os.environ:
        return RoutectlError(
            "--ray auto: no Ray cluster runs on this machine, and RAY_ADDRESS names none",
            hint="--ray local starts one for this command; ray start --head one that stays",
        )
    said = " ".join(str(error).split())
    return RoutectlError(f"--ray {named}: no cluster can be used there: {said}")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Handlers of signals are as before when the block ends: Ray puts its own in their place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
