"""Wire forms of bridges and gateways, built as their sources write them; references refused.

Each form is written here by hand from its source, not by routectl.
"""

import base64
import json
import struct
import time
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.errors import FormatError, RoutectlError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.wire.envelopes import from_base85
from routectl.model import ModelFacts
from support.building import (
    FACTS,
    WRONG,
    as_raw,
    check_line,
    record,
    some_ids,
    write_json,
    write_lines,
)

IDS = some_ids(9)


def b64(data):
    """Standard base64 as a string."""
    return base64.b64encode(data).decode("ascii")


def prime_rl(ids, dtype="uint8", start=0):
    """prime-rl 13e411d6, serialize_routed_experts: base64, shape, start and dtype."""
    array = np.ascontiguousarray(ids, dtype)
    return {"data": b64(array), "shape": list(array.shape), "start": start, "dtype": dtype}


def older(ids):
    """verifiers #923 and Dynamo #9651: base85 of int32, and a shape."""
    array = np.ascontiguousarray(ids, np.int32)
    return {"data": base64.b85encode(array.tobytes()).decode("ascii"), "shape": list(array.shape)}


def encoded(ids):
    """prime-rl #2408: the encoding by name, int16."""
    array = np.ascontiguousarray(ids, np.int16)
    return {"encoding": "base64", "dtype": "int16", "shape": list(array.shape), "data": b64(array)}


def skyrl(ids):
    """SkyRL a9564572, utils/routed_experts.py: no start."""
    array = np.ascontiguousarray(ids, np.uint8)
    return {"data": b64(array), "shape": list(array.shape), "dtype": "uint8"}


def rllm(ids):
    """rllm #543: the shape as JSON, then base64."""
    return [json.dumps(list(ids.shape)), b64(np.ascontiguousarray(ids, np.int32))]


def nemo_rl(ids, dtype="int8"):
    """NeMo-RL 7ea279ab, encode_routed_experts."""
    shape = "x".join(map(str, ids.shape))
    return f"nrlre1:{dtype}:{shape}:{b64(np.ascontiguousarray(ids, dtype))}"


def r3_header(selector, dtype, counts, *, sizes, old=False):
    """The header of R3/v1: 32 bytes, and 36 in the gateway's first version."""
    total, replayed, start = counts
    middle = (3, 2) if old else ()
    form = "<4sBBBBIIHHIIQ" if old else "<4sBBBBIIIIQ"
    return struct.pack(
        form, b"R3V1", 1, selector, dtype, 1, total, replayed, *middle, start, *sizes
    )


def r3(ids, *, total=None, start=0, keep=None, dtype=1, old=False):
    """eval-protocol python-sdk 3393c047, tests/adapters/test_r3_deserializer.py: an R3/v1 blob."""
    total = len(ids) + 1 if total is None else total
    bits, selector = b"", 1 if keep is None else 2
    if keep is not None:
        marks = np.zeros(total, np.uint8)
        marks[keep] = 1
        bits, ids = np.packbits(marks, bitorder="little").tobytes(), ids[keep]
    selector = 0 if len(ids) == total else selector
    body = np.ascontiguousarray(ids, f"<u{dtype}").tobytes()
    head = r3_header(
        selector, dtype, (total, len(ids), start), sizes=(len(bits), len(body)), old=old
    )
    return b64(zstandard.ZstdCompressor().compress(head + bits + body))


def matrices(ids, dtype="u1"):
    """Fireworks' completions API: a base64 matrix a token, null where there is none."""
    return [*(b64(np.ascontiguousarray(row, dtype)) for row in ids), None]


