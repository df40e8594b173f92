"""Which answers are worth another try, and how long to wait for it."""

import email.utils
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import RoutectlError
from ..formats.documents.fields import one_line
from .http import PassingError, RefusedError, Reply

__all__ = ["Patience", "StoppedError", "body_or_raise", "patiently"]

_T = TypeVar("_T")
_PASSING = (408, 425, 429)
_SPREAD = 0.618  # of a wait: workers that failed together do not come back together


class StoppedError(RoutectlError):
    """The run ended while a request waited for its next try."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to try again, and the waits in between: ``first_s``, doubled up to ``longest_s``.

    A server's Retry-After comes first where it is longer; one beyond ``longest_s`` ends the tries.
    """

    retries: int = 6
    first_s: float = 0.5
    longest_s: float = 60.0

    def wait_s(self, tried: int, asked_s: float | None, worker: int) -> float:
        """Seconds before the next try, after ``tried`` of them; half to all of the doubled wait."""
        own = min(self.longest_s, self.first_s * 2.0 ** (tried - 1))
        return max(asked_s or 0.0, own * (0.5 + (worker * _SPREAD) % 1 / 2))


def _asked_s(reply: Reply) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date; None without one."""
    text = reply.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _said(body: bytes) -> str:
    """What an error answer says, in one line: its message, else the beginning of its text."""
    try:
        doc = json.loads(body)
    except (ValueError, RecursionError):
        return one_line(body[:200].decode("utf-8", "replace"))
    for name in ("error", "message", "detail"):
        doc = doc.get(name, doc) if isinstance(doc, dict) else doc
    return one_line(doc)


def body_or_raise(reply: Reply, where: str) -> bytes:
    """The body of an answer that is one.

    Raises PassingError for 408, 425, 429 and 5xx, RefusedError for other 4xx, RoutectlError for
    the rest.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply.body
    if status in _PASSING or status >= 500:
        raise PassingError(f"{where}: {status}: {_said(reply.body)}", _asked_s(reply))
    if status >= 400:
        raise RefusedError(f"{where}: {status}: {_said(reply.body)}", status)
    target = one_line(reply.headers.get("Location", "nowhere"))
    raise RoutectlError(f"{where}: {status}: redirected to {target}; name that address")


def patiently(
    attempt: Callable[[], _T], patience: Patience, stop: threading.Event, worker: int = 0
) -> _T:
    """What an attempt gives, tried again while it raises PassingError.

    Raises RoutectlError when patience ends, StoppedError when ``stop`` is set while waiting.
    """
    tried = 0
    while True:
        try:
            return attempt()
        except PassingError as error:
            tried += 1
            if stop.is_set():
                raise StoppedError(str(error)) from None
            if error.wait_s is not None and error.wait_s > patience.longest_s:
                raise RoutectlError(f"{error}; it asks to wait {error.wait_s:.0f} s") from None
            if tried > patience.retries:
                tries = "1 try" if tried == 1 else f"{tried} tries"
                raise RoutectlError(f"{error}; gave up after {tries}") from None
            if stop.wait(patience.wait_s(tried, error.wait_s, worker)):
                raise StoppedError(str(error)) from None
