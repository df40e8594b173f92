"""Hostile files: each is refused quickly, in bounded memory, in one line, and runs no code."""

import gzip
import json
import tracemalloc
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.dump import DumpMeta, Sample
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.routes import Routes
from support.building import (
    CONFIG,
    FACTS,
    check_line,
    npy_bytes,
    raw_npy,
    record,
    some_ids,
    write_json,
    write_lines,
)
from support.recordings import SGLANG


def _read(path, **options):
    options.setdefault("model", FACTS)
    return list(open_dump(path, **options))


IDS = some_ids(9)


def _gzip_bomb(path):
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(b'{"a": "' + b" " * (80 << 20), 9))
    return path


def _npz_bomb(path):
    path = path.with_suffix(".npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s.routed_experts.npy", raw_npy((80 << 20, 3, 1), data=bytes(240 << 20)))
    return path


def _header_bomb(path):
    path = path.with_suffix(".npz")
    size = 200 << 20
    head = b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s.routed_experts.npy", head + b" " * size)
    return path


def _native_bomb(path):
    path = path.with_suffix(".parquet")
    ids = np.zeros((15 << 20, 3, 2), np.uint8)
    write_native(
        [Sample(Routes(ids, (0, 1, 2), 8))], DumpMeta("", "", (0, 1, 2), 8, 2), path, force=True
    )
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size > 64 << 20
    return path


def _huge_npy(path):
    path = path.with_suffix(".npy")
    path.write_bytes(raw_npy((1 << 40, 3, 2)))
    return path


def _huge_npz(path):
    path = path.with_suffix(".npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("s.routed_experts.npy", raw_npy((1 << 40, 3, 2)))
    return path


def _huge_safetensors(path):
    path = path.with_suffix(".safetensors")
    entry = {"dtype": "U8", "shape": [1 << 40, 3, 2], "data_offsets": [0, 6 << 40]}
    header = json.dumps({"s.routed_experts": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (_gzip_bomb, "inflate to more than 200 times"),
        (_npz_bomb, "inflate to more than 200 times"),
        (_header_bomb, "inflate to more than 200 times"),
        (_native_bomb, "inflate to more than 200 times"),
        (_huge_npy, "got 0 bytes of data, expected 6597069766656"),
        (_huge_npz, "got 0 bytes of data, expected 6597069766656"),
        (_huge_safetensors, "damaged .safetensors"),
    ],
)
@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory(tmp_path, make, line):
    """A file that inflates, or claims to hold, far beyond its size is refused at little cost."""
    path = make(tmp_path / "x")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(FormatError):
        _read(path)  # untraced, so that no import is counted
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=line) as caught:
            _read(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    check_line(caught.value, path)


DEEP = "[" * 100_000
NESTED = '{"request": {}, "response": ' * 900 + "{}" + "}" * 900
ITEMS = "[" * 900 + "{}" + "]" * 900


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, '{"choices":' + DEEP, NESTED, ITEMS])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.sse"])
def test_deeply_nested_json_is_refused(tmp_path, text, name):
    """JSON nested beyond reason is refused, be it brackets, items or responses in responses."""
    path = tmp_path / name
    path.write_text(f"data: {text}\n\ndata: [DONE]\n" if name.endswith("sse") else text, "utf-8")
    with pytest.raises(FormatError) as caught:
        _read(path)
    check_line(caught.value, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_refused_or_reads_the_same(tmp_path, save):
    """Whichever byte of a .npz is flipped, it is refused in one line or its routes are the same."""
    path = tmp_path / "x.npz"
    save(path, **{"s.routed_experts": IDS.astype(np.uint8)})
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            (sample,) = _read(path)
        except FormatError as error:
            check_line(error, path)
            refused += 1
        else:
            np.testing.assert_array_equal(sample.routes.ids_TLK, IDS)
    assert refused > len(whole) // 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path):
    """Two members of one name in a .npz are refused: no order says which is meant."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for seed in (1, 2):
            archive.writestr("s.routed_experts.npy", npy_bytes(some_ids(4, seed=seed)))
    with pytest.raises(FormatError, match="routed_experts: there twice") as caught:
        _read(path)
    check_line(caught.value, path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}" * 9,
        b'{"s":{"dtype":"U8","shape":[1],"data_offsets":[0,9]}}',
        b'{"s":' + b"[" * 5000,
    ],
    ids=["cut", "twice", "offsets", "deep"],
)
def test_a_damaged_safetensors_is_refused(tmp_path, header):
    """A .safetensors whose header is no header is refused in one line."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01")
    with pytest.raises(FormatError, match=r"damaged \.safetensors") as caught:
        _read(path)
    check_line(caught.value, path)


@pytest.mark.parametrize(("mark", "back"), [(b"data: [DONE]", 0), (b"data: [DONE]", 9), (b"]", 0)])
def test_a_stream_cut_short_is_refused(tmp_path, mark, back):
    """A stream that ends before [DONE], at a chunk's end or within one, is refused."""
    whole = (SGLANG / "generate_stream.response.sse").read_bytes()
    path = tmp_path / "x.response.sse"
    path.write_bytes(whole[: whole.rindex(mark) - back])
    with pytest.raises(FormatError, match=r"cut short|is not JSON") as caught:
        _read(path)
    check_line(caught.value, path)


def test_a_jsonl_cut_in_a_line_is_refused(tmp_path):
    """A JSONL file cut in the middle of a line is refused with the number of the line."""
    path = write_lines(tmp_path / "x.jsonl", [record(IDS)] * 3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="line 3: not JSON, or cut short") as caught:
        _read(path)
    check_line(caught.value, path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_gzip_cut_short_is_refused(tmp_path, keep):
    """A gzipped dump cut short is refused as damaged gzip."""
    path = tmp_path / "x.jsonl.gz"
    rng = np.random.default_rng(0)
    data = gzip.compress(json.dumps(record(IDS, noise=rng.random(9).tolist())).encode())
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FormatError, match="damaged gzip") as caught:
        _read(path)
    check_line(caught.value, path)


def test_a_response_file_is_not_its_own_request(tmp_path):
    """A request beside a response must be JSON, and its error names the request's own path."""
    document = json.loads((SGLANG / "generate_ids.response.json").read_text("utf-8"))
    path = write_json(tmp_path / "x.response.json", document, config=CONFIG)
    beside = tmp_path / "x.request.json"
    beside.write_text("{", "utf-8")
    with pytest.raises(FormatError) as caught:
        _read(path)
    check_line(caught.value, beside)
