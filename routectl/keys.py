"""What samples are joined by, held in columns: 32 bytes of digests and an id each, no objects.

Shape suffixes: S samples.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Keys", "SampleKey", "Texts", "digest_tokens", "key_of"]

_SIZE = 16
_ABSENT = bytes(_SIZE)
_TOKENS, _PROMPT = 1, 2  # bits of what is known


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What samples are joined by: the id, and digests of all token ids and of the prompt's."""

    sample_id: str | None
    tokens: bytes | None
    prompt: bytes | None


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


class Texts(Sequence[str | None]):
    """Strings, or None, end to end in one buffer: 9 bytes each beside their UTF-8."""

    def __init__(self, texts: Iterable[str | None] = ()) -> None:
        self._data, self._ends, self._known = bytearray(), array("q"), bytearray()
        for text in texts:
            self.append(text)

    def append(self, text: str | None) -> None:
        """Put one more at the end."""
        self._known.append(text is not None)
        self._data += (text or "").encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def __len__(self) -> int:
        return len(self._ends)

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

    def digests(self) -> tuple[NDArray[np.bytes_], NDArray[np.bool_]]:
        """BLAKE2b-128 of each, S16 [S], and bool [S], which are there."""
        found = np.zeros(len(self), f"S{_SIZE}")
        begin = 0
        view = memoryview(self._data)
        for i, end in enumerate(self._ends):
            found[i] = hashlib.blake2b(view[begin:end], digest_size=_SIZE).digest()
            begin = end
        return found, np.frombuffer(bytes(self._known), np.bool_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and _equal(self, other)

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

    def take(self, indices: Iterable[int]) -> "Keys":
        """Those of some samples, in the order wanted."""
        return Keys(self[i] for i in indices)

    def digests(self, of: str) -> tuple[NDArray[np.bytes_], NDArray[np.bool_]]:
        """A column: S16 [S], and bool [S], which are known; ``of`` is a field of SampleKey."""
        if of == "sample_id":
            return self.ids.digests()
        data, bit = {"tokens": (self._tokens, _TOKENS), "prompt": (self._prompts, _PROMPT)}[of]
        known = np.frombuffer(bytes(self._known), np.uint8) & bit
        return np.frombuffer(bytes(data), f"S{_SIZE}"), known > 0

    def __len__(self) -> int:
        return len(self._known)

    @overload
    def __getitem__(self, index: int) -> SampleKey: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: int | slice) -> "SampleKey | Keys":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        at = range(len(self))[index]
        known, span = self._known[at], slice(_SIZE * at, _SIZE * (at + 1))
        return SampleKey(
            self.ids[at],
            bytes(self._tokens[span]) if known & _TOKENS else None,
            bytes(self._prompts[span]) if known & _PROMPT else None,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and _equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two sequences have the same entries."""
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))
