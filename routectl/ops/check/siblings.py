"""Samples that share a prompt: each is held against the first of them that has routes for it.

Which that is follows from the keys of the dump, so that it is the same however the dump is cut.
Shape suffixes: N samples.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...columns.stored_keys import in_columns
from ...dump import Sample, SampleKey
from ...kernels.digests import hashing_of
from ...routes import Routes
from ..pairs.align import name_of
from .book.results import Book, Place
from .samples import disagree
from .starts import guessed

__all__ = ["Siblings", "first_siblings"]

_OPEN = 16  # prompts that began since a sample's first sibling, at most
_NEXT = 64  # samples after the first that are looked at for one with routes
NONE = -1
_EITHER = "; no third says which of the two is wrong"


def first_siblings(keys: Sequence[SampleKey]) -> NDArray[np.int32]:
    """The index of the first sample with each sample's prompt, int32 [N]; -1 where it is itself.

    Also where the prompt is not known, and where 16 other prompts began in between.
    """
    digests, known_N = in_columns(keys).digests("prompt", hashing_of(len(keys)))
    first_N = np.full(len(keys), NONE, np.int32)
    if not known_N.any():
        return first_N
    parts = digests[:, 0]
    order = np.argsort(parts, kind="stable").astype(np.int32)
    edges = np.ones(len(order), np.bool_)
    edges[1:] = parts[order[1:]] != parts[order[:-1]]
    begin = np.maximum.accumulate(np.where(edges, np.arange(len(order), dtype=np.int32), 0))
    first_N[order] = order[begin]
    began_N = np.cumsum((first_N == np.arange(len(first_N))) & known_N, dtype=np.int32)
    near_N = began_N - began_N[first_N] < _OPEN
    alone_N = first_N == np.arange(len(first_N))
    first_N[~known_N | ~near_N | alone_N] = NONE
    return first_N


@dataclass(frozen=True, slots=True, eq=False)
class _Routed:
    """A sample of a prompt that has routes; astray says that they may stand elsewhere."""

    index: int
    name: str
    routes: Routes
    astray: bool


@dataclass(slots=True)
class Siblings:
    """Holds samples against their siblings; ``read`` gives one, None where there are no routes."""

    first_N: NDArray[np.int32]
    read: Callable[[int], Sample | None]
    _held: OrderedDict[tuple[int, int], _Routed | None] = field(default_factory=OrderedDict)

    def check(self, sample: Sample, place: tuple[int, str], astray: bool, book: Book) -> None:
        """Compare a sample's prompt rows with those of its first sibling.

        Where they differ, a third says which of the two is unlike its siblings; the first one is
        named once, beside the second. Where no third does, the later one is named and that it may
        be either. Of samples whose rows went ``astray`` it is no news that they differ.
        """
        index, name = place
        leader = int(self.first_N[index])
        end, routes = sample.prompt_length, sample.routes
        if routes is None or end is None:
            return
        if leader == NONE:
            if not _is_bare(routes, end):
                self._hold((index, index), _Routed(index, name, routes, astray))
            return
        first = self._routed(leader, leader)
        if first is None or first.index >= index or astray or first.astray:
            return
        begin, wrong = disagree(first.routes, routes, end)
        if not wrong:
            return
        second = self._routed(leader, first.index + 1)
        is_second = second is not None and second.index == index
        third = self._routed(leader, index + 1) if is_second else second
        blamed, other, sure = name, first.name, False
        if third is not None and not third.astray:
            odd = bool(disagree(first.routes, third.routes, end)[1])
            sure = odd != bool(disagree(routes, third.routes, end)[1])
            if sure and odd:
                blamed, other = first.name, name
        if blamed == name or is_second:
            note = f"unlike sample {other}" + ("" if sure else _EITHER)
            book.add("R601", Place(blamed, begin, note=note), rows=wrong)

    def _hold(self, where: tuple[int, int], found: _Routed | None) -> None:
        self._held[where] = found
        if len(self._held) > 3 * _OPEN:  # of a prompt the first, and with a fault two more
            self._held.popitem(last=False)

    def _routed(self, leader: int, begin: int) -> _Routed | None:
        """The same as ``_found``, which is kept."""
        if (leader, begin) not in self._held:
            self._hold((leader, begin), self._found(leader, begin))
        return self._held[leader, begin]

    def _found(self, leader: int, begin: int) -> _Routed | None:
        """The first sample of a prompt, from an index on, that has routes."""
        for index in range(begin, min(begin + _NEXT, len(self.first_N))):
            if index != leader and self.first_N[index] != leader:
                continue
            sample = self.read(index)
            if sample is None or sample.routes is None or sample.prompt_length is None:
                continue
            if not _is_bare(sample.routes, sample.prompt_length):
                return _Routed(index, name_of(sample, index), sample.routes, _is_astray(sample))
        return None


def _is_bare(routes: Routes, end: int) -> bool:
    """Whether the prompt's rows are there and none of them is a route: they are filler."""
    rows = max(end - routes.start, 0)
    missing_TL = routes.missing_TL
    return rows > 0 and missing_TL is not None and bool(missing_TL[:rows].all())


def _is_astray(sample: Sample) -> bool:
    """Whether a sample's rows may be in other places than it seems."""
    assert sample.routes is not None
    tokens = sample.num_tokens
    return guessed(sample) or (tokens is not None and sample.routes.stop - tokens < -2)
