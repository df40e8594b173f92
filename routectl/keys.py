"""What samples are joined by, held in columns: 32 bytes of digests and an id each, no objects.

Shape suffixes: S samples, W words of a digest.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .errors import index_of

__all__ = [
    "FIELDS",
    "Digests",
    "Hashing",
    "Ints",
    "Keys",
    "Lists",
    "SampleKey",
    "Texts",
    "digest_tokens",
    "equal",
    "hash_spans",
    "key_of",
    "places_among",
    "run_places",
]

_SIZE = 16
_ABSENT = bytes(_SIZE)
_AT_ONCE = 1 << 16  # texts that are objects, or indices, at a time
_TOKENS, _PROMPT = 1, 2  # bits of what is known
FIELDS = ("sample_id", "tokens", "prompt")  # of SampleKey
Digests = NDArray[np.uint64]
Ints = NDArray[np.int64]
Hashing = Callable[[NDArray[np.uint8], Ints, Ints], Digests]  # what gives what hash_spans does


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What samples are joined by: the id, and digests of all token ids and of the prompt's."""

    sample_id: str | None
    tokens: bytes | None
    prompt: bytes | None


def hash_spans(data_N: NDArray[np.uint8], begins_S: Ints, ends_S: Ints) -> Digests:
    """BLAKE2b-128 of spans of bytes, uint64 [S, W]: where each begins among them, and ends."""
    view, blake = data_N.data, hashlib.blake2b
    spans = zip(begins_S.tolist(), ends_S.tolist(), strict=True)
    return _words(b"".join([blake(view[a:b], digest_size=_SIZE).digest() for a, b in spans]))


def digest_tokens(ids: NDArray[np.int32]) -> bytes:
    """BLAKE2b-128 of the ids as little-endian int32."""
    return _digest(ids).digest()


def _digest(ids: NDArray[np.int32]) -> "hashlib.blake2b":
    return hashlib.blake2b(_stored(ids), digest_size=_SIZE)


def _stored(ids: NDArray[np.int32]) -> Any:
    """The ids as they are digested; not copied where they are stored so."""
    return np.ascontiguousarray(ids, "<i4")


def _digests(
    prompt: NDArray[np.int32] | None, response: NDArray[np.int32] | None
) -> tuple[bytes | None, bytes | None]:
    """Those of all token ids and of the prompt's, None where they are not known."""
    if prompt is None:
        return None, None
    digest = _digest(prompt)
    of_prompt = digest.digest()
    if response is None:
        return None, of_prompt
    digest.update(_stored(response))
    return digest.digest(), of_prompt


