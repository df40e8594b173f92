"""JSON, JSON lines and event streams, plain or gzipped: parsed once, a line at a time."""

import gzip
import weakref
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ...dump import Dump, Keys
from ...errors import FormatError
from ...files.places import RemotePath
from ...files.reading import open_regular, read_bytes, size_of
from ...files.scratch import scratch_file
from ...limits import DEFLATE, check_budget, check_inflation, limits
from ..documents.facts import Model, UnknownModelError, find_context, refuse_alone
from ..documents.fields import Doc, from_json, joined, mapping, text
from ..documents.kinds import kind_in_words
from ..documents.own import own_text
from ..documents.size import check_json
from ..wire.guess import guess_facts
from ..wire.payload import wire_dtype
from ..wire.sample import NoRoutesError, NoSamplesError, WireSample
from .calls import CallRun, Calls
from .dialects import read_document
from .records import Records
from .segments import find_chains
from .streams import merge_stream

__all__ = ["open_text"]

_BLOCK = 1 << 20
_LONG = 1 << 20  # bytes from which on a line is measured first: readline joins small parts


@dataclass(frozen=True, slots=True)
class _Text:
    """A file's text, seekable. ``stored`` are the bytes of a gzipped one; None: it was plain."""

    file: IO[bytes]
    path: Path
    stored: int | None = None


def _plain(path: Path) -> _Text:
    """The file; a gzipped one is inflated to an unnamed temporary file first."""
    file = open_regular(path)
    if file.read(2) != b"\x1f\x8b":
        return _Text(file, path)
    inflated = scratch_file()  # closed with the dump
    size = size_of(file)
    file.seek(0)
    try:
        with file, gzip.open(file) as source:
            while block := source.read(_BLOCK):
                check_inflation(inflated.tell() + len(block), size, str(path), most=DEFLATE)
                inflated.write(block)
    except (OSError, EOFError, zlib.error) as error:
        inflated.close()
        raise FormatError(f"{path}: damaged gzip: {error}") from None
    except FormatError:
        inflated.close()
        raise
    return _Text(inflated, path, size)


def _parse(data: bytes, where: str, stored: int | None = None) -> Any:
    try:
        return from_json(data, where, stored)
    except RecursionError:
        raise FormatError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:
        reason = str(error).replace("line 1 column", "column")
        raise FormatError(f"{where}: not JSON, or cut short: {reason}") from None


def _kind_of(text: _Text) -> str | None:
    """``json``, ``jsonl`` or ``sse`` by content; None when the text is none of them."""
    file, path = text.file, text.path
    file.seek(0)
    head = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"data:", b"event:", b": ")):
        return "sse"
    if not head.startswith((b"{", b"[")):
        return None
    if ".jsonl" in path.suffixes or ".ndjson" in path.suffixes:
        return "jsonl"
    size = _line_size(file, 0)
    file.seek(size)
    if not file.read(_BLOCK).strip() or size > limits().line:
        return "json"
    file.seek(0)
    try:
        from_json(file.read(size), f"{path}: line 1", text.stored)
    except (ValueError, RecursionError):
        return "json"
    return "jsonl"


def _line_size(file: IO[bytes], begin: int) -> int:
    """The bytes of the line that begins there, a block of which is held at a time.

    Of one that is over its budget, or has a NUL, which no JSON has: all bytes that follow.
    """
    file.seek(begin)
    size, longest = 0, limits().line
    while (block := file.read(_BLOCK)) and size <= longest and b"\0" not in block:
        end = block.find(b"\n")
        if end >= 0:
            return size + end + 1
        size += len(block)
    return file.seek(0, 2) - begin


