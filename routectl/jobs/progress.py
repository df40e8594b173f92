"""What a job says while it runs, to whoever listens: notes, how far it is, parts of its answer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..visible import visible

if TYPE_CHECKING:
    from ..dump import Dump, Sample

__all__ = ["SILENT", "Advance", "Progress", "Show", "tokens_rate"]

Show = Callable[[float, int, Callable[[float], str]], None]
"""Takes the units done, those in all, and what to say after so many seconds."""


class Advance(Protocol):
    """Takes the work done since the last call, and how many units that were."""

    def __call__(self, work: int, more: int = 1, /) -> None:
        """Take them."""


def _ignore(_: Any) -> None:
    pass


def _visibly(told: Callable[[str], None], line: str) -> None:
    told(visible(line, end=1000))


def _no_line(what: str, unit: str) -> AbstractContextManager[Show | None]:
    return nullcontext(None)


def tokens_rate(tokens: float) -> str:
    """Tokens a second, in words."""
    return f"{tokens:,.0f} tokens/s"


@dataclass(frozen=True, slots=True)
class Progress:
    """Who listens to a job; nobody, unless told.

    note   takes a line: what was written, what was left out; text of others in it is visible
    line   gives what shows how far something is, or None; it is told what is done, and its unit
    part   takes a part of the answer as it comes: a watched dump's document, a noise run
    """

    note: Callable[[str], None] = _ignore
    line: Callable[[str, str], AbstractContextManager[Show | None]] = _no_line
    part: Callable[[Any], None] = _ignore

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", partial(_visibly, self.note))

    def within(self, where: str) -> "Progress":
        """The same listener, told where each of its lines is: in which of several runs."""
        return replace(self, line=lambda what, unit: self.line(f"{where}, {what}", unit))

    @contextmanager
    def counting(
        self, what: str, total: int, unit: str, rate: Callable[[float], str]
    ) -> Iterator["Advance"]:
        """A line that counts: each call is of so much work, and one unit more or so many.

        ``rate`` words work a second.
        """
        with self.line(what, unit) as show:
            units = work_done = 0
            if show is not None:
                show(0, total, lambda elapsed: "")

            def advance(work: int, more: int = 1) -> None:
                nonlocal units, work_done
                units, work_done = units + more, work_done + work
                if show is not None:
                    passes = max(1, -(-units // max(total, 1)))  # a dump may be read again
                    show(units, passes * total, lambda s: rate(work_done / s if s else 0.0))

            yield advance

    @contextmanager
    def counting_samples(self, what: str, total: int) -> Iterator[Callable[["Sample"], None]]:
        """A line that counts the samples that it is told of."""
        with self.counting(what, total, "samples", tokens_rate) as advance:

            def on_sample(sample: "Sample") -> None:
                advance(0 if sample.routes is None else sample.routes.num_tokens)

            yield on_sample

    @contextmanager
    def watching(self, dump: "Dump", what: str, passes: int = 1) -> Iterator["Dump"]:
        """The dump, read so many times, with a line that shows how far."""
        with self.counting_samples(what, passes * len(dump)) as on_sample:
            yield dump.watched(on_sample)


SILENT = Progress()