FORMS = {
    "prime-rl": (prime_rl(IDS), "uint8"),
    "prime-rl uint16": (prime_rl(IDS, "uint16"), "uint16"),
    "base85": (older(IDS), "int32"),
    "encoding": (encoded(IDS), "int16"),
    "skyrl": (skyrl(IDS), "uint8"),
    "rllm": (rllm(IDS), "json"),
    "nemo-rl": (nemo_rl(IDS), "int8"),
    "r3 suffix": (r3(IDS), None),
    "r3 all": (r3(np.concatenate([IDS, IDS[:1]]), total=10), None),
    "r3 uint16": (r3(IDS, dtype=2), None),
    "r3 36 bytes": (r3(IDS, old=True), None),
    "matrices": (matrices(IDS), "json"),
    "sglang-jax": (as_raw(IDS), "int32"),
    "lmdeploy lists": (IDS.tolist(), "json"),
}


@pytest.mark.parametrize(("payload", "dtype"), FORMS.values(), ids=FORMS)
def test_form_is_told_by_content(tmp_path, payload, dtype):
    """The same routes in each form read the same, without a flag, as a record and in choices."""
    line = record(IDS, routed_experts=payload)
    dump = open_dump(write_lines(tmp_path / "x.jsonl", [line]))
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, IDS)
    assert (dump[0].routes.start, dump[0].routes.missing_TL) == (0, None)
    assert dump.meta.wire_dtype == dtype
    choice = {"index": 0, "token_ids": line["token_ids"], "routed_experts": payload}
    doc = {"id": "a", "prompt_token_ids": line["prompt_token_ids"], "choices": [choice]}
    (sample,) = open_dump(write_json(tmp_path / "y.json", doc))
    np.testing.assert_array_equal(sample.routes.ids_TLK, IDS)


def test_base85_is_the_standard_librarys():
    """from_base85 undoes base64.b85encode for every length, and refuses what it refuses."""
    rng = np.random.default_rng(0)
    for size in range(40):
        data = rng.bytes(size)
        assert from_base85(base64.b85encode(data).decode(), "x") == data
    for bad in ("ab cd", "~~~~~", "é", "\x7f"):
        with pytest.raises(FormatError, match="invalid base85"):
            from_base85(bad, "x")


def test_the_payloads_start_comes_before_the_requests(tmp_path):
    """The start that a payload says places its rows, whatever the request asked for."""
    line = record(IDS, routed_experts=prime_rl(IDS[3:], start=3), routed_experts_prompt_start=1)
    (sample,) = open_dump(write_lines(tmp_path / "x.jsonl", [line]))
    assert (sample.routes.start, sample.start_inferred, sample.routes.num_tokens) == (3, False, 6)
    line["routed_experts"]["start"] = 2
    with pytest.raises(FormatError, match="got 6 rows, expected 7"):
        open_dump(write_lines(tmp_path / "x.jsonl", [line]))[0]


def test_dynamo(tmp_path):
    """Dynamo: prompt in nvext.token_data, ids, log-probs and routes in nvext.engine_data."""
    prompt, response = [5, 6, 7], [1, 2, 3, 4, 5, 6, 7]
    engine = {
        "completion_token_ids": response,
        "completion_logprobs": [-0.5] * 7,
        "routed_experts": prime_rl(IDS[2:], start=2),
    }
    choice = {"index": 0, "message": {"content": ""}, "finish_reason": "stop"}
    nvext = {"routed_experts": "placeholder", "engine_data": engine}
    doc = {"id": "d", "object": "chat.completion", "choices": [choice], "nvext": nvext}
    request = {"messages": [], "nvext": {"token_data": prompt, "routed_experts_prompt_start": 2}}
    path = write_json(tmp_path / "x.response.json", doc, request=request)
    (sample,) = open_dump(path)
    assert (sample.prompt_ids.tolist(), sample.response_ids.tolist()) == (prompt, response)
    assert sample.logprobs.tolist() == [-0.5] * 7
    assert sample.routes.start == 2
    np.testing.assert_array_equal(sample.routes.ids_TLK, IDS[2:])
    doc["nvext"] = {**nvext, "routed_experts": as_raw(IDS[2:])}  # Dynamo with SGLang, #15114
    doc["nvext"]["engine_data"] = {k: v for k, v in engine.items() if k != "routed_experts"}
    (sample,) = open_dump(write_json(path, doc, request=request))
    np.testing.assert_array_equal(sample.routes.ids_TLK, IDS[2:])