def _documents(text: _Text, kind: str) -> Iterator[tuple[bytes, int, str]]:
    """Each document of a file, its byte offset, and where that is in words."""
    file, path = text.file, text.path
    if kind != "jsonl":
        check_budget("document", file.seek(0, 2), f"{path}: bytes of one document")
        file.seek(0)
        yield file.read(), 0, str(path)
        return
    file.seek(0)
    number, offset, most = 0, 0, min(_LONG, limits().line + 1)
    while line := file.readline(most):
        number += 1
        if len(line) == most:
            size = _line_size(file, offset)
            check_budget("line", size, f"{path}: line {number}: bytes")
            file.seek(offset)
            line = file.read(size)
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
    return mapping(_parse(read_bytes(request), str(request)), str(request), "request")


def _wires(
    data: bytes, kind: str, request: Doc | None, where: str, stored: int | None
) -> list[WireSample]:
    """The sequences of one document, or of one event stream."""
    if kind == "sse" and data.lstrip().startswith((b"data:", b"event:", b":")):
        check_json(data, where, stored)  # all chunks at once: all of them are held
        doc = merge_stream(data.decode("utf-8", "replace"), where)
    else:
        doc = _parse(data, where, stored)
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
_DUMPS = "a dump is what an engine answered or a trainer saved, with routed_experts in it"
_STREAMED = (  # vLLM 0.21 to 0.33
    "vLLM's streams of completions and chat never carry routes: ask without stream, or "
    "stream /inference/v1/generate"
)


def _build_index(source: _Text, kind: str, records: Records) -> _Index:
    """Read every document once. Lines of a JSONL file that hold no sample are noted, not fatal."""
    path = source.path
    index, request = _Index(), _companion_request(path)
    for data, offset, where in _documents(source, kind):
        try:
            wires = _wires(data, kind, request, where, source.stored)
            index.add(wires)
            records.add(wires, data, offset)
        except NoSamplesError as nothing:
            if kind != "jsonl":
                raise
            index.skipped.append(str(nothing))
    if not index.keys:
        raise NoSamplesError(index.skipped[0] if index.skipped else f"{path}: the file is empty")
    return index


def _no_routes(path: Path, kind: str, index: _Index, dump: Dump | None) -> NoRoutesError:
    streamed = kind == "sse" and "vllm" in index.engines
    return NoRoutesError(
        f"{path}: no routed_experts in any sample, of {len(index.keys)}",
        hint=_STREAMED if streamed else _NOT_ASKED,
        dump=dump,
    )


def open_text(path: Path, kind: str | None, model: Model, start: int | None) -> Dump:
    """Open a text dump of any dialect; ``kind`` is json, jsonl, sse or None to sniff.

    One pass parses every document; payloads are decoded when a sample is read.
    """
    refuse_alone(path, model)
    source = _plain(path)
    plain = source.stored is None and not isinstance(path, RemotePath)
    records = Records(source.file, path, plain=plain)
    try:
        kind = kind or _kind_of(source)
        if kind is None:
            source.file.seek(0)
            own = own_text(source.file.read(_BLOCK))
            if own is not None:
                raise NoSamplesError(f"{path}: {own[0]}, not a dump", hint=own[1])
            raise NoSamplesError(
                f"{path}: not a dump: {kind_in_words(path)}, expected JSON, an event stream, "
                "arrays (.npy, .npz, .safetensors), a torch file, a pickle, micro-batches "
                "(msgpack) or a native dump",
                hint=_DUMPS,
            )
        index = _build_index(source, kind, records)
        chains = find_chains(index.keys, records.told)
        try:
            context = find_context(
                path, model, guess=lambda: guess_facts(map(records.wire, range(len(index.keys))))
            )
        except UnknownModelError:
            if index.with_routes:
                raise
            raise _no_routes(path, kind, index, None) from None
    except BaseException:
        records.close()
        raise

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
    calls = Calls(context.facts, start, meta.engine)
    dump = Dump(meta, chains.keys, lambda n: calls.sample(records, chains.places(n)))
    dump.elsewhere = lambda run: CallRun(calls, records, [chains.places(n) for n in run])
    weakref.finalize(dump, records.close)
    if not index.with_routes:
        raise _no_routes(path, kind, index, dump)
    return dump
