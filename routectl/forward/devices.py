"""Which devices run, and their free memory in bytes."""

from pathlib import Path

import torch

from ..errors import UnsupportedError

__all__ = ["free_memory", "pick_devices"]


def pick_devices(
    names: str, threads: int | None = None, local_rank: int | None = None
) -> tuple[str, ...]:
    """Torch devices out of "auto", "cuda" or a list like "cuda:0,cuda:1"; sets the CPU threads.

    "auto" is "cuda" where there is one, else "cpu". "cuda" is all visible devices of the first
    one's kind; to a process of torchrun, the one of its local rank. Raises UnsupportedError for a
    device that is not there, and for devices of several kinds, which round differently.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if names == "auto":
        names = "cuda" if torch.cuda.is_available() else "cpu"
    if local_rank is not None:
        if names not in ("cpu", "cuda"):
            raise UnsupportedError(f"device {names}: expected auto, cuda or cpu under torchrun")
        names = f"cuda:{local_rank}" if names == "cuda" else names
    elif names == "cuda" and torch.cuda.is_available():
        every = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        return tuple(name for name in every if _kind(name) == _kind(every[0]))
    devices = tuple(names.split(","))
    kinds = {_kind(name): name for name in devices}
    if len(kinds) > 1:
        raise UnsupportedError(f"device {names}: got {', '.join(kinds)}, expected one kind")
    return devices


def _kind(name: str) -> str:
    """The model of a GPU, which is not touched, or the type of another device."""
    try:
        if torch.device(name).type == "cuda":
            return torch.cuda.get_device_name(name)
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(f"device {name}: {str(error).splitlines()[0]}") from None
    return torch.device(name).type


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