def test_gateway_trace(tmp_path):
    """A trace of Fireworks' gateway: R3/v1 and PTI/v1; a bitmap's gaps are missing rows."""
    keep = np.array([1, 2, 5, 7])
    pti = (
        struct.pack("<4sBBHIIQ", b"PTI1", 1, 1, 0, 3, 12, 0) + np.array([5, 6, 7], "<i4").tobytes()
    )
    doc = {
        "id": "t1",
        "input": {"messages": []},
        "payloads": {
            "router_replay": {"manifest": {"PayloadVersion": "r3/v1"}, "data": r3(IDS, keep=keep)},
            "prompt_token_ids": {"data": b64(zstandard.ZstdCompressor().compress(pti))},
        },
    }
    (sample,) = open_dump(write_json(tmp_path / "x.json", [doc]))
    assert (sample.sample_id, sample.prompt_ids.tolist()) == ("t1", [5, 6, 7])
    assert (sample.routes.start, sample.routes.stop) == (1, 9)
    there = ~sample.routes.missing_TL.any(axis=1)
    assert (np.flatnonzero(there) + 1).tolist() == keep.tolist()
    np.testing.assert_array_equal(sample.routes.ids_TLK[there], IDS[keep])


def test_tensorrt_llm(tmp_path):
    """int16 of the MoE layers alone with -1 for missing rows, and one row less is N - 2."""
    facts = ModelFacts(num_layers=5, layers=(1, 2, 4), num_experts=8, top_k=2, model_type=None)
    ids = IDS.astype(np.int16)
    ids[3], ids[4, 1] = -1, -1
    for payload in (ids.tolist(), prime_rl(ids, "int16")):
        line = record(IDS, routed_experts=payload)
        routes = open_dump(write_lines(tmp_path / "x.jsonl", [line]), model=facts)[0].routes
        assert routes.layers_L == (1, 2, 4)
        assert np.argwhere(routes.missing_TL).tolist() == [[3, 0], [3, 1], [3, 2], [4, 1]]
    line = record(IDS, routed_experts=ids[:-1].tolist(), start=0)
    (sample,) = open_dump(write_lines(tmp_path / "x.jsonl", [line]), model=facts)
    assert (sample.routes.stop, sample.row_count) == (8, "N-2")


def test_sglang_jax_dense_layers(tmp_path):
    """sglang-jax: raw int32, dense layers and padded rows -1."""
    facts = ModelFacts(num_layers=5, layers=(1, 2, 4), num_experts=8, top_k=2, model_type=None)
    wide = np.full((9, 5, 2), -1)
    wide[:, [1, 2, 4]] = IDS
    wide[0] = -1
    line = record(IDS, routed_experts=as_raw(wide))
    routes = open_dump(write_lines(tmp_path / "x.jsonl", [line]), model=facts)[0].routes
    assert routes.missing_TL.all(axis=1).tolist() == [True] + [False] * 8
    np.testing.assert_array_equal(routes.ids_TLK[1:], IDS[1:])


REFERENCES = {
    "uuid hex": ("0123456789abcdef0123456789abcdef", "a key of LMDeploy's Ray store"),
    "uuid": ("01234567-89ab-cdef-0123-456789abcdef", "a key of LMDeploy's Ray store"),
    "object ref": ("c8ef45ccd0112571" + "f" * 40, "a key of LMDeploy's Ray store"),
    "repr": ("ObjectRef(c8ef45ccd0112571)", "a key of LMDeploy's Ray store"),
    "pickle": (b64(b"\x80\x05\x95\x10\x00\x00\x00cposix\nsystem\n"), "which is never loaded"),
    "encoding": ({"data": "", "shape": [0, 3, 2], "encoding": "zip"}, "encoding zip"),
    "dtype": ({"data": "", "shape": [0, 3, 2], "dtype": "float32"}, "dtype float32"),
    "r3 version": (b64(zstandard.compress(b"R3V1\x02" + bytes(27))), "R3 header version 2"),
    "r3 dtype": (b64(zstandard.compress(b"R3V1\x01\x00\x03" + bytes(25))), "dtype code 3"),
}


