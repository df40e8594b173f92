"""Copies of device tensors in host memory that the device is not waited for."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["HostCopies", "HostCopy"]

_SLOTS = 8  # copies under way at once; one more waits for the oldest


@dataclass(slots=True, eq=False)
class HostCopy:
    """A tensor on its way to the host; ``arrived`` is it, once ``HostCopies`` handed it over."""

    arrived: torch.Tensor | None = None

    def get(self) -> torch.Tensor:
        """The host's tensor. Raises AssertionError before ``drain``."""
        assert self.arrived is not None
        return self.arrived


class HostCopies:
    """Copies under way, at most eight at once.

    ``put`` returns at once: on CUDA the copy runs on a stream of its own into pinned memory, after
    what the tensor's stream has queued so far, and is handed over when a later ``put`` or ``drain``
    finds it done. Pinned buffers are used again. On the CPU a copy is made there and then.
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[Any, torch.Tensor, torch.Tensor, HostCopy]] = deque()
        self._free: list[torch.Tensor] = []
        self._stream: Any = None

    def put(self, tensor: torch.Tensor) -> HostCopy:
        """Begin to copy a tensor, as it is now."""
        source = tensor.detach().contiguous()
        if source.device.type == "cpu":
            return HostCopy(source.clone())
        self._hand_over(wait=len(self._under_way) >= _SLOTS)
        if self._stream is None:
            self._stream = torch.cuda.Stream(device=source.device)  # type: ignore[no-untyped-call]
        pinned = self._pinned(source.nbytes)
        target = pinned[: source.nbytes].view(source.dtype).view(source.shape)
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        source.record_stream(self._stream)
        self._under_way.append((done, pinned, target, copy := HostCopy()))
        return copy

    def drain(self) -> None:
        """Wait for all copies and hand them over."""
        while self._under_way:
            self._hand_over(wait=True)

    def _hand_over(self, *, wait: bool) -> None:
        """Hand over the copies that are done; with ``wait`` the oldest in any case."""
        while self._under_way:
            done, pinned, target, copy = self._under_way[0]
            if not done.query():
                if not wait:
                    return
                done.synchronize()
            wait = False
            self._under_way.popleft()
            copy.arrived = target.clone()
            self._free.append(pinned)

    def _pinned(self, size: int) -> torch.Tensor:
        """A pinned buffer of at least so many bytes."""
        for number, buffer in enumerate(self._free):
            if buffer.numel() >= size:
                return self._free.pop(number)
        self._free.clear()
        return torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=True)
