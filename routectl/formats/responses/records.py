"""The sequences of a text file, kept so that its JSON is parsed once.

What a sequence says of itself goes to a temporary file that stays in memory while it is small; a
payload, most of what a response is, stays where it stands in the text and is read from there.
"""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from ...files.reading import open_regular
from ..wire.sample import WireSample

__all__ = ["KeptRecords", "Records"]

_IN_MEMORY = 4 << 20
_SHORTEST = 256  # characters of a payload that is left in the file, and what it is found by


@dataclass(frozen=True, slots=True)
class _Record:
    """A sequence as it is kept, its path left out.

    span is where the payload's string is in the file (that of its ``data`` where it is an object),
    the wire being without it; as_json are payloads that msgpack cannot hold.
    """

    wire: WireSample
    span: tuple[int, int] | None = None
    as_json: str | None = None


def _array(kind: Any, data: bytes) -> NDArray[Any]:
    """An array out of its bytes; ``kind`` is NDArray[dtype]."""
    (dtype,) = get_args(get_args(kind)[1])
    return np.frombuffer(data, dtype).copy()


def _packed(record: _Record) -> bytes:
    try:
        return msgspec.msgpack.encode(record, enc_hook=np.ndarray.tobytes)
    except (OverflowError, UnicodeEncodeError):  # integers beyond 64 bits, lone surrogates
        both = json.dumps([record.wire.prompt_payload, record.wire.payload])
        wire = replace(record.wire, prompt_payload=None, payload=None)
        return _packed(replace(record, wire=wire, as_json=both))


def _string_of(payload: Any) -> str | None:
    """The long string of a payload."""
    text = payload.get("data") if isinstance(payload, dict) else payload
    return text if isinstance(text, str) and len(text) >= _SHORTEST else None


class Records:
    """WireSamples by place, in the order in which they were added."""

    def __init__(self, file: IO[bytes], path: Path, *, plain: bool = True) -> None:
        """``file`` is what the documents are read from: ``path`` itself where that is ``plain``."""
        self._file, self._path = file, str(path)
        self._state = _state(file) if plain else None
        self._kept = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed below
        self._ends = array("q")

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._kept.close()

    def add(self, wires: Iterable[WireSample], document: bytes, offset: int) -> None:
        """Keep the sequences of a document, which is at a byte offset of the file.

        Payloads are looked for in their order: the first that is not found (JSON may escape what
        it likes) is kept with what the sequence says, and so are those after it.
        """
        at = 0
        for wire in wires:
            own: dict[str, Any] = {"where": wire.where.removeprefix(self._path)}
            span, text = None, _string_of(wire.payload)
            if text is not None and at >= 0:
                raw = text.encode("ascii", "replace")
                at = document.find(raw[:_SHORTEST], at)
                at = at if document.startswith(raw, max(at, 0)) else -1
                if at >= 0:
                    own["payload"] = (
                        {**wire.payload, "data": None} if wire.payload is not text else None
                    )
                    span = (offset + at, len(raw))
                    at += len(raw)
            wire = replace(wire, engine=None, engine_version=None, **own)
            self._keep(_packed(_Record(wire, span)))

    def _keep(self, packed: bytes) -> None:
        self._kept.seek(0, 2)
        self._kept.write(packed)
        self._ends.append(self._kept.tell())

    def kept(self, places: Iterable[int]) -> "KeptRecords":
        """Some of them for another process, which finds payloads in the file, where it can."""
        if self._state is not None:
            return KeptRecords(self._path, self._state, [self._stored(p) for p in places])
        whole = (replace(self.wire(p), where=self._record(p).wire.where) for p in places)
        return KeptRecords(self._path, None, [_packed(_Record(wire)) for wire in whole])

    def told(self, place: int) -> WireSample:
        """The sequence at a place without the string of its payload."""
        return self._whole(self._record(place))

    def wire(self, place: int) -> WireSample:
        """The sequence at a place."""
        record = self._record(place)
        if record.span is None:
            return self._whole(record)
        offset, length = record.span
        self._file.seek(offset)
        text = self._file.read(length).decode("ascii", "replace")
        rest = record.wire.payload
        return self._whole(record, payload=text if rest is None else {**rest, "data": text})

    def _whole(self, record: _Record, **more: Any) -> WireSample:
        return replace(record.wire, where=self._path + record.wire.where, **more)

    def _stored(self, place: int) -> bytes:
        offset = self._ends[place - 1] if place else 0
        self._kept.seek(offset)
        return self._kept.read(self._ends[place] - offset)

    def _record(self, place: int) -> _Record:
        record = msgspec.msgpack.decode(self._stored(place), type=_Record, dec_hook=_array)
        if record.as_json is None:
            return record
        before, payload = json.loads(record.as_json)
        return replace(record, wire=replace(record.wire, prompt_payload=before, payload=payload))


def _state(file: IO[bytes]) -> tuple[int, int, int]:
    """What tells one state of a file from another: inode, size in bytes, time of change in ns."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, slots=True)
class KeptRecords:
    """Records as they are kept, on their way to another process.

    state is that of the file in which their payloads are; None: they have them with them.
    """

    path: str
    state: tuple[int, int, int] | None
    packed: list[bytes]

    @contextmanager
    def opened(self) -> Iterator[Records]:
        """The records. Raises FormatError for a file that is another by now."""
        path = Path(self.path)
        file: IO[bytes] = BytesIO() if self.state is None else open_regular(path)
        with closing(Records(file, path, plain=self.state is not None)) as records:
            if records._state != self.state:
                raise FormatError(f"{path}: was changed while it was read")
            for one in self.packed:
                records._keep(one)
            yield records
