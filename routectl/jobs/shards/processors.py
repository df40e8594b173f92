"""How many processors this process may use: those it is bound to, and what its cgroups give it.

Sources: proc(5), sched_setaffinity(2), Linux Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from ...errors import FormatError
from ...files.reading import open_regular

__all__ = ["processors", "quota_of"]

_SELF = Path("/proc/self")


def processors(about: Path = _SELF) -> int:
    """At least 1. ``about`` is the folder that tells of this process."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = quota_of(about)
    return max(1, min(bound or 1, ceil(quota) if quota is not None else bound or 1))


def quota_of(about: Path = _SELF) -> float | None:
    """The processors that the least of its cgroups gives a process; None where none limits it."""
    try:
        groups = _text(about / "cgroup").splitlines()
        mounts = _text(about / "mountinfo").splitlines()
    except FormatError:  # no Linux
        return None
    found = []
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += [_quota(one, "cpu.max") for one in _folders(mounts, path, "cgroup2", "")]
        elif "cpu" in controllers.split(","):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            found += [_quota(one, *names) for one in _folders(mounts, path, "cgroup", "cpu")]
    limits = [one for one in found if one is not None]
    return min(limits) if limits else None


def _folders(mounts: list[str], path: str, kind: str, controller: str) -> Iterator[Path]:
    """A cgroup's folder and those above it, as far as they are mounted here."""
    for line in mounts:
        here, _, of = line.partition(" - ")
        fields, told = here.split(), of.split()
        if len(fields) < 5 or not told or told[0] != kind:
            continue
        if controller and controller not in told[-1].split(","):
            continue
        root, top = fields[3], Path(_unescaped(fields[4]))
        inner = os.path.relpath(path, root) if path.startswith(root) else "."
        folder = top / inner
        yield folder
        while folder != top and top in folder.parents:
            folder = folder.parent
            yield folder


def _unescaped(text: str) -> str:
    """A mount point: a blank in it is \\040."""
    return text.replace("\\040", " ")


def _quota(folder: Path, *names: str) -> float | None:
    """Quota over period out of one file or two; None for no limit."""
    try:
        told = [word for name in names for word in _text(folder / name).split()]
        quota, period = float(told[0]), float(told[1])
    except (FormatError, ValueError, IndexError):  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    """A file of the kernel's, whose size is not known before it is read."""
    with open_regular(path) as stream:
        return stream.read().decode("ascii", "replace")
