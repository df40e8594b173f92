"""Payloads that are damaged, of another model or no payload at all, and pickles."""

import base64
import io
import os
import pickle
import warnings

import numpy as np
import pytest

from routectl.errors import FormatError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.wire.payload import npy_header
from support.building import (
    FACTS,
    as_npy,
    as_raw,
    check_line,
    raw_npy,
    record,
    some_ids,
    write_lines,
)


def _base64(data):
    return base64.b64encode(data).decode("ascii")


def _bad_id():
    ids = some_ids(9)
    ids[4, 1, 1] = 8
    return ids


IDS = some_ids(9)
WRONG = {
    "truncated npy": (as_npy(IDS)[:-3], "truncated .* base64"),
    "npy cut at four characters": (
        as_npy(IDS)[:-8],
        r"got 4\d\d bytes, expected 432 for \[9, 3, 2\]",
    ),
    "truncated raw": (as_raw(IDS)[:-2], "truncated .* base64"),
    "no base64": ("ray://shared/object#17", "base64"),
    "not ascii": ("k05VTVBZ\u00e9\u00e9\u00e9\u00e9", "invalid base64"),
    "bytes do not divide": (as_raw(IDS.reshape(-1)[:-1]), r"got 212 bytes .* a multiple of 24 = 4"),
    "id too large": (
        as_npy(_bad_id()),
        r"row 4 \(position 4\), layer 1: got id 8, expected 0\.\.7",
    ),
    "id negative": (as_npy(np.where(_bad_id() == 8, -2, IDS)), "got id -2, expected 0..7"),
    "layers": (as_npy(some_ids(9, 4)), r"got 4 layers, expected 3 \(all layers\) or 3 \(MoE"),
    "top_k": (as_npy(some_ids(9, 3, 3)), "got rows of 3 ids, expected top_k = 2"),
    "rows": (as_npy(some_ids(11)), "got 11 rows, expected 7 - 1 to 9 for 3 prompt"),
    "axes": (as_npy(IDS[0]), r"got int64 \(3, 2\), expected integers \[rows, layers, top_k\]"),
    "no axis": (as_npy(np.array(3)), r"got int64 \(\), expected integers"),
    "floats": (as_npy(IDS.astype("f4")), "got float32"),
    "bools": (as_npy(IDS > 3), "got bool"),
    "list of floats": ((IDS + 0.5).tolist(), "got float64"),
    "list of strings": (IDS.astype(str).tolist(), "got <U"),
    "list of bools": ((IDS > 3).tolist(), "got bool"),
    "ragged list": ([[[1, 2]], [[1, 2], [3, 4]]], "not all of one shape"),
    "flat list": ([1, 2, 3], r"got int64 \(3,\)"),
    "huge numbers": ([[[10**30, 1]] * 3] * 9, "got object"),
    "a number": (7, r"got int64 \(\)"),
    "huge shape": (_base64(raw_npy((2**40, 3, 2))), "got 0 bytes, expected 6597069766656"),
    "huger shape": (_base64(raw_npy((0, 2**62, 2**62))), "no array is of shape"),
    "negative shape": (_base64(raw_npy((-1, -3, 2), data=b"123456")), "not a .npy array"),
    "many axes": (_base64(raw_npy((1,) * 80, data=b"1")), "no array is of shape"),
    "shape of a list": (_base64(raw_npy([9, 3, 2])), "not a .npy array"),
    "structured": (_base64(raw_npy((9,), [("a", "<i4")])), "not a .npy array"),
    "empty items": (_base64(raw_npy((9, 3, 2), "<U0")), "no array is of shape"),
    "no header": (_base64(b"\x93NUMPY\x01\x00"), "not a .npy array"),
    "npy version": (_base64(b"\x93NUMPY\x07\x00" + b" " * 99), "expected NUMPY 1.0 to 3.0"),
    "deep header": (
        _base64(raw_npy((9,), "<i4").replace(b"(9,)", b"(" * 50 + b")" * 50)),
        "not a .npy",
    ),
    "code in the header": (_base64(raw_npy((9,)).replace(b"False", b"exit()")), "not a .npy array"),
}


@pytest.mark.parametrize(("payload", "line"), WRONG.values(), ids=WRONG)
def test_a_wrong_payload_is_refused(tmp_path, payload, line):
    """A payload that is cut, of another model or no payload is refused with its line number."""
    path = write_lines(tmp_path / "x.jsonl", [record(IDS), record(IDS, routed_experts=payload)])
    dump = open_dump(path)
    assert dump[0].routes.num_tokens == 9
    with pytest.raises(FormatError, match=line) as caught:
        dump[1]
    assert check_line(caught.value, path).startswith(": line 2: ")


@pytest.mark.parametrize("code", ["0or 1", "0x1if 1else 2", "1_0and 2", "'\\d'", "b'\\400'"])
def test_a_header_is_read_without_a_warning(code):
    """What Python warns of on stderr where it parses it is no header."""
    header = f"{{'descr': '|u1', 'fortran_order': {code}, 'shape': (9,)}}".encode()
    data = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(9)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(FormatError, match=r"not a \.npy array"):
            npy_header(io.BytesIO(data), "x")
    assert said == []


def test_an_object_payload_is_unsupported(tmp_path):
    """A payload that is a JSON object without data and shape is another program's form."""
    path = write_lines(tmp_path / "x.jsonl", [record(IDS, routed_experts={"data": "", "dim": []})])
    with pytest.raises(UnsupportedError, match=r"an object of data, dim: no shape") as caught:
        list(open_dump(path, model=FACTS))
    check_line(caught.value, path)


class _Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize(
    "form", ["npy", "npz", "base64", "pickle.npy", "pickle.jsonl", "pickle.npz"]
)
def test_pickles_are_never_loaded(tmp_path, form):
    """An array of Python objects, or a bare pickle, is refused, and its code does not run."""
    marker = tmp_path / "code_ran"
    array = np.array([_Bomb(marker)], object)
    folder = tmp_path / "dump"
    folder.mkdir()
    path = folder / f"x.{form}"
    if form == "npz":
        np.savez(path, **{"s.routed_experts": array}, allow_pickle=True)
    elif form.startswith("pickle"):
        path.write_bytes(pickle.dumps(_Bomb(marker)))
    else:
        np.save(folder / "x.npy", array, allow_pickle=True)
        if form == "base64":
            payload = _base64((folder / "x.npy").read_bytes())
            path = write_lines(folder / "x.jsonl", [record(IDS, routed_experts=payload)])
    with pytest.raises(FormatError) as caught:
        list(open_dump(path, model=FACTS))
    check_line(caught.value, path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Bomb(marker)))
    assert marker.exists(), "the bomb is a real one"
