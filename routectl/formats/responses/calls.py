"""Samples out of the records of their calls, in the process that has these or in another one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from ...dump import Sample
from ...model import ModelFacts
from ..wire.sample import to_sample
from .records import KeptRecords, Records
from .segments import merge_samples

__all__ = ["CallRun", "Calls"]


@dataclass(frozen=True, slots=True)
class Calls:
    """What a record does not say: the model, the start that was asked for, who wrote the file."""

    facts: ModelFacts
    start: int | None
    engine: str | None

    def sample(self, records: Records, places: tuple[int, ...]) -> Sample:
        """The sample of the records at some places, earliest first."""
        found = (to_sample(records.wire(p), self.facts, self.start, self.engine) for p in places)
        return next(found) if len(places) == 1 else merge_samples(found)


class CallRun:
    """Samples one after another, read when it is called.

    It is pickled as their records: another process reads them without the file being parsed there.
    """

    def __init__(self, calls: Calls, records: Records, places: Sequence[tuple[int, ...]]) -> None:
        self._calls, self._records, self._places = calls, records, places

    def __call__(self) -> Iterator[Sample]:
        """The samples."""
        return (self._calls.sample(self._records, one) for one in self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        kept = self._records.kept(chain.from_iterable(self._places))
        numbers = count()
        places = [tuple(next(numbers) for _ in one) for one in self._places]
        return _SentRun, (self._calls, kept, places)


@dataclass(frozen=True, slots=True)
class _SentRun:
    """The same in another process."""

    calls: Calls
    kept: KeptRecords
    places: list[tuple[int, ...]]

    def __call__(self) -> Iterable[Sample]:
        with self.kept.opened() as records:
            for one in self.places:
                yield self.calls.sample(records, one)
