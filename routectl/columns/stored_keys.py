"""Keys that stay in their files: a column of them is read when somebody joins by it.

Shape suffixes: S samples, W words of a digest.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import NoIdError, did_you_mean, index_of
from ..keys import (
    FIELDS,
    Digests,
    Hashing,
    Keys,
    SampleKey,
    Texts,
    equal,
    hash_spans,
    places_among,
)
from ..visible import quoted

__all__ = ["KeyStore", "StoredKeys", "in_columns", "sample_at", "samples_at"]

_WORDS = 2  # of a digest
_COMPARED = 10_000  # ids, for the nearest


class KeyStore(Protocol):
    """Where keys lie, run by run: how many samples each run has."""

    @property
    def sizes(self) -> Sequence[int]:
        """Samples of each run."""

    def read_keys(
        self, runs: Iterable[int], fields: Sequence[str], hashing: Hashing = hash_spans
    ) -> Iterator[Keys]:
        """The keys of some runs in their order, of one or several of them at a time.

        Fields that are not wanted may be None.
        """


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Keys in memory as a store of one run."""

    keys: Keys

    @property
    def sizes(self) -> Sequence[int]:
        return (len(self.keys),)

    def read_keys(
        self, runs: Iterable[int], fields: Sequence[str], hashing: Hashing = hash_spans
    ) -> Iterator[Keys]:
        return (self.keys for _ in runs)


@dataclass(frozen=True, slots=True, eq=False)
class _Within:
    """A store that is read within a context."""

    store: KeyStore
    context: Callable[[], AbstractContextManager[None]]

    @property
    def sizes(self) -> Sequence[int]:
        return self.store.sizes

    def read_keys(
        self, runs: Iterable[int], fields: Sequence[str], hashing: Hashing = hash_spans
    ) -> Iterator[Keys]:
        keys = self.store.read_keys(runs, fields, hashing)
        while True:
            with self.context():  # not while the keys are used
                found = next(keys, None)
            if found is None:
                return
            yield found


