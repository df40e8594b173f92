"""What a server is asked about itself, before any sample: short, all of it within seconds."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from .complaints import body_or_raise
from .http import Address, Line, Reply
from .patience import GaveUpError, Patience, patiently

__all__ = ["probing"]

_LONGEST_S, _SHORTEST_S = 10.0, 1.0
_SHARE = 4  # of the time for an answer: what a server knows of itself needs no model run


def probing(address: Address, timeout_s: float, patience: Patience) -> Callable[[str], Reply]:
    """A GET of a path of a server: all of them together have seconds, from now on.

    They are a quarter of ``timeout_s``, of 1 to 10, and ``patience.outlast_s`` beside, to wait for
    a server that is away or busy. Each raises GaveUpError when there is no answer, or no time left,
    and what ``Line.call`` raises.
    """
    within_s = min(_LONGEST_S, max(_SHORTEST_S, timeout_s / _SHARE))
    line, never = Line(address, min(timeout_s, within_s)), threading.Event()
    end = time.monotonic() + within_s + patience.outlast_s

    def ask(path: str) -> Reply:
        def attempt() -> Reply:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise GaveUpError(f"{address.url(path)}: no time left to ask for it", away=False)
            reply = line.call(path, within_s=left_s)
            if reply.status == 429 or reply.status >= 500:
                body_or_raise(reply, address.url(path))
            return reply

        left_s = max(0.0, end - time.monotonic())
        return patiently(attempt, replace(patience, whole_s=left_s), never)

    return ask
