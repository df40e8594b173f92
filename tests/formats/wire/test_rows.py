"""Which rows a payload holds: layers, dtypes, missing rows, and where row 0 stands."""

import base64
import json

import numpy as np
import pytest

from routectl.cli.main import main
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.ops.check.check import check
from routectl.ops.summary import summarize
from support.building import CONFIG, as_npy, as_raw, record, some_ids, write_lines
from support.recordings import DEEPSEEK_CONFIG, deepseek_record


@pytest.mark.parametrize("encode", [as_npy, as_raw, np.ndarray.tolist])
@pytest.mark.parametrize("whole", [True, False])
def test_all_layers_or_moe_layers(tmp_path, encode, whole):
    """A payload of all layers and one of the MoE layers give the same routes."""
    line, ids = deepseek_record()
    payload = encode(ids if whole else ids[:, 1:])
    documents = [{**line, "routed_experts_b64npy": None, "routed_experts": payload}]
    path = write_lines(
        tmp_path / "x.jsonl", documents, config=json.loads(DEEPSEEK_CONFIG.read_text())
    )
    (sample,) = open_dump(path)
    assert sample.routes.layers_L == (1, 2, 3, 4)
    np.testing.assert_array_equal(sample.routes.ids_TLK, ids[:, 1:])


@pytest.mark.parametrize("filler", [0, -1, 65535])
def test_a_constant_dense_layer_is_dropped_and_another_refused(tmp_path, filler):
    """A dense layer's column is dropped when it is one constant, and refused when it is not."""
    line, ids = deepseek_record()
    ids = ids.astype(np.int32)
    ids[:, 0] = filler
    config = json.loads(DEEPSEEK_CONFIG.read_text())
    path = write_lines(
        tmp_path / "x.jsonl", [{**line, "routed_experts_b64npy": as_npy(ids)}], config=config
    )
    np.testing.assert_array_equal(open_dump(path)[0].routes.ids_TLK, ids[:, 1:])
    ids[4, 0, 2] = 7
    write_lines(path, [{**line, "routed_experts_b64npy": as_npy(ids)}], config=config)
    with pytest.raises(FormatError, match=r"layer 0 is dense in the model, but its column holds 2"):
        open_dump(path)[0]


def _unaligned(ids):
    """A .npy whose data begins at an odd offset, which the format allows."""
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': %s, }" % str(ids.shape).encode()
    header += b" " * (len(header) % 2) + b"\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    data = head + ids.astype("<i4").tobytes()
    assert len(head) % 2 == 1
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "encode",
    [
        lambda ids: as_npy(np.asfortranarray(ids, "u1")),
        lambda ids: as_npy(ids.astype("<i2")),
        lambda ids: as_npy(ids.astype(">u2")),
        lambda ids: as_npy(ids.astype(">i8")),
        lambda ids: as_npy(ids.astype("u8")),
        lambda ids: as_npy(ids.astype("i1")),
        _unaligned,
    ],
    ids=["fortran", "int16", "big-endian", "big-endian-int64", "uint64", "int8", "unaligned"],
)
def test_npy_dialects(tmp_path, encode):
    """Fortran order, any integer type and byte order, any alignment: the routes are the same."""
    ids = some_ids(9)
    path = write_lines(tmp_path / "x.jsonl", [record(ids, routed_experts=encode(ids))])
    routes = open_dump(path)[0].routes
    np.testing.assert_array_equal(routes.ids_TLK, ids)
    assert routes.ids_TLK.dtype == np.uint8
    assert routes.ids_TLK.flags.c_contiguous


def test_more_than_256_experts_are_uint16(tmp_path):
    """With 300 experts ids above 255 are kept, in uint16."""
    ids = some_ids(20, experts=300)
    ids[3, 1] = (299, 256)
    config = {**CONFIG, "num_experts": 300}
    path = write_lines(tmp_path / "x.jsonl", [record(ids.astype(np.uint16))], config=config)
    dump = open_dump(path)
    assert dump.meta.wire_dtype == "int64" or dump.meta.wire_dtype == "uint16"
    assert dump[0].routes.ids_TLK.dtype == np.uint16
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, ids)