@pytest.mark.parametrize(("payload", "line"), REFERENCES.values(), ids=REFERENCES)
def test_what_holds_no_routes_is_refused_by_name(tmp_path, payload, line):
    """Keys of a store, pickled references and unknown versions are named in one line."""
    path = write_lines(tmp_path / "x.jsonl", [record(IDS, routed_experts=payload)])
    with pytest.raises(UnsupportedError, match=line) as caught:
        open_dump(path)[0]
    check_line(caught.value, path)


def test_nemo_trace_has_no_routes(tmp_path):
    """NeMo-RL's R3 trace holds digests and previews: each line is named, none is a sample."""
    routes = {"shape": [4, 3, 2], "dtype": "torch.int8", "sha256": "0" * 64, "preview": [[0, 1]]}
    trace = {
        "event": "rollout_payload_sample",
        "key": "a",
        "valid_length": 4,
        "routed_experts": routes,
    }
    path = write_lines(
        tmp_path / "r3_trace_h_pid1.jsonl", [trace, {"event": "router_replay_action"}]
    )
    with pytest.raises(
        FormatError, match="line 1: NeMo-RL's R3 trace: shapes, digests and previews"
    ):
        open_dump(path)
    beside = write_lines(tmp_path / "x.jsonl", [trace, record(IDS, routed_experts=nemo_rl(IDS))])
    dump = open_dump(beside)
    assert (len(dump), len(dump.meta.skipped)) == (1, 1)


def test_nemo_rows_of_every_token(tmp_path):
    """NeMo-RL pads to a row a token: the last, of a token never fed, is left out, and said."""
    padded = np.concatenate([IDS, np.tile(np.arange(2), (1, 3, 1))])
    line = record(IDS, routed_experts=nemo_rl(padded))
    (sample,) = open_dump(write_lines(tmp_path / "x.jsonl", [line]))
    np.testing.assert_array_equal(sample.routes.ids_TLK, IDS)
    assert (sample.row_form, sample.row_count) == ("N", "N")


def _bomb(size):
    """A zstd frame that declares and holds ``size`` zeros."""
    return b64(zstandard.ZstdCompressor(level=19).compress(bytes(size)))


def _r3_raw(*parts):
    return b64(zstandard.compress(b"".join(parts)))


def _claims(size):
    """A zstd frame whose header declares ``size`` bytes and that ends there."""
    return b64(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size))


