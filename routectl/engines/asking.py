"""Many requests at once: a bounded crew of threads asks, answers come out as they arrive.

A run asks for what its journal lacks, the first request alone.
"""

import json
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ..errors import RoutectlError
from ..model import ModelFacts
from .answers import Answer, read_answer
from .http import Line, RefusedError
from .journal import Journal
from .patience import Patience, StoppedError, body_or_raise, patiently
from .requests import Request
from .server import Server

__all__ = ["Asking", "collect"]

_FOR_ALL = (401, 403, 404, 405)  # what one request is refused for, every request would be
_HINTS = {401: "--api-key-file FILE", 403: "--api-key-file FILE"}


@dataclass(frozen=True, slots=True)
class Asking:
    """How a server is asked: how many requests at once, how long for each, with which patience.

    With ``facts`` of the model every payload is decoded as it comes.
    """

    server: Server
    concurrency: int = 32
    timeout_s: float = 600.0
    patience: Patience = field(default_factory=Patience)
    facts: ModelFacts | None = None


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
        self.lines = [Line(asking.server.address, asking.timeout_s) for _ in range(size)]
        self.done: queue.Queue[_Answered | BaseException] = queue.Queue(size)
        self.threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(size)
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

    def _put(self, found: _Answered | BaseException) -> None:
        while not self.stop.is_set():
            try:
                self.done.put(found, timeout=0.1)
            except queue.Full:
                continue
            return

    def _ask(self, request: Request, worker: int) -> _Answered:
        asking, line = self.asking, self.lines[worker]
        where = f"{asking.server.address.url(request.path)}: sample {request.sample_id}"
        body = json.dumps(request.body).encode()

        def attempt() -> Answer:
            got = body_or_raise(line.call(request.path, body), where)
            return read_answer(got, request, asking.server, asking.facts)

        try:
            return _Answered(request, patiently(attempt, asking.patience, self.stop, worker))
        except RefusedError as error:
            if error.status in _FOR_ALL:
                raise RoutectlError(str(error), hint=_HINTS.get(error.status)) from None
            return _Answered(request, None, error)

    def arrived(self) -> Iterator[_Answered]:
        """The answers that wait to be taken: no answer is lost to another one's trouble."""
        while not self.done.empty():
            found = self.done.get()
            if isinstance(found, _Answered) and found.answer is not None:
                yield found

    def close(self) -> None:
        """End every call and wait for the threads."""
        self.stop.set()
        for line in self.lines:
            line.hang_up()
        for thread in self.threads:
            thread.join(timeout=2)


def _ask_all(asking: Asking, requests: Sequence[Request]) -> Generator[_Answered, None, None]:
    """What comes of each request, in the order of arrival.

    Raises what the first failing request raised: RoutectlError when patience ended or no other
    request could do better; answers that had arrived come out before. Calls under
    way are ended when the iterator is closed.
    """
    with closing(_Crew(asking, requests)) as crew:
        for _ in requests:
            found = crew.done.get()
            if isinstance(found, BaseException):
                yield from crew.arrived()
                raise found
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
                        raise RoutectlError(
                            str(asked.refused), hint="--skip-refused goes on without it"
                        )
                    refused.append((asked.request, asked.refused))
                    continue
                assert asked.answer is not None
                journal.add(asked.request.sample_id, asked.answer)
                on_answer(asked.answer.tokens)
    return refused