def test_id_255_is_legal_with_256_experts(tmp_path):
    """With 256 experts a row may hold id 255, and only a row of nothing else is missing."""
    ids = some_ids(6, experts=250).astype(np.uint8)
    ids[1, 0] = (255, 3)
    ids[2, 2] = 255
    path = write_lines(tmp_path / "x.jsonl", [record(ids)], config={**CONFIG, "num_experts": 256})
    routes = open_dump(path)[0].routes
    assert routes.ids_TLK[1, 0].tolist() == [255, 3]
    assert np.argwhere(routes.missing_TL).tolist() == [[2, 2]]
    assert routes.rows == 6 * 3 - 1


@pytest.mark.parametrize(
    ("filler", "dtype"),
    [(0, "u1"), (255, "u1"), (0, "u2"), (65535, "u2"), (-1, "i2"), (-1, "i4"), (2**32 - 1, "u4")],
)
def test_filler_rows_are_missing(tmp_path, filler, dtype):
    """Rows of 0, -1 or a wrapped -1 alone are missing, and their ids are 0."""
    ids = some_ids(7).astype(dtype)
    ids[0], ids[4, 1] = filler, filler
    routes = open_dump(write_lines(tmp_path / "x.jsonl", [record(ids)]))[0].routes
    expected = np.zeros((7, 3), bool)
    expected[0], expected[4, 1] = True, True
    np.testing.assert_array_equal(routes.missing_TL, expected)
    assert not routes.ids_TLK[expected].any()
    np.testing.assert_array_equal(routes.ids_TLK[~expected], ids[~expected])


@pytest.mark.parametrize(("experts", "filler", "dtype"), [(8, 255, "u1"), (256, -1, "i2")])
def test_one_id_a_row(tmp_path, experts, filler, dtype):
    """With top-1 every id of the model is a route, 0 and 255 too, and only a filler is missing."""
    ids = np.arange(12).reshape(4, 3, 1).astype(dtype) % 8
    ids[3, 2, 0] = filler
    ids[3, 1, 0] = experts - 1
    config = {**CONFIG, "num_experts_per_tok": 1, "num_experts": experts}
    routes = open_dump(write_lines(tmp_path / "x.jsonl", [record(ids)], config=config))[0].routes
    assert np.argwhere(routes.missing_TL).tolist() == [[3, 2]]
    assert routes.ids_TLK[0, 0, 0] == 0
    assert routes.ids_TLK[3, 1, 0] == experts - 1


@pytest.mark.parametrize(
    "payload", ["", as_npy(np.zeros((0, 3, 2), "u1")), []], ids=["raw", "npy", "json"]
)
def test_zero_rows(tmp_path, payload):
    """A request that starts at its prompt's end and samples one token has routes of zero rows."""
    document = record(some_ids(4), prompt=4, routed_experts=payload, routed_experts_start_len=4)
    (sample,) = open_dump(write_lines(tmp_path / "x.jsonl", [document]))
    assert sample.routes.ids_TLK.shape == (0, 3, 2)
    assert (sample.routes.start, sample.routes.stop) == (4, 4)


def test_null_payloads(tmp_path):
    """A sample with a null payload is there without routes, beside others that have some."""
    lines = [record(some_ids(5)), record(some_ids(5), routed_experts=None)]
    dump = open_dump(write_lines(tmp_path / "x.jsonl", lines))
    assert [sample.routes is None for sample in dump] == [False, True]
    assert dump[1].token_ids.tolist() == dump[0].token_ids.tolist()


@pytest.mark.parametrize("encode", [as_npy, as_raw])
def test_start_is_inferred_from_the_row_count(tmp_path, encode):
    """Without a start, N - 1 - rows is taken and marked, as far as it lies in the prompt."""
    ids = some_ids(9)
    for start in range(8):
        line = record(ids, prompt=6, routed_experts=encode(ids[start:]))
        path = write_lines(tmp_path / "x.jsonl", [line])
        if start <= 6:
            sample = open_dump(path)[0]
            assert (sample.routes.start, sample.start_inferred) == (start, start > 0)
            np.testing.assert_array_equal(sample.routes.ids_TLK, ids[start:])
        else:
            with pytest.raises(FormatError, match=r"line 1: got 2 rows, expected 4 - 1 to 9 for"):
                open_dump(path)[0]