class StoredKeys(Sequence[SampleKey]):
    """Keys that stay where they lie: ten million of them take no memory until they are asked for.

    A column of digests is read as a whole, of single keys the run that they are in, of which one
    is held. Reading raises what the stores raise.
    """

    def __init__(self, stores: Iterable[KeyStore], *, holds: bool = False) -> None:
        self.stores = tuple(stores)
        self._columns: dict[str, tuple[Digests, NDArray[np.bool_]]] | None = {} if holds else None
        sizes = [size for store in self.stores for size in store.sizes]
        self._runs = [(s, n) for s, one in enumerate(self.stores) for n in range(len(one.sizes))]
        self._ends = list(accumulate(sizes))
        self._last: tuple[int, Keys] | None = None

    @classmethod
    def chained(cls, every: Iterable[Sequence[SampleKey]]) -> "StoredKeys | Keys":
        """The keys of dumps one after the other; in memory where all of them are."""
        columns = [in_columns(keys) for keys in every]
        if any(isinstance(keys, cls) for keys in columns):
            stores = [k.stores if isinstance(k, StoredKeys) else (_Held(k),) for k in columns]
            return cls(chain.from_iterable(stores))
        found = Keys()
        for keys in columns:
            found.extend(keys)
        return found

    def within(self, context: Callable[[], AbstractContextManager[None]]) -> "StoredKeys":
        """The same keys, read within a context."""
        return StoredKeys([_Within(store, context) for store in self.stores])

    def holding(self) -> "StoredKeys":
        """The same keys, of which a column of digests is read once and held: 17 bytes a key."""
        return StoredKeys(self.stores, holds=True)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"<StoredKeys of {len(self):,} samples, in their files>"

    def _run(self, number: int) -> Keys:
        """The keys of a run, by its number in all stores."""
        if self._last is None or self._last[0] != number:
            store, run = self._runs[number]
            self._last = number, next(iter(self.stores[store].read_keys([run], FIELDS)))
        return self._last[1]

    @property
    def ids(self) -> Texts:
        """The ids of all samples, as those of ``Keys``; made anew, and nothing else is read."""
        found = Texts()
        for store in self.stores:
            for keys in store.read_keys(range(len(store.sizes)), ("sample_id",)):
                found.join(keys.ids)
        return found

    def digests(self, of: str, hashing: Hashing = hash_spans) -> tuple[Digests, NDArray[np.bool_]]:
        """A column, as that of ``Keys.digests``; made anew, unless these hold their columns."""
        if self._columns is not None and of in self._columns:
            return self._columns[of]
        words_SW = np.empty((len(self), _WORDS), np.uint64)
        known_S, begin = np.empty(len(self), np.bool_), 0
        for store in self.stores:
            for keys in store.read_keys(range(len(store.sizes)), (of,), hashing):
                part = slice(begin, begin + len(keys))
                words_SW[part], known_S[part] = keys.digests(of, hashing)
                begin += len(keys)
        if self._columns is not None:
            self._columns[of] = words_SW, known_S
        return words_SW, known_S

    def take(self, indices: Iterable[int]) -> Keys:
        """Those of some samples, in the order wanted, in memory."""
        places_S = places_among(indices, len(self))
        run_S = np.searchsorted(self._ends, places_S, side="right")
        found, order_S = Keys(), np.argsort(run_S, kind="stable")
        for number in np.unique(run_S).tolist():
            begin = self._ends[number - 1] if number else 0
            found.extend(self._run(number).take((places_S[run_S == number] - begin).tolist()))
        back_S = np.empty_like(order_S)
        back_S[order_S] = np.arange(len(order_S))
        return found.take(back_S.tolist())

    @overload
    def __getitem__(self, index: int) -> SampleKey: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> "SampleKey | Keys":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        at = index_of(index, len(self), "samples")
        number = bisect_right(self._ends, at)
        return self._run(number)[at - (self._ends[number - 1] if number else 0)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def in_columns(keys: Sequence[SampleKey]) -> "Keys | StoredKeys":
    """Keys of which whole columns can be asked for."""
    return keys if isinstance(keys, Keys | StoredKeys) else Keys(keys)


def sample_at(keys: Sequence[SampleKey], index: object) -> int:
    """Where a sample is, by its index, of which -1 is the last, or by its id.

    All ids are read for one. Raises NoIndexError beyond the samples, NoIdError for an id that none
    or more than one has, TypeError for a slice.
    """
    if isinstance(index, slice):
        raise TypeError("a dump has no slices: dump.select(samples=range(0, 2)) has its first two")
    if isinstance(index, str):
        return _by_id(keys, [index])[0]
    return index_of(index, len(keys), "samples")


def samples_at(keys: Sequence[SampleKey], wanted: Iterable[object]) -> list[int]:
    """Where samples are, in the order wanted, by index or by id; ids are read once for all.

    Raises as ``sample_at``, and TypeError for a mask.
    """
    if isinstance(wanted, str):
        raise TypeError(f"samples: got {wanted!r}, expected a list of indices or ids")
    asked = list(wanted)
    if asked and isinstance(asked[0], bool | np.bool_):
        raise TypeError("samples: got a mask, expected indices: np.flatnonzero(mask)")
    named = [n for n, one in enumerate(asked) if isinstance(one, str)]
    for n, at in zip(named, _by_id(keys, [str(asked[n]) for n in named]), strict=True):
        asked[n] = at
    return [int(at) for at in places_among(asked, len(keys))]  # type: ignore[arg-type]


def _by_id(keys: Sequence[SampleKey], wanted: Sequence[str]) -> list[int]:
    """Where the samples of some ids are; the ids are not even read for none."""
    if not wanted:
        return []
    ids, found = in_columns(keys).ids, {name: list[int]() for name in wanted}
    for at, one in enumerate(ids):
        if one in found:
            found[one].append(at)
    for name, places in found.items():
        if len(places) > 1:
            told = ", ".join(map(str, places[:3])) + ", ..." * (len(places) > 3)
            raise NoIdError(f"{len(places):,} samples have the id {quoted(name)}: at index {told}")
        if not places:
            known = [one for one in islice(ids, _COMPARED) if one is not None]
            such = f"ids are such as {quoted(known[0])}" if known else "samples have no ids"
            near = did_you_mean(name, known) or such
            raise NoIdError(f"no sample of {len(ids):,} has the id {quoted(name)}: {near}")
    return [found[name][0] for name in wanted]