ROW = IDS[:1].astype("u1").tobytes()
HOSTILE = {
    "data short": {"data": "AAAA", "shape": [9, 3, 2], "dtype": "uint8"},
    "shape huge": {"data": "AAAA", "shape": [2**31 - 1] * 3, "dtype": "int64"},
    "shape wrong": {"data": "AAAA", "shape": [-1, 3, 2], "dtype": "uint8"},
    "shape bool": {"data": "AAAA", "shape": [True, 3, 2], "dtype": "uint8"},
    "shape flat": {"data": "AAAA", "shape": [3], "dtype": "uint8"},
    "data list": {"data": [1], "shape": [9, 3, 2], "dtype": "uint8"},
    "start wrong": {**prime_rl(IDS), "start": -1},
    "not base64": {**prime_rl(IDS), "data": "é" * 72},
    "base85 beyond": {"data": "~" * 270, "shape": [9, 3, 2]},
    "pair no shape": ["[9]", "AAAA"],
    "pair no json": ["[9,", "AAAA"],
    "pair deep": ["[" * 100_000, "AAAA"],
    "zstd bomb": lambda: _bomb(300 << 20),
    "zstd claim": _claims(1 << 62),
    "zstd cut": r3(IDS)[:40],
    "no R3": _r3_raw(b"R4V1", bytes(40)),
    "R3 short": _r3_raw(b"R3V1"),
    "lengths": _r3_raw(r3_header(0, 1, (9, 9, 0), sizes=(0, 99)), ROW),
    "tokens without bytes": _r3_raw(r3_header(0, 1, (2**32 - 1, 2**32 - 1, 0), sizes=(0, 0))),
    "far suffix": _r3_raw(r3_header(1, 1, (9, 1, 2**32 - 1), sizes=(0, 6)), ROW),
    "far end": _r3_raw(r3_header(1, 1, (2**32 - 1, 1, 0), sizes=(0, 6)), ROW),
    "bitmap short": _r3_raw(r3_header(2, 1, (90, 1, 0), sizes=(1, 6)), b"\x01", ROW),
    "bitmap count": _r3_raw(r3_header(2, 1, (8, 1, 0), sizes=(1, 6)), b"\x03", ROW),
    "selector": _r3_raw(r3_header(7, 1, (9, 1, 0), sizes=(0, 6)), ROW),
    "matrix of another model": _r3_raw(r3_header(1, 1, (9, 1, 0), sizes=(0, 5)), ROW[:5]),
    "matrices of two sizes": ["AAAA", "AAAAAAAA"],
    "matrices wide": ["AAAA"],
    "matrices no base64": ["AAA"],
    "matrices many": [b64(ROW), *[None] * (4 << 20)],
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_hostile_payloads(tmp_path, payload):
    """Whatever a payload claims, it is refused in one line, at once and in bounded memory."""
    payload = payload() if callable(payload) else payload
    path = write_lines(tmp_path / "x.jsonl", [record(IDS, routed_experts=payload)])
    with pytest.raises(FormatError):
        open_dump(path)[0]  # untraced, so that no import is counted
    dump = open_dump(path, model=FACTS)
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(FormatError) as caught:
            dump[0]
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        assert time.perf_counter() - began < 5  # 1 s where memory is not traced
    finally:
        tracemalloc.stop()
    check_line(caught.value, path)


VALUES = st.sampled_from(
    [*WRONG, "KLUv/", "nrlre1:", [1], {"data": "AAAA"}, [None, "AAAA"], ["[1]", "A"], "a" * 32]
)


def documents():
    """A record of each form, a Dynamo response and a gateway trace."""
    yield from (record(IDS, routed_experts=payload, start=0) for payload, _ in FORMS.values())
    engine = {"completion_token_ids": [1] * 7, "routed_experts": prime_rl(IDS)}
    yield {
        "prompt_token_ids": [5, 6, 7],
        "choices": [{"index": 0}],
        "nvext": {"engine_data": engine, "routed_experts": None},
    }
    yield {"id": "t", "payloads": {"router_replay": {"data": r3(IDS)}}}
    call = {"request": {"input_ids": [5, 6, 7]}, "response": {"meta_info": {"routed_experts": ""}}}
    yield {"session_id": "s", "records": [call]}


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_documents_are_read_or_refused(tmp_path_factory, data):
    """Any entry of another type, or a payload with other characters, never raises but one line."""
    doc = json.loads(json.dumps(data.draw(st.sampled_from(list(documents())))))
    inner = doc
    while isinstance(inner, dict | list) and inner:
        keys = list(inner) if isinstance(inner, dict) else range(min(3, len(inner)))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(inner[key], dict | list) or data.draw(st.booleans()):
            text = inner[key]
            if isinstance(text, str) and len(text) > 8 and data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(text) - 1))
                inner[key] = text[:at] + data.draw(st.sampled_from("A/=é~0")) + text[at + 1 :]
            else:
                inner[key] = data.draw(VALUES)
            break
        inner = inner[key]
    place = tmp_path_factory.getbasetemp() / "wire"
    place.mkdir(exist_ok=True)
    path = write_lines(place / "x.jsonl", [doc, record(IDS)])
    try:
        for sample in open_dump(path, model=FACTS):
            assert sample.routes is None or sample.routes.num_tokens >= 0
    except RoutectlError as error:
        check_line(error, path)
