"""What a text file says is parsed once: whatever its payloads are, samples come back whole."""

import gzip
import json
import pickle
from itertools import chain

import numpy as np
import pytest

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.documents import fields
from routectl.formats.responses import records, text
from support.building import FACTS, as_npy, as_raw, record, some_ids, write_lines

IDS = some_ids(40, 3, 2)


def as_object(ids):
    """The rows as an object with a shape."""
    return {"data": as_raw(ids), "shape": list(ids.shape), "dtype": "int32", "start": 0}


def lines_of(*payloads):
    """Records of 41 tokens, one a payload, each with all that a record may say."""
    return [
        {
            **record(IDS, 10, routed_experts=payload, sample_id=f"s{i}"),
            "logprobs": [-0.25] * 30 + [None],
            "loss_mask": [True] * 31,
            "weight_versions": [{"version": "v1", "start": 0, "end": 31}],
            "finish_reason": "stop",
        }
        for i, payload in enumerate(payloads)
    ]


def sent(dump, run):
    """The samples of a run as another process has them."""
    return pickle.loads(pickle.dumps(dump.elsewhere(run)))()


def check_all(dump):
    """Every sample of a dump has the rows of IDS, and says what its line says, anywhere."""
    numbers = [*range(len(dump)), *reversed(range(len(dump)))]
    there = zip(numbers, sent(dump, numbers), strict=True)
    for number, sample in chain(there, ((number, dump[number]) for number in numbers)):
        np.testing.assert_array_equal(sample.routes.ids_TLK, IDS)
        assert (sample.sample_id, len(sample.prompt_ids)) == (f"s{number}", 10)
        assert sample.logprobs[:30].tolist() == [-0.25] * 30
        assert np.isnan(sample.logprobs[30])
        assert sample.loss_mask.tolist() == [False] * 10 + [True] * 31
        assert [(s.version, s.start, s.end) for s in sample.weight_spans] == [("v1", 0, 31)]
        assert sample.finish_reason == "stop"


def test_each_document_is_parsed_once(tmp_path, monkeypatch):
    """However often samples are read, a line is parsed once; the first twice, for its form."""
    seen = []

    def parse(data, *about):
        seen.append(bytes(data))
        return fields.from_json(data, *about)

    monkeypatch.setattr(text, "from_json", parse)
    path = write_lines(tmp_path / "x.json", lines_of(as_npy(IDS), as_object(IDS), IDS.tolist()))
    dump = open_dump(path, model=FACTS)
    check_all(dump)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    assert seen == [first, first, *rest]


@pytest.mark.parametrize("form", ["plain", "gzip", "escaped", "crossed", "spilled", "list"])
def test_payloads_come_back_from_where_they_are(tmp_path, monkeypatch, form):
    """Strings in the text, in objects, escaped, out of order, and lists: the rows are the same."""
    if form == "spilled":
        monkeypatch.setattr(records, "_IN_MEMORY", 64)
    lines = lines_of(as_npy(IDS), as_object(IDS), IDS.tolist(), as_npy(IDS))
    path = write_lines(tmp_path / "x.jsonl", lines)
    said = path.read_text()
    if form == "gzip":
        path = tmp_path / "x.jsonl.gz"
        path.write_bytes(gzip.compress(said.encode()))
    elif form == "escaped":  # as PHP and some others do
        path.write_text(said.replace("/", "\\/"))
    elif form == "crossed":
        assert "AAA" in said
        path.write_text(said.replace("AAA", "\\u0041AA", 1))
    elif form == "list":
        path = tmp_path / "x.json"
        path.write_text(json.dumps(lines))
    check_all(open_dump(path, model=FACTS))


def test_a_payload_that_only_begins_alike_is_not_taken(tmp_path):
    """A string that begins as the payload does, earlier in the line, is not mistaken for it."""
    line = lines_of(as_npy(IDS))[0]
    other = as_npy(IDS)[:-4] + "AAA="
    path = write_lines(tmp_path / "x.jsonl", [{"note": other, **line}])
    check_all(open_dump(path, model=FACTS))


@pytest.mark.parametrize("odd", [2**70, "\ud800"], ids=["integer", "surrogate"])
def test_what_msgpack_cannot_hold_is_refused_when_it_is_read(tmp_path, odd):
    """A line whose payload is no routes is refused as it is read, and no other is."""
    rows = IDS.tolist()
    rows[3][1][0] = odd
    dump = open_dump(write_lines(tmp_path / "x.jsonl", lines_of(as_npy(IDS), rows)), model=FACTS)
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, IDS)
    with pytest.raises(FormatError, match=r"x\.jsonl: line 2: routed_experts: got "):
        dump[1]


def test_a_file_cut_after_it_was_opened_is_refused(tmp_path):
    """A payload that is no longer there whole is no payload."""
    path = write_lines(tmp_path / "x.jsonl", lines_of(as_npy(IDS)))
    dump = open_dump(path, model=FACTS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"line 1: routed_experts: (truncated|invalid) base64"):
        dump[0]


TEXTS = [
    *("NaN", "[Infinity]", "-Infinity", "1e999", "-0", "-0.0", "1E5", "1.0", "5e-324"),
    *("1" * 30, "-" + "1" * 30, str(2**64), str(-(2**63) - 1), "9" * 309, "1" * 5000),
    *('{"a":1,"b":2,"a":3}', '"\\ud800"', '"\\ud83d\\ude00"', '"\\/"', '"\\u0000"', '"\\x"'),
    *("01", "1.", ".5", "+1", "-", "1e", "tru", "[1,]", '{"a":1,}', "{1:2}", "[1 2]", '"abc'),
    *("", " ", " [1]\r\n", "[1] x", "[1]\0", "\x0b[1]", '"a\x01b"', '"a\nb"', '{"": [{}]}'),
    *("\ufeff[1]", '"\u2028é"', "[" * 200 + "]" * 200),
]
BYTES = [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"', "[1]".encode("utf-16"), "[1]".encode("utf-32")]


@pytest.mark.parametrize("data", [*TEXTS, *BYTES], ids=lambda data: ascii(data)[:20])
def test_json_reads_as_the_standard_library_has_it(data):
    """Values, what is refused, and its words are those of json.loads."""

    def made(loads):
        try:
            return repr(loads(data))
        except (ValueError, RecursionError) as error:
            return type(error), str(error).split(" while ")[0]

    data = data.encode() if isinstance(data, str) else data
    assert made(fields.from_json) == made(json.loads)


def test_a_file_that_changes_is_not_read_elsewhere(tmp_path):
    """Another process takes payloads from the file that was opened, and refuses another one."""
    path = write_lines(tmp_path / "x.jsonl", lines_of(as_npy(IDS)))
    dump = open_dump(path, model=FACTS)
    write_lines(path, lines_of(as_npy(IDS), as_npy(IDS)))
    with pytest.raises(FormatError, match=r"x\.jsonl: was changed while it was read"):
        list(sent(dump, range(1)))