def key_of(
    sample_id: str | None, prompt: NDArray[np.int32] | None, response: NDArray[np.int32] | None
) -> SampleKey:
    """The key of a sequence; digests are None where ids are not known."""
    return SampleKey(sample_id, *_digests(prompt, response))


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Lists of token ids, int32, of samples: where each begins among the values, and its size.

    known_S tells which are there; the others have size 0.
    """

    values_N: NDArray[np.int32]
    begins_S: Ints
    sizes_S: Ints
    known_S: NDArray[np.bool_]

    def beside(self, other: "Lists") -> "Lists":
        """Each list with another one behind it, of those samples that have both."""
        known_S = self.known_S & other.known_S
        sizes_2 = np.stack([self.sizes_S, other.sizes_S], axis=1) * known_S[:, None]
        begins_2 = np.stack([self.begins_S, other.begins_S + len(self.values_N)], axis=1)
        places_N = run_places(begins_2.ravel(), sizes_2.ravel())
        values_N = np.concatenate([self.values_N, other.values_N])[places_N]
        sizes_S = sizes_2.sum(axis=1)
        return Lists(values_N, np.cumsum(sizes_S) - sizes_S, sizes_S, known_S)

    def digests(self, hashing: Hashing = hash_spans) -> bytearray:
        """``digest_tokens`` of each list, end to end; zeros for one that is not there."""
        values_N = _stored(self.values_N)
        begins_S = self.begins_S * values_N.itemsize
        ends_S = begins_S + self.sizes_S * values_N.itemsize
        found_SW = hashing(values_N.view(np.uint8), begins_S, ends_S)
        return bytearray(np.where(self.known_S[:, None], found_SW, np.uint64(0)).tobytes())


def run_places(begins_S: Ints, sizes_S: Ints) -> Ints:
    """The places of runs end to end: of each, so many from where it begins."""
    ends_S = np.cumsum(sizes_S)
    shifts_S = begins_S - (ends_S - sizes_S)
    found: Ints = np.repeat(shifts_S, sizes_S) + np.arange(int(sizes_S.sum()))
    return found


class Texts(Sequence[str | None]):
    """Strings, or None, end to end in one buffer: 9 bytes each beside their UTF-8."""

    def __init__(self, texts: Iterable[str | None] = ()) -> None:
        self._data, self._ends, self._known = bytearray(), array("q"), bytearray()
        for text in texts:
            self.append(text)

    @classmethod
    def unknown(cls, count: int) -> "Texts":
        """So many that are None."""
        found = cls()
        found.extend(b"", np.zeros(count, np.int64), np.zeros(count, np.bool_))
        return found

    def append(self, text: str | None) -> None:
        """Put one more at the end."""
        self._known.append(text is not None)
        self._data += (text or "").encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends)

    def encoded(self, places: Iterable[int]) -> Iterator[bytes | None]:
        """The UTF-8 of some."""
        data, ends, known = bytes(self._data), [0, *self._ends], self._known
        return (data[ends[at] : ends[at + 1]] if known[at] else None for at in places)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts | None":
        if isinstance(index, slice):
            return Texts(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]
        if not self._known[at]:
            return None
        return self._data[self._ends[at - 1] if at else 0 : self._ends[at]].decode(
            "utf-8", "surrogatepass"
        )

    @property
    def known_S(self) -> NDArray[np.bool_]:  # noqa: N802
        """Which are there, bool [S]."""
        return np.frombuffer(bytes(self._known), np.bool_)

    def extend(self, data: Any, ends_S: Ints, known_S: NDArray[np.bool_]) -> None:
        """Put more at the end: bytes of UTF-8 end to end, where each ends, and which are there."""
        begin = len(self._data)
        self._data += data
        self._ends.frombytes(np.add(ends_S, begin, dtype=np.int64).tobytes())
        self._known += known_S.tobytes()

    def join(self, other: "Texts") -> None:
        """Put those of another at the end."""
        self.extend(bytes(other._data), np.frombuffer(other._ends, np.int64), other.known_S)

    def take(self, places_S: Ints) -> "Texts":
        """Those of some places, in the order wanted."""
        found, known_S = Texts(), self.known_S
        data, ends_S = np.frombuffer(self._data, np.uint8), np.frombuffer(self._ends, np.int64)
        for part_S in np.split(places_S, range(_AT_ONCE, len(places_S), _AT_ONCE)):
            begins_S = np.where(part_S > 0, ends_S[part_S - 1], 0)
            sizes_S = ends_S[part_S] - begins_S
            wanted = run_places(begins_S, sizes_S)
            found.extend(data[wanted].tobytes(), np.cumsum(sizes_S), known_S[part_S])
        return found

    def digests(self, hashing: Hashing = hash_spans) -> tuple[Digests, NDArray[np.bool_]]:
        """16 bytes of each, uint64 [S, W], and bool [S], which are there.

        A text of up to 15 bytes is these bytes, zeros, and its size; a longer one its BLAKE2b-128.
        """
        found_SN = np.zeros((len(self), _SIZE), np.uint8)
        for first in range(0, len(self), _AT_ONCE):
            ends_S = np.array(self._ends[first : first + _AT_ONCE])
            begin = self._ends[first - 1] if first else 0
            begins_S = np.append(begin, ends_S[:-1])
            self._hash(begins_S, ends_S, found_SN[first : first + _AT_ONCE], hashing)
        return _words(found_SN.data), self.known_S

    def _hash(
        self, begins_S: Ints, ends_S: Ints, found_SN: NDArray[np.uint8], hashing: Hashing
    ) -> None:
        """Write the 16 bytes of some texts."""
        data, last, sizes_S = np.frombuffer(self._data, np.uint8), _SIZE - 1, ends_S - begins_S
        for n in range(last):
            longer_S = np.flatnonzero((sizes_S > n) & (sizes_S <= last))
            found_SN[longer_S, n] = data[begins_S[longer_S] + n]
        found_SN[:, last] = np.minimum(sizes_S, last)
        long_S = np.flatnonzero(sizes_S > last)
        found_SN[long_S] = hashing(data, begins_S[long_S], ends_S[long_S]).view(np.uint8)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and equal(self, other)

    __hash__ = None  # type: ignore[assignment]


class Keys(Sequence[SampleKey]):
    """The keys of a dump's samples; they are made when they are asked for.

    A door appends what it finds. ``digests`` gives a column to whoever joins.
    """

    def __init__(self, keys: Iterable[SampleKey] = ()) -> None:
        self.ids = Texts()
        self._tokens, self._prompts, self._known = bytearray(), bytearray(), bytearray()
        for key in keys:
            self.append(key)

    def append(self, key: SampleKey) -> None:
        """Put one more at the end."""
        self.put(key.sample_id, key.tokens, key.prompt)

    def put(self, sample_id: str | None, tokens: bytes | None, prompt: bytes | None) -> None:
        """Put one more at the end, by its parts. Raises ValueError for a digest of another size."""
        if len(tokens or _ABSENT) != _SIZE or len(prompt or _ABSENT) != _SIZE:
            raise ValueError(f"a digest has {_SIZE} bytes")
        self.ids.append(sample_id)
        self._tokens += _ABSENT if tokens is None else tokens
        self._prompts += _ABSENT if prompt is None else prompt
        self._known.append((0 if tokens is None else _TOKENS) | (0 if prompt is None else _PROMPT))

    def put_ids(
        self,
        sample_id: str | None,
        prompt: NDArray[np.int32] | None,
        response: NDArray[np.int32] | None,
    ) -> None:
        """Put one more at the end, by its token ids: what ``key_of`` makes of them."""
        self.put(sample_id, *_digests(prompt, response))

    @classmethod
    def of_columns(
        cls,
        ids: Texts | None,
        prompt: Lists | None = None,
        response: Lists | None = None,
        *,
        prompts: bool = True,
        hashing: Hashing = hash_spans,
    ) -> "Keys":
        """Those of samples given as columns, what ``put_ids`` makes of each.

        Without ids no id is known, without response no tokens, and without ``prompts``, or lists of
        them, no prompt.
        """
        lists = 0 if prompt is None else len(prompt.known_S)
        found, size = cls(), lists if ids is None else len(ids)
        found.ids = Texts.unknown(size) if ids is None else ids
        known_S = np.zeros(size, np.uint8)
        found._tokens, found._prompts = bytearray(size * _SIZE), bytearray(size * _SIZE)
        if prompt is not None and prompts:
            known_S += _PROMPT * prompt.known_S.astype(np.uint8)
            found._prompts = prompt.digests(hashing)
        if prompt is not None and response is not None:
            both = prompt.beside(response)
            known_S += _TOKENS * both.known_S.astype(np.uint8)
            found._tokens = both.digests(hashing)
        found._known = bytearray(known_S.tobytes())
        return found

    def extend(self, other: Sequence[SampleKey]) -> None:
        """Put those of another sequence at the end."""
        more = other if isinstance(other, Keys) else Keys(other)
        self.ids.join(more.ids)
        self._tokens += more._tokens
        self._prompts += more._prompts
        self._known += more._known

    def take(self, indices: Iterable[int]) -> "Keys":
        """Those of some samples, in the order wanted."""
        places_S = places_among(indices, len(self))
        found = Keys()
        found.ids = self.ids.take(places_S)
        found._tokens += _words(self._tokens)[places_S].tobytes()
        found._prompts += _words(self._prompts)[places_S].tobytes()
        found._known += np.frombuffer(self._known, np.uint8)[places_S].tobytes()
        return found

    def encoded(self, places: Sequence[int]) -> Iterator[tuple[bytes | None, bytes | None]]:
        """The UTF-8 of the ids of some samples, and the digests of their tokens."""
        tokens, known = bytes(self._tokens), self._known
        digests = (
            tokens[_SIZE * at : _SIZE * at + _SIZE] if known[at] & _TOKENS else None
            for at in places
        )
        return zip(self.ids.encoded(places), digests, strict=True)

    def digests(self, of: str, hashing: Hashing = hash_spans) -> tuple[Digests, NDArray[np.bool_]]:
        """A column: uint64 [S, W], and bool [S], which are known; ``of`` is a field of SampleKey.

        It is not copied: nothing can be put at the end while it is held.
        """
        if of == "sample_id":
            return self.ids.digests(hashing)
        data, bit = {"tokens": (self._tokens, _TOKENS), "prompt": (self._prompts, _PROMPT)}[of]
        return _words(data), np.frombuffer(self._known, np.uint8) & bit > 0

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Keys of {len(self):,} samples>"

    @overload
    def __getitem__(self, index: int) -> SampleKey: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: int | slice) -> "SampleKey | Keys":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        at = index_of(index, len(self), "samples")
        known, span = self._known[at], slice(_SIZE * at, _SIZE * (at + 1))
        return SampleKey(
            self.ids[at],
            bytes(self._tokens[span]) if known & _TOKENS else None,
            bytes(self._prompts[span]) if known & _PROMPT else None,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def places_among(indices: Iterable[int], size: int) -> Ints:
    """Indices among ``size`` samples from 0 on, int64; -1 is the last. Raises NoIndexError."""
    places_S = np.fromiter(indices, np.int64)
    for index in places_S[(places_S < -size) | (places_S >= size)][:1]:
        index_of(index, size, "samples")
    return np.where(places_S < 0, places_S + size, places_S)


def _words(data: bytes | bytearray | memoryview) -> Digests:
    """Digests as numbers, [S, W], not copied."""
    return np.frombuffer(data, "<u8").reshape(-1, _SIZE // 8)


def equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two sequences have the same entries."""
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))
