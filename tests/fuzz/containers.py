"""Changes of files: taken apart by their own form, changed within, and put together again.

So a change gets past magic bytes, lengths and checksums. What a file does not hold together any
more is changed as plain bytes.
"""

import ast
import copy
import gzip
import io
import json
import pickletools
import struct
import tomllib
import warnings
import zipfile
import zlib

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from .trees import changed_text, changed_tree

__all__ = ["changed_file"]

ENDS = (b"\x00", b"\xff" * 4, b"\x00" * 64, b"\n", b"{", b"]", b"PK\x05\x06", b"PAR1")


def changed_bytes(rng, data):
    """Bytes flipped, put in, taken out, moved or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed)) if changed else 0
        if rng.random() < 0.3:
            at = min(at, rng.randrange(200))
        how = rng.randrange(6)
        if how < 2 and changed:
            changed[at] = rng.randrange(256) if how else changed[at] ^ (1 << rng.randrange(8))
        elif how == 2:
            changed[at:at] = rng.choice(ENDS)
        elif how == 3:
            del changed[at : at + rng.choice((1, 4, 64))]
        elif how == 4:
            changed[at : at + 8] = struct.pack("<q", rng.choice((-1, 0, 2**31, 2**40, 2**62)))
        else:
            del changed[len(changed) - rng.choice((0, 1, 9)) :]
    return bytes(changed)


def _json(rng, data):
    tree = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        tree = changed_tree(rng, tree)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _lines(rng, data):
    lines = data.split(b"\n")
    full = [i for i, line in enumerate(lines) if b"{" in line]
    at = rng.choice(full)
    how = rng.randrange(8)
    if how == 0:
        lines.insert(at, lines[at])
    elif how == 1:
        del lines[at]
    elif how == 2:
        lines[at] = changed_bytes(rng, lines[at])
    else:
        start = lines[at].index(b"{")
        lines[at] = lines[at][:start] + _json(rng, lines[at][start:])
    return b"\n".join(lines)


def _toml_value(value):
    if isinstance(value, dict):
        inner = ", ".join(
            f"{json.dumps(str(k))} = {_toml_value(v)}" for k, v in value.items() if v is not None
        )
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value if v is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def _toml(rng, data):
    tree = changed_tree(rng, tomllib.loads(data.decode()))
    pairs = tree.items() if isinstance(tree, dict) else [("x", tree)]
    lines = [f"{json.dumps(str(k))} = {_toml_value(v)}\n" for k, v in pairs if v is not None]
    return "".join(lines).encode("utf-8", "surrogatepass")


def _gzip(rng, data):
    inner = changed_file(rng, "x.jsonl", gzip.decompress(data))
    whole = gzip.compress(inner, mtime=0)
    return whole * 2 if rng.random() < 0.05 else whole


def _npy(rng, data):
    size = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:size], "little")
    header, body = data[size : size + length], data[size + length :]
    if rng.random() < 0.3:
        return data[: size + length] + changed_bytes(rng, body)
    fields = ast.literal_eval(header.decode("latin1").strip())
    fields["shape"] = list(fields["shape"])
    fields = changed_tree(rng, fields)
    if isinstance(fields, dict) and isinstance(fields.get("shape"), list):
        fields["shape"] = tuple(fields["shape"])
    text = (repr(fields) + "\n").encode("latin1", "replace")
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + body


def _zip(rng, data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(i.filename, archive.read(i), i.compress_type) for i in archive.infolist()]
    at = rng.randrange(len(members))
    name, body, how = members[at]
    change = rng.randrange(10)
    if change == 0:
        del members[at]
    elif change == 1:
        members.insert(rng.randrange(len(members) + 1), members[at])
    elif change == 2:
        members[at] = (changed_text(rng, name)[:900].replace("\ud800", "") or "x", body, how)
    elif change == 3:
        members[at] = (name, body, rng.choice((0, 8, 12, 14)))
    elif change == 4:
        other = rng.randrange(len(members))
        members[at], members[other] = (name, *members[other][1:]), (members[other][0], body, how)
    else:
        inner = name if name.endswith((".npy", ".pkl")) else "x.raw"
        members[at] = (name, changed_file(rng, inner, body), how)
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, body, how in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = how
            archive.writestr(info, body)
    return stream.getvalue()


def _safetensors(rng, data):
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.3:
        return data[: 8 + length] + changed_bytes(rng, body)
    about = header.get("__metadata__")
    text = next((k for k, v in (about or {}).items() if v[:1] == "{"), None)
    if text is not None and rng.random() < 0.4:
        about[text] = _json(rng, about[text].encode()).decode("utf-8", "replace")
    else:
        header = changed_tree(rng, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _pickle(rng, data):
    """Opcodes changed one by one; frames, which only say lengths, are left out."""
    places = [(op, place) for op, _, place in pickletools.genops(data)]
    ends = [place for _, place in places[1:]] + [len(data)]
    parts = [
        (op.name, data[place:end])
        for (op, place), end in zip(places, ends, strict=True)
        if op.name != "FRAME"
    ]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(1, len(parts))
        name, part = parts[at]
        how = rng.randrange(7)
        if how == 0:
            del parts[at]
        elif how == 1:
            parts.insert(at, parts[at])
        elif how == 2:
            other = rng.randrange(1, len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif "UNICODE" in name or "STRING" in name or name == "GLOBAL" or how == 3:
            text = rng.choice(("os", "system", "builtins", "eval", "x", "latin1", "punycode", ""))
            parts[at] = (name, b"X" + struct.pack("<I", len(text)) + text.encode())
        elif name in ("BININT", "BININT1", "BININT2", "LONG1") or how == 4:
            value = rng.choice((-1, 0, 1, 7, 255, 2**20, 2**31 - 1, -(2**31)))
            parts[at] = (name, b"J" + struct.pack("<i", value))
        elif how == 5:
            parts[at] = (name, changed_bytes(rng, part))
        else:
            parts[at] = (
                name,
                rng.choice((b"N", b"\x88", b"]", b"}", b"(", b"t", b"R", b"0", b".")),
            )
        if len(parts) < 2:
            break
    return b"".join(part for _, part in parts)


def _msgpack(rng, data):
    tree = changed_tree(rng, msgspec.msgpack.decode(data))
    return msgspec.msgpack.encode(tree)


def _changed_cell(rng, value, column):
    if isinstance(value, bytes) and value and rng.random() < 0.8:
        return changed_bytes(rng, value)
    if rng.random() < 0.3:
        return copy.deepcopy(rng.choice(column))
    if isinstance(value, list) and rng.random() < 0.7:
        return changed_tree(rng, list(value))
    return changed_tree(rng, value)


def _parquet(rng, data):
    if rng.random() < 0.15:  # the footer, whose length stays
        at = len(data) - 8 - rng.randrange(1, min(len(data) - 12, 600))
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    table = pq.read_table(io.BytesIO(data))
    about = dict(table.schema.metadata or {})
    names, columns = list(table.column_names), [table.column(n) for n in table.column_names]
    at, how = rng.randrange(len(names)), rng.randrange(10)
    if how < 3 and b"routectl" in about:
        about[b"routectl"] = _json(rng, about[b"routectl"])
    elif how == 3:
        del names[at], columns[at]
    elif how == 4:
        names[at] = changed_text(rng, names[at]).replace("\ud800", "")
    else:
        values = columns[at].to_pylist()
        row = rng.randrange(len(values))
        values[row] = _changed_cell(rng, values[row], values)
        columns[at] = pa.chunked_array([pa.array(values, columns[at].type)])
    changed = pa.table(columns, names=names).replace_schema_metadata(about)
    stream = io.BytesIO()
    pq.write_table(
        changed,
        stream,
        row_group_size=rng.choice((1, 2, 4096)),
        compression=rng.choice(("zstd", "none", "snappy")),
        use_dictionary=rng.random() < 0.3,
        write_page_checksum=rng.random() < 0.7,
    )
    return stream.getvalue()


FORMS = {
    "json": _json,
    "jsonl": _lines,
    "sse": _lines,
    "toml": _toml,
    "gz": _gzip,
    "npy": _npy,
    "npz": _zip,
    "pt": _zip,
    "safetensors": _safetensors,
    "pkl": _pickle,
    "metadata": _pickle,
    "dp": _pickle,
    "bin": _msgpack,
    "parquet": _parquet,
}
_HOLDS_NO_MORE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, EOFError),
    *(
        OSError,
        RecursionError,
        zlib.error,
        NotImplementedError,
        SyntaxError,
        MemoryError,
        struct.error,
    ),
    *(zipfile.BadZipFile, msgspec.MsgspecError, pa.ArrowException),
)


def changed_file(rng, name, data):
    """A file with something changed in it, by the form that its name tells."""
    form = FORMS.get(name.rpartition(".")[2])
    if form is None or rng.random() < 0.12:
        return changed_bytes(rng, data)
    try:
        return form(rng, data)
    except _HOLDS_NO_MORE:
        return changed_bytes(rng, data)
