"""What a file is, by its first bytes: the binary containers, and in words for a message."""

import re
from pathlib import Path

import msgspec

from ...errors import FormatError
from ...files.reading import open_regular

__all__ = ["kind_in_words", "sniff_binary"]

_TORCH = re.compile(rb"/(?:data\.pkl|byteorder)")  # what comes first: in torch's files, and in ours
_MICRO_BATCHES = re.compile(  # an array of arrays of 11 to 63 fields, the first of them an array
    rb"(?:[\x91-\x9f]|\xdc..|\xdd....)(?:[\x9b-\x9f]|\xdc\x00[\x10-\x3f])[\x90-\x9f\xdc\xdd]",
    re.DOTALL,
)
_PARTIAL = re.compile(rb"[\x80-\x8f]\xa6schema.routectl\.partial/", re.DOTALL)
_STRAW = re.compile(rb"\{\s*\"evaluation\":\s*\w+,\s*\"format\":\s*\"\w+\.straw-debug\"")
_COUNTS = re.compile(rb"\s*\{\s*\"logical_count\"")  # SGLang's --init-expert-location
_HEAD = 1 << 20
_WORDS = {
    "native": "a native dump",
    "npy": "an array (.npy)",
    "npz": "arrays (.npz)",
    "safetensors": "a safetensors file",
    "torch": "a torch file",
    "pickle": "a pickle",
    "msgpack": "micro-batches (msgpack)",
    "straw": "an archive of rollouts (straw)",
    "counts": "counts of experts",
    "dictionary": "a token dictionary",
    "partial": "what --partial of a command wrote",
    "trace": "a router trace of Megatron-Core",
}


def sniff_binary(path: Path) -> str | None:
    """The container by its first bytes; None for text of routes, but for a trace."""
    with open_regular(path) as file:
        head = file.read(128)
    if head.startswith(b"PAR1"):
        return "native"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK"):
        return "torch" if _TORCH.search(head) else "npz"
    if head.startswith(b"routectl-dictionary/"):
        return "dictionary"
    if _PARTIAL.match(head):
        return "partial"
    from ...checkpoints.router_trace import is_trace  # late: it loads what reads checkpoints

    if is_trace(head):
        return "trace"
    if _MICRO_BATCHES.match(head):
        return "msgpack"
    if _STRAW.match(head):
        return "straw"
    if _COUNTS.match(head):
        return "counts"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return None


def kind_in_words(path: Path) -> str:
    """What a file is, for a message that expected another one; by its content alone."""
    try:
        found = sniff_binary(path)
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except (FormatError, OSError):
        return "a file that cannot be read"
    if found is not None:
        return _WORDS[found]
    if not head.strip():
        return "an empty file"
    if head.startswith(b"\x1f\x8b"):
        return "a gzipped file"
    line, newline, rest = head.lstrip().partition(b"\n")
    if line[:1] in b"{[" and newline and rest.strip() and _is_json(line):
        return "JSON lines"
    if line[:1] in b"{[":
        return "JSON"
    return "text" if b"\0" not in head and _is_text(head) else "unknown bytes"


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
