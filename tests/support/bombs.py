"""Small files that ask for much: of each a maker, which returns the path to open.

What they are made of is told in their docstrings. Parquet ones are native files whose columns were
written anew, since the container's own writer makes none of them.
"""

import base64
import gzip
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.routes import Routes
from support.building import raw_npy

__all__ = ["BOMBS"]

MB = 1 << 20


def _gz(name, *parts):
    """A gzip of several members: (bytes, how often)."""

    def make(folder):
        path = folder / name
        with path.open("wb") as file:
            for data, times in parts:
                whole, rest = divmod(times, max(1, MB // len(data)))
                block = gzip.compress(data * max(1, MB // len(data)), 9) if whole else b""
                file.write(block * whole + gzip.compress(data * rest, 9))
        return path

    return make


def _text(name, data):
    def make(folder):
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def _sparse(name, head, size):
    """A file that begins so, and goes on as a hole of the disk."""

    def make(folder):
        path = folder / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)
        return path

    return make


def _zip(name, member, head, size):
    """A deflated member: a head, then zeros."""

    def make(folder):
        path = folder / name
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(member, "w") as file,
        ):
            file.write(head)
            for _ in range(size // MB):
                file.write(bytes(MB))
        return path

    return make


def _many_members(folder):
    """Members that are each within what is always fine, and together are not."""
    path = folder / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(
                f"{i}.routed_experts.npy", raw_npy((10 * MB, 3, 2), data=bytes(60 * MB))
            )
    return path


def _safetensors(name, entries, size=0):
    header = json.dumps(entries).encode()
    return _sparse(name, len(header).to_bytes(8, "little") + header, 8 + len(header) + size)


def _r3(tokens, replayed, selector=0):
    """R3/v1 whose header counts tokens that its matrices do not have."""
    bits = bytes((tokens + 7) // 8) if selector == 2 else b""
    head = struct.pack(
        "<4sBBBBIIIIQ", b"R3V1", 1, selector, 1, 0, tokens, replayed, 0, len(bits), 0
    )
    return base64.b64encode(zstandard.compress(head + bits, 19)).decode()


def _payload(payload):
    return _text(
        "x.jsonl", json.dumps({"sample_id": "a", "start": 0, "routed_experts": payload}).encode()
    )


def _zstd_zeros(folder):
    data = base64.b64encode(zstandard.compress(bytes(250 * MB), 19)).decode()
    return _payload(data)(folder)


_LAYERS = (0, 1, 2)


def _table(rows, **columns):
    """A native file's table, with columns in place of its own."""
    stream = io.BytesIO()
    sample = Sample(Routes(np.zeros((2, 3, 2), np.uint8), _LAYERS, 8), sample_id="a")
    meta = DumpMeta("", "", _LAYERS, 8, 2)
    from routectl.formats.native.container import stream_native

    stream_native([sample], meta, stream)
    table = pq.read_table(io.BytesIO(stream.getvalue()))
    made = {
        name: pa.chunked_array([column.chunk(0)])
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    taken = pa.array(np.zeros(rows, np.int32))
    made = {name: column.take(taken) for name, column in made.items() if name not in columns}
    arrays = [columns[f.name] if f.name in columns else made[f.name] for f in table.schema]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _parquet(rows, columns, **options):
    """Native files of which some columns repeat one large value, as a dictionary or in runs."""

    def make(folder):
        path = folder / "x.parquet"
        given = {"compression": "zstd", "use_dictionary": True, "write_batch_size": 1024, **options}
        pq.write_table(_table(rows, **columns(rows)), path, **given)
        return path

    return make


def _cells(size):
    def columns(rows):
        cell = pa.array([bytes(size)], pa.binary())
        return {f"layer_{n:03d}": cell.take(pa.array(np.zeros(rows, np.int32))) for n in _LAYERS}

    return columns


def _strings(name, size):
    def columns(rows):
        return {name: pa.array(["x" * size], pa.string()).take(pa.array(np.zeros(rows, np.int32)))}

    return columns


def _tokens(size, value=None):
    def columns(rows):
        values = pa.array(np.zeros(size, np.int32)) if value is None else pa.nulls(size, pa.int32())
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * (size // rows))
        return {"response_ids": pa.ListArray.from_arrays(offsets, values)}

    return columns


def _nothing(rows):
    names = {"sample_id": pa.string(), "group_id": pa.string()}
    return {name: pa.nulls(rows, kind) for name, kind in names.items()}


def _row_groups(folder):
    """Four hundred row groups of a sample each, whose cells are 100 kB and ought to be 4 bytes."""
    path = folder / "x.parquet"
    table = _table(400, **_cells(100_000)(400))
    pq.write_table(table, path, row_group_size=1, compression="zstd", use_dictionary=True)
    return path


def _native_zeros(folder):
    path = folder / "x.parquet"
    ids = np.zeros((15 * MB, 3, 2), np.uint8)
    meta = DumpMeta("", "", _LAYERS, 8, 2)
    write_native([Sample(Routes(ids, _LAYERS, 8))], meta, path, force=True)
    return path


def _shared_lists(folder):
    """A pickle of lists that hold the same list twice, forty deep: 2 ** 40 values to walk."""
    value = [0, 1]
    for _ in range(40):
        value = [value, value]
    path = folder / "x.pkl"
    path.write_bytes(pickle.dumps([{"routed_experts": value, "tokens": value}]))
    return path


def _frames(folder):
    """A pickle whose frame and bytes claim 2 ** 60."""
    path = folder / "x.pkl"
    path.write_bytes(
        b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"\x8e" + b"\x7f" * 8 + b"."
    )
    return path


HUGE = {"s.routed_experts": {"dtype": "U8", "shape": [1 << 40, 3, 2], "data_offsets": [0, 6 << 40]}}
EMPTY = {"s.routed_experts": {"dtype": "U8", "shape": [1 << 40, 0, 2], "data_offsets": [0, 0]}}
BOMBS = {
    "gzip: a string of blanks": _gz("x.jsonl.gz", (b'{"a": "', 1), (b" ", 300 * MB)),
    "gzip: empty lists": _gz("x.json.gz", (b'{"x":[', 1), (b"[],", 20 * MB), (b"0]}", 1)),
    "gzip: objects": _gz("x.json.gz", (b'{"x":[', 1), (b"{},", 20 * MB), (b"0]}", 1)),
    "gzip: numbers": _gz("x.json.gz", (b'{"x":[', 1), (b"1.5,", 15 * MB), (b"0]}", 1)),
    "gzip: strings": _gz("x.json.gz", (b'{"x":[', 1), (b'"",', 20 * MB), (b"0]}", 1)),
    "gzip: one key again and again": _gz(
        "x.json.gz", (b"{", 1), (b'"a":[],', 9 * MB), (b'"b":0}', 1)
    ),
    "gzip: one event of lists": _gz("x.sse.gz", (b"data: [", 1), (b"[],", 20 * MB), (b"0]\n\n", 1)),
    "gzip: small events": _gz("x.sse.gz", (b"data: {}\n\n", 6 * MB), (b"data: [DONE]\n\n", 1)),
    "JSON: a line without an end": _sparse("x.jsonl", b'{"a": "', 3 << 30),
    "JSON: a document without an end": _sparse("x.json", b'{"a": "', 3 << 30),
    "JSON: 100,000 lists deep": _text("x.json", b"[" * 100_000),
    "JSON: a million digits": _text("x.json", b'{"a": ' + b"7" * MB + b"}"),
    "JSON: zstd of zeros": _zstd_zeros,
    "JSON: R3 with 2 ** 32 tokens": _payload(_r3(2**32 - 1, 1, 1)),
    "JSON: R3 with a bitmap": _payload(_r3(400 * MB, 1, 2)),
    "npz: zeros": _zip("x.npz", "s.routed_experts.npy", raw_npy((80 * MB, 3, 1)), 240 * MB),
    "npz: many members": _many_members,
    "npz: a header": _zip(
        "x.npz", "s.npy", b"\x93NUMPY\x02\x00" + (200 * MB).to_bytes(4, "little"), 200 * MB
    ),
    "npy: 2 ** 40 rows": _text("x.npy", raw_npy((1 << 40, 3, 2))),
    "npy: 2 ** 40 rows of nothing": _text("x.npy", raw_npy((1 << 40, 0, 2))),
    "safetensors: 2 ** 40 rows": _safetensors("x.safetensors", HUGE),
    "safetensors: 2 ** 40 rows of nothing": _safetensors("x.safetensors", EMPTY),
    "safetensors: a header of 3 GB": _sparse(
        "x.safetensors", (3 << 30).to_bytes(8, "little") + b"{", 4 << 30
    ),
    "msgpack: 2 ** 32 micro-batches": _text(
        "x.msgpack", b"\xdd\xff\xff\xff\xff\xdc\x00\x10\xdd\xff\xff\xff\xff"
    ),
    "pickle: lists twice in each other": _shared_lists,
    "pickle: a frame of 2 ** 60": _frames,
    "Parquet: zeros": _native_zeros,
    "Parquet: one cell 300 times": _parquet(300, _cells(800_000)),
    **{
        f"Parquet: one cell 300 times, {name}": _parquet(300, _cells(800_000), compression=name)
        for name in ("none", "snappy", "gzip", "brotli", "lz4")
    },
    "Parquet: one cell, pages of version 2": _parquet(
        300, _cells(800_000), data_page_version="2.0"
    ),
    "Parquet: one id 4,000 times": _parquet(4000, _strings("sample_id", 100_000)),
    "Parquet: one reason 4,000 times": _parquet(4000, _strings("finish_reason", 100_000)),
    "Parquet: one token 25 million times": _parquet(25, _tokens(25 * 10**6)),
    "Parquet: 25 million nulls in lists": _parquet(25, _tokens(25 * 10**6, "null")),
    "Parquet: 3 million rows of nothing": _parquet(3 * 10**6, _nothing, row_group_size=10**7),
    "Parquet: 400 row groups of one cell": _row_groups,
}
