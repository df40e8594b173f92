"""Many requests at once: a bounded crew of threads asks, answers come out as they arrive.

A run asks for what its journal lacks, the first request alone.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, field

from ..errors import RoutectlError
from ..limits import limits
from ..model import ModelFacts
from .answers import Answer, read_answer
from .complaints import body_or_raise
from .http import Allowance, Line, RefusedError
from .journal import Journal
from .patience import Patience, StoppedError, patiently
from .requests import Request
from .server import Server

__all__ = ["Asking", "collect"]

_FOR_ALL = (401, 403, 404, 405)  # what one request is refused for, every request would be
_QUIET_S = 10.0  # between two lines about tries
_END_S = 1.0  # for the threads to end in; they are daemons


@dataclass(frozen=True, slots=True)
class Asking:
    """How a server is asked: how many requests at once, how long for each, with which patience.

    With ``facts`` of the model every payload is decoded as it comes. ``say`` is told why requests
    are sent again. With ``tokens`` false token ids and text are kept nowhere.
    """

    server: Server
    concurrency: int = 32
    timeout_s: float = 600.0
    patience: Patience = field(default_factory=Patience)
    facts: ModelFacts | None = None
    say: Callable[[str], None] = lambda _: None
    tokens: bool = True


@dataclass(frozen=True, slots=True)
class _Answered:
    """A request with its answer, or with why the server refused this one."""

    request: Request
    answer: Answer | None
    refused: RefusedError | None = None


class _Crew:
    """Threads that take requests in order and put what came of them into a bounded queue."""

    def __init__(self, asking: Asking, requests: Sequence[Request]) -> None:
        self.asking = asking
        self.todo = iter(requests)
        self.lock, self.stop = threading.Lock(), threading.Event()
        size = min(asking.concurrency, len(requests))
        address, allowance = asking.server.address, Allowance(limits().answers)
        self.lines = [Line(address, asking.timeout_s, allowance) for _ in range(size)]
        self.done: queue.Queue[_Answered | BaseException | str] = queue.Queue(size)
        self.unsaid, self.quiet_until = 0, 0.0
        self.threads = [  # each in a copy of this context: the limits of the run are its, too
            threading.Thread(target=copy_context().run, args=(self._work, i), daemon=True)
            for i in range(size)
        ]
        for thread in self.threads:
            thread.start()

    def _work(self, worker: int) -> None:
        while not self.stop.is_set():
            with self.lock:
                request = next(self.todo, None)
            if request is None:
                return
            try:
                found: _Answered | BaseException = self._ask(request, worker)
            except StoppedError:
                return
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                found = error
            self._put(found)

    def _say(self, why: str) -> None:
        """A line about a try, unless there was one just now: when a server goes, all are told."""
        with self.lock:
            if time.monotonic() < self.quiet_until:
                self.unsaid += 1
                return
            more = f"; {self.unsaid} more tries since the last line" if self.unsaid else ""
            self.unsaid, self.quiet_until = 0, time.monotonic() + _QUIET_S
        self._put(why + more)

    def _put(self, found: _Answered | BaseException | str) -> None:
        while not self.stop.is_set():
            try:
                self.done.put(found, timeout=0.1)
            except queue.Full:
                continue
            return

    def _ask(self, request: Request, worker: int) -> _Answered:
        asking, line = self.asking, self.lines[worker]
        address = asking.server.address
        url = address.url(request.path)
        body = json.dumps(request.body).encode()

        def attempt() -> Answer:
            reply, where = line.call(request.path, body), f"{url}: sample {request.sample_id}"
            got = body_or_raise(reply, where, url=url, with_key=address.key is not None)
            return read_answer(got, request, asking.server, asking.facts, tokens=asking.tokens)

        try:
            answer = patiently(attempt, asking.patience, self.stop, worker, self._say)
            return _Answered(request, answer)
        except RefusedError as error:
            if error.status in _FOR_ALL:
                raise RoutectlError(str(error), hint=error.hint) from None
            return _Answered(request, None, error)

    def arrived(self) -> Iterator[_Answered]:
        """The answers that wait to be taken: no answer is lost to another one's trouble."""
        while not self.done.empty():
            found = self.done.get()
            if isinstance(found, _Answered) and found.answer is not None:
                yield found

    def close(self) -> None:
        """End every call, and give the threads a moment to end."""
        self.stop.set()
        for line in self.lines:
            line.hang_up()
        until = time.monotonic() + _END_S
        for thread in self.threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))


def _ask_all(asking: Asking, requests: Sequence[Request]) -> Generator[_Answered, None, None]:
    """What comes of each request, in the order of arrival.

    Raises what the first failing request raised: RoutectlError when patience ended or no other
    request could do better; answers that had arrived come out before. Calls under
    way are ended when the iterator is closed.
    """
    left = len(requests)
    with closing(_Crew(asking, requests)) as crew:
        while left:
            found = crew.done.get()
            if isinstance(found, str):
                asking.say(found)
                continue
            if isinstance(found, BaseException):
                yield from crew.arrived()
                raise found
            left -= 1
            yield found


def collect(
    asking: Asking,
    requests: Sequence[Request],
    journal: Journal,
    *,
    skip_refused: bool,
    on_answer: Callable[[int], None],
) -> list[tuple[Request, RefusedError]]:
    """Ask for every sample that the journal lacks, and return those that the server refused.

    The first is asked for alone: a server without routes, or with another model, is found out
    before others are asked. ``on_answer`` gets the tokens of each answer. Raises RoutectlError
    when the run cannot go on, or a request is refused and ``skip_refused`` is false; what came
    before is in the journal.
    """
    missing = [request for request in requests if request.sample_id not in journal]
    refused: list[tuple[Request, RefusedError]] = []
    for batch in (missing[:1], missing[1:]):
        with closing(_ask_all(asking, batch)) as answers:
            for asked in answers:
                if asked.refused is not None:
                    if not skip_refused:
                        hint = asked.refused.hint or "--skip-refused goes on without it"
                        raise RoutectlError(str(asked.refused), hint=hint)
                    refused.append((asked.request, asked.refused))
                    continue
                assert asked.answer is not None
                journal.add(asked.request.sample_id, asked.answer)
                on_answer(asked.answer.tokens)
    return refused