def test_rows_without_counts_need_a_start(tmp_path):
    """Rows whose token counts and start are not known are refused until a start places them."""
    path = write_lines(tmp_path / "x.jsonl", [{"routed_experts": as_npy(some_ids(9))}])
    with pytest.raises(FormatError, match="9 rows, but neither the token counts") as caught:
        open_dump(path)[0]
    assert "::start=0" in caught.value.hint
    sample = open_dump(path, start=3)[0]
    assert (sample.routes.start, sample.routes.stop, sample.start_inferred) == (3, 12, False)


@pytest.mark.parametrize("encode", [as_npy, as_raw, np.ndarray.tolist])
@pytest.mark.parametrize(
    ("rows", "said", "form"),
    [
        (10, {}, "N"),
        (10, {"start": 0}, "N"),
        (9, {}, "N-1"),
        (9, {"start": 0}, "N-1"),
        (8, {"start": 0}, "N-2"),
    ],
)
def test_row_counts_are_understood(tmp_path, encode, rows, said, form):
    """From the first token on, N, N - 1 and N - 2 rows are known; the last of N is left out."""
    ids = some_ids(10)
    line = record(ids[:9], routed_experts=encode(ids[:rows]), **said)
    dump = open_dump(write_lines(tmp_path / "x.jsonl", [line]))
    (sample,) = dump
    assert (sample.row_count, sample.start_inferred) == (form, False)
    np.testing.assert_array_equal(sample.routes.ids_TLK, ids[: min(rows, 9)])
    assert summarize(dump).row_counts == {form: 1}
    codes = {"N": {"R004"}, "N-1": set(), "N-2": {"R003"}}
    assert {finding.code for finding in check(dump).findings} == codes[form]


def test_one_row_short_everywhere_is_a_convention(tmp_path):
    """N - 2 rows in every sample are an engine's count, in some of them a step that is missing."""
    ids = some_ids(9)
    short = record(ids, routed_experts=as_npy(ids[:-1]), start=0)
    for lines, code in (([short] * 3, "R009"), ([short, short, record(ids)], "R003")):
        (finding,) = check(open_dump(write_lines(tmp_path / "x.jsonl", lines))).findings
        assert (finding.code, finding.rows) == (code, 3 * lines.count(short))


def test_a_start_of_one_may_be_a_row_short(tmp_path):
    """Without a start, N - 2 rows are placed from 1 on, which is an error: check says what they
    may be."""
    ids = some_ids(9)
    line = record(ids, routed_experts=as_npy(ids[:-1]))
    path = write_lines(tmp_path / "x.jsonl", [line])
    (finding,) = check(open_dump(path)).findings
    assert (finding.code, finding.places[0].position) == ("R013", 1)
    assert "::start=0" in finding.detail
    assert open_dump(path, start=0)[0].row_count == "N-2"


@pytest.mark.parametrize("rows", [7, 11, 20])
def test_row_counts_that_fit_nothing(tmp_path, capsys, rows):
    """Any other count is named in check, more rows or fewer, and exit 2 in diff."""
    ids = some_ids(20)
    line = record(ids[:9], routed_experts=as_npy(ids[:rows]), start=0)
    path = write_lines(tmp_path / "x.jsonl", [line])
    (finding,) = check(open_dump(path)).findings
    assert finding.code == ("R003" if rows < 9 else "R002")
    assert finding.rows == 3 * (9 - rows if rows < 9 else rows - 10)
    assert main(["diff", str(path), str(path)]) == 2
    assert f"got {rows} rows, expected 9" in capsys.readouterr().err


def test_a_given_start_is_held_against_the_row_count(tmp_path):
    """A given start is checked like a requested start, and gives way to what the request says."""
    ids = some_ids(9)
    lines = [record(ids, routed_experts=as_npy(ids[2:]))]
    path = write_lines(tmp_path / "x.jsonl", lines)
    assert open_dump(path, start=2)[0].routes.start == 2
    with pytest.raises(FormatError, match=r"got 7 rows, expected 8 = 3 prompt \+ 7 response"):
        open_dump(path, start=1)[0]
    write_lines(path, [{**lines[0], "routed_experts_prompt_start": 2}])
    assert open_dump(path, start=1)[0].routes.start == 2
