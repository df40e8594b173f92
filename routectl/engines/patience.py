"""How long trouble that may pass is waited out, and when to try again."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import RoutectlError
from .http import PassingError

__all__ = ["GaveUpError", "Patience", "StoppedError", "patiently"]

_T = TypeVar("_T")
_SPREAD = 0.618  # of a wait: workers that failed together do not come back together


class StoppedError(RoutectlError):
    """The run ended while a request waited for its next try."""


class GaveUpError(RoutectlError):
    """Patience ended; ``away`` as of the PassingError that was the last."""

    def __init__(self, message: str, *, away: bool) -> None:
        super().__init__(message)
        self.away = away


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try again, and the waits in between: ``first_s``, doubled up to ``longest_s``.

    A server that is away or busy is waited for ``outlast_s`` seconds, however many tries that is;
    for other trouble there are ``retries`` more tries. A server's Retry-After comes first where it
    is longer; one beyond what is left of the time ends the tries.
    """

    retries: int = 6
    first_s: float = 0.5
    longest_s: float = 15.0
    outlast_s: float = 600.0
    whole_s: float = math.inf

    def wait_s(self, tried: int, asked_s: float | None, worker: int) -> float:
        """Seconds before the next try, after ``tried`` of them; half to all of the doubled wait."""
        own = min(self.longest_s, self.first_s * 2.0 ** min(tried - 1, 60))
        return max(asked_s or 0.0, own * (0.5 + (worker * _SPREAD) % 1 / 2))


@dataclass(slots=True)
class _Trouble:
    """What became of the tries so far: how many failed, how many of them at the server itself,
    and since when the server is away, None while it is not.
    """

    patience: Patience
    worker: int
    begun: float
    tried: int = 0
    failed: int = 0
    away_since: float | None = None

    def wait_s(self, error: PassingError) -> tuple[float, str]:
        """Seconds before the next try and what is left then. Raises GaveUpError: none is left."""
        now, patience = time.monotonic(), self.patience
        self.tried += 1
        self.failed += not error.away
        self.away_since = (self.away_since or now) if error.away else None
        left_s = patience.outlast_s - (now - (self.away_since or now))
        if error.wait_s is not None and error.wait_s > left_s:
            raise GaveUpError(f"{error}; it asks to wait {error.wait_s:.0f} s", away=error.away)
        if left_s <= 0 if error.away else self.failed > patience.retries:
            tries = "1 try" if self.tried == 1 else f"{self.tried} tries"
            took = f" in {now - self.begun:.0f} s" if now - self.begun >= 1 else ""
            raise GaveUpError(f"{error}; gave up after {tries}{took}", away=error.away)
        wait = patience.wait_s(self.tried, error.wait_s, self.worker)
        if now + wait - self.begun > patience.whole_s:
            raise GaveUpError(f"{error}; no time for another try", away=error.away)
        if error.away:
            return min(wait, left_s), f"waiting for the server, {left_s:.0f} s at most"
        return wait, f"try {self.failed + 1} of {patience.retries + 1}"


def patiently(
    attempt: Callable[[], _T],
    patience: Patience,
    stop: threading.Event,
    worker: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> _T:
    """What an attempt gives, tried again while it raises PassingError; ``say`` is told why.

    Raises GaveUpError when patience ends, StoppedError when ``stop`` is set while waiting.
    """
    trouble = _Trouble(patience, worker, time.monotonic())
    while True:
        try:
            return attempt()
        except PassingError as error:
            if stop.is_set():
                raise StoppedError(str(error)) from None
            wait_s, left = trouble.wait_s(error)
            say(f"{error}; again in {wait_s:.1f} s ({left})")
            if stop.wait(wait_s):
                raise StoppedError(str(error)) from None
