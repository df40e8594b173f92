"""JSON, JSON lines and event streams, plain or gzipped: parsed once, a line at a time."""

import gzip
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ...dump import Dump, Keys, Sample
from ...errors import FormatError
from ...limits import check_inflation
from ...model import ModelFacts
from ..documents.facts import find_context
from ..documents.fields import Doc, from_json, joined, mapping, text
from ..wire.payload import wire_dtype
from ..wire.sample import NoRoutesError, NoSamplesError, WireSample, to_sample
from .dialects import read_document
from .records import Records
from .segments import find_chains, merge_samples
from .streams import merge_stream

__all__ = ["open_text"]

_MAX_LINE = 1 << 30
_BLOCK = 1 << 20


def _plain(path: Path) -> IO[bytes]:
    """The file, seekable; a gzipped one is inflated to an unnamed temporary file first."""
    file = path.open("rb")
    if file.read(2) != b"\x1f\x8b":
        return file
    file.close()
    inflated = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the dump
    size = path.stat().st_size
    try:
        with gzip.open(path) as source:
            while block := source.read(_BLOCK):
                check_inflation(inflated.tell(), size, str(path))
                inflated.write(block)
    except (OSError, EOFError, zlib.error) as error:
        inflated.close()
        raise FormatError(f"{path}: damaged gzip: {error}") from None
    except FormatError:
        inflated.close()
        raise
    return inflated


def _parse(data: bytes, where: str) -> Any:
    try:
        return from_json(data)
    except RecursionError:
        raise FormatError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:
        reason = str(error).replace("line 1 column", "column")
        raise FormatError(f"{where}: not JSON, or cut short: {reason}") from None


def _kind_of(file: IO[bytes], path: Path) -> str | None:
    """``json``, ``jsonl`` or ``sse`` by content; None when the text is none of them."""
    file.seek(0)
    head = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"data:", b"event:", b": ")):
        return "sse"
    if not head.startswith((b"{", b"[")):
        return None
    if ".jsonl" in path.suffixes or ".ndjson" in path.suffixes:
        return "jsonl"
    file.seek(0)
    first = file.readline(_MAX_LINE)
    try:
        from_json(first)
    except (ValueError, RecursionError):
        return "json"
    return "jsonl" if file.read(_BLOCK).strip() else "json"


def _documents(file: IO[bytes], kind: str, path: Path) -> Iterator[tuple[bytes, int, str]]:
    """Each document of a file, its byte offset, and where that is in words."""
    file.seek(0)
    if kind != "jsonl":
        yield file.read(), 0, str(path)
        return
    number, offset = 0, 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise FormatError(f"{path}: line {number}: longer than {_MAX_LINE} bytes")
        if not line.isspace():
            yield line, offset, f"{path}: line {number}"
        offset += len(line)


def _companion_request(path: Path) -> Doc | None:
    """The request of ``X.response.json`` (or ``.sse``): ``X.request.json`` beside it."""
    name = path.name.removesuffix(".gz")
    stem = name.removesuffix(".json").removesuffix(".sse").removesuffix(".response")
    request = path.with_name(f"{stem}.request.json")
    if not request.is_file() or request == path:
        return None
    return mapping(_parse(request.read_bytes(), str(request)), str(request), "request")


def _wires(data: bytes, kind: str, request: Doc | None, where: str) -> list[WireSample]:
    """The sequences of one document, or of one event stream."""
    stream = kind == "sse" and data.lstrip().startswith((b"data:", b"event:", b":"))
    doc = merge_stream(data.decode("utf-8", "replace"), where) if stream else _parse(data, where)
    try:
        return read_document(doc, request, where)
    except RecursionError:
        raise FormatError(f"{where}: JSON nested too deeply") from None


@dataclass(slots=True)
class _Index:
    """What is learnt of all sequences: their keys, and who wrote them."""

    keys: Keys = field(default_factory=Keys)
    engines: set[str | None] = field(default_factory=set)
    versions: set[str | None] = field(default_factory=set)
    dtypes: set[str | None] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    with_routes: int = 0

    def add(self, wires: Iterable[WireSample]) -> None:
        for wire in wires:
            self.keys.append(wire.key)
            self.engines.add(wire.engine)
            self.versions.add(wire.engine_version)
            self.dtypes.add(wire_dtype(wire.payload))
            self.with_routes += wire.has_routes


_NOT_ASKED = (
    "ask the engine for them: enable_return_routed_experts (vLLM, SGLang), and "
    "return_routed_experts in each request (SGLang)"
)
_STREAMED = (  # vLLM 0.21 to 0.33
    "vLLM's streams of completions and chat never carry routes: ask without stream, or "
    "stream /inference/v1/generate"
)


def _build_index(file: IO[bytes], kind: str, path: Path, records: Records) -> _Index:
    """Read every document once. Lines of a JSONL file that hold no sample are noted, not fatal."""
    index, request = _Index(), _companion_request(path)
    for data, offset, where in _documents(file, kind, path):
        try:
            wires = _wires(data, kind, request, where)
            index.add(wires)
            records.add(wires, data, offset)
        except NoSamplesError as nothing:
            if kind != "jsonl":
                raise
            index.skipped.append(str(nothing))
    if not index.keys:
        raise NoSamplesError(index.skipped[0] if index.skipped else f"{path}: the file is empty")
    if not index.with_routes:
        raise NoRoutesError(
            f"{path}: no routed_experts in any of its {len(index.keys)} samples",
            hint=_STREAMED if kind == "sse" and "vllm" in index.engines else _NOT_ASKED,
        )
    return index


def open_text(
    path: Path, kind: str | None, model: ModelFacts | str | Path | None, start: int | None
) -> Dump:
    """Open a text dump of any dialect; ``kind`` is json, jsonl, sse or None to sniff.

    One pass parses every document; payloads are decoded when a sample is read.
    """
    file = _plain(path)
    records = Records(file, path)
    try:
        kind = kind or _kind_of(file, path)
        if kind is None:
            raise NoSamplesError(f"{path}: not a dump: neither JSON nor a known binary format")
        index = _build_index(file, kind, path, records)
        chains = find_chains(index.keys, records.told)
        context = find_context(path, model)
    except BaseException:
        records.close()
        raise

    def call(place: int) -> Sample:
        return to_sample(records.wire(place), context.facts, start, meta.engine)

    def load(number: int) -> Sample:
        places = chains.places(number)
        return call(places[0]) if len(places) == 1 else merge_samples(map(call, places))

    about = context.about
    meta = context.meta(
        path,
        kind,
        engine=text(about.get("engine")) or joined(index.engines),
        engine_version=text(about.get("engine_version")) or joined(index.versions),
        model=text(about.get("model")),
        wire_dtype=joined(index.dtypes),
        skipped=tuple(index.skipped),
    )
    dump = Dump(meta, chains.keys, load)
    weakref.finalize(dump, records.close)
    return dump
