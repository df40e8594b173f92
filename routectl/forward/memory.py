"""Which device runs, and its free memory in bytes."""

from pathlib import Path

import torch

from ..errors import UnsupportedError

__all__ = ["free_memory", "pick_device"]


def pick_device(name: str, threads: int | None = None) -> str:
    """A torch device's name; "auto" is cuda where there is one. Sets the CPU threads, where given.

    Raises UnsupportedError for a device that is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"device {name}: {str(error).splitlines()[0]}") from None
    return name


def free_memory(device: str) -> int:
    """What a process can still take: of the GPU, or of the machine and its control group."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    limits = [_available()]
    group = Path("/sys/fs/cgroup")
    most, used = _number(group / "memory.max"), _number(group / "memory.current")
    if most is not None and used is not None:
        limits.append(most - used)
    return max(0, min(limits))


def _available() -> int:
    """MemAvailable of Linux; elsewhere 8 GiB are assumed."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 8 << 30
    return int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0]) * 1024


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
