"""The budgets at the doors: what is over one is refused at little cost, and a --limit lets it."""

import gzip
import json
import re
import resource
import sys
from dataclasses import asdict, fields

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.documents.size import check_json
from routectl.kernels.json_text import scan_json
from routectl.limits import Limits, parse_limits, raised_limits
from support.bombs import BOMBS
from support.building import FACTS, check_line, record, some_ids, write_lines
from support.recordings import FIXTURES
from support.shell import DUMPS, run

QUICK = [
    "gzip: empty lists",
    "gzip: numbers",
    "gzip: one event of lists",
    "JSON: 100,000 lists deep",
    "JSON: a million digits",
    "JSON: zstd of zeros",
    "npz: many members",
    "safetensors: a header of 3 GB",
    "msgpack: 2 ** 32 micro-batches",
    "pickle: lists twice in each other",
    "pickle: a frame of 2 ** 60",
    "Parquet: one cell 300 times",
    "Parquet: one cell, pages of version 2",
]
HARMLESS = ("npy: 2 ** 40 rows of nothing", "safetensors: 2 ** 40 rows of nothing")


def _read(path):
    for _ in open_dump(path, model=FACTS):
        pass


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", QUICK)
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, name):
    """A small file that asks for much is refused before it has it, within 100 MB."""
    path = BOMBS[name](tmp_path)
    check_json(b"[" + b"[]," * 30_000 + b"0]", "warm")
    before = _peak()
    with pytest.raises(FormatError) as caught:
        _read(path)
    assert _peak() - before < 100 << 20
    check_line(caught.value, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BOMBS if name not in (*QUICK, *HARMLESS)])
def test_every_bomb_is_refused(tmp_path, name):
    """Whatever the container, one line says what was too much, of budgets an eighth of ours."""
    path = BOMBS[name](tmp_path)
    ours = asdict(Limits())
    eighth = {k: ours[k] // 8 for k in ("cell", "decoded", "line", "document", "nodes")}
    with raised_limits(**eighth), pytest.raises(FormatError) as caught:
        _read(path)
    check_line(caught.value, path)


def test_the_limit_that_is_named_lets_it_in(tmp_path, capsys):
    """Each refusal of a real dump names a --limit with which the same command line passes."""
    path = write_lines(tmp_path / "x.jsonl.gz", [])
    lines = (json.dumps(record(some_ids(9), note=[[]] * 30_000)) + "\n").encode()
    path.write_bytes(gzip.compress(lines, 9))
    words = ["show", path]
    with raised_limits(decoded=20_000, nodes=10_000):  # lower than they are: a small dump is over
        for _ in range(4):
            done = run(capsys, *words)
            if done.code == 0:
                break
            words += re.findall(r"--limit \S+", done.err)[0].split()
        assert (done.code, words[2:3]) == (0, ["--limit"])
        assert run(capsys, *words[2:], "show", path).code == 0


@pytest.mark.parametrize("words", [["--limit"], ["--limit", "x=1"], ["--limit=cell=-1"]])
def test_a_limit_that_is_none_is_refused(capsys, words):
    """A --limit of an unknown name, without a size or without a value is trouble."""
    done = run(capsys, "show", DUMPS["native"], *words)
    assert done.code == 2
    assert "--limit" in done.err


def test_a_limit_behind_two_dashes_is_a_path(capsys):
    """What stands behind -- is no option."""
    done = run(capsys, "show", "--", "--limit=cell=1")
    assert done.code == 2
    assert "--limit=cell=1: cannot be read" in done.err


def test_what_was_opened_with_a_limit_is_read_with_it(tmp_path):
    """A dump keeps the budgets that it was opened with, in a thread too, and no others."""
    from concurrent.futures import ThreadPoolExecutor

    path = write_lines(tmp_path / "x.jsonl", [record(some_ids(9))])
    with raised_limits(cell=10):
        strict = open_dump(path, model=FACTS)
    dump = open_dump(path, model=FACTS)
    assert dump[0].routes.num_tokens == 9
    with ThreadPoolExecutor(1) as pool, pytest.raises(FormatError, match="expected at most 10"):
        pool.submit(strict.__getitem__, 0).result()
    with raised_limits(cell=10):
        assert dump[0].routes.num_tokens == 9


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"line": 100}, "line 1: bytes: got"),
        ({"nodes": 3}, "values of JSON: got"),
        ({"depth": 1}, "within each other: got"),
        ({"document": 90}, "bytes"),
        ({"cell": 8}, "bytes: got"),
    ],
)
def test_each_budget_of_json_holds(tmp_path, limit, said):
    """A line, a document, its values, its depth and a payload are held against their budgets."""
    path = write_lines(tmp_path / "x.jsonl", [record(some_ids(9))])
    with raised_limits(**limit), pytest.raises(FormatError, match=said):
        _read(path)


def _slow_scan(text):
    """Values and depth of JSON, by its parsed value."""

    def walk(value, depth):
        inner = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
        found = [walk(one, depth + isinstance(value, list | dict)) for one in inner]
        here = depth + isinstance(value, list | dict)
        return 1 + sum(n for n, _ in found), max([here, *(d for _, d in found)])

    return walk(json.loads(text), 0)


TEXTS = [
    b"1",
    b"[]",
    b'{"a": [1, 2, {"b": []}], "c": "x"}',
    b'["\\"[[[", "a\\\\", [[1]]]',
    json.dumps(["a" * n + '"[' * (n % 3) for n in range(0, 3000, 61)]).encode(),
    json.dumps({"x": some_ids(9).tolist(), "y": {"z": {"w": None}}}).encode(),
    json.dumps(["\\" * n for n in range(70)]).encode(),
]


@pytest.mark.parametrize("text", TEXTS)
def test_json_is_counted_as_it_is_parsed(text):
    """Depth is that of the parsed value; values are at most one more for each list and object."""
    values, depth, _ = scan_json(np.frombuffer(text, np.uint8))
    least, deepest = _slow_scan(text)
    assert depth == deepest
    assert least <= values <= 2 * least


@pytest.mark.parametrize(
    "value",
    [
        [[] for _ in range(9000)],
        [{} for _ in range(9000)],
        [{"a": n, "b": 2.5} for n in range(9000)],
        [n + 0.5 for n in range(9000)],
        [1000 + n for n in range(9000)],
        ["ab"] * 9000,
        np.zeros((500, 6, 4), int).tolist(),
    ],
)
def test_memory_is_estimated_within_a_factor_of_two_and_a_half(value):
    """What a text becomes is counted as sys.getsizeof has it, within 2.5 to 1."""
    text = json.dumps(value, separators=(",", ":")).encode()
    seen = set()

    def size(one):
        if id(one) in seen or one is None:
            return 0
        seen.add(id(one))
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return sys.getsizeof(one) + sum(map(size, inner))

    held = size(json.loads(text))
    _, _, memory = scan_json(np.frombuffer(text, np.uint8))
    assert held / 2.5 < memory < held * 2.5


def test_docs_have_the_budgets():
    """docs/formats.md lists every budget with its figure."""
    text = (FIXTURES.parent / "docs" / "formats.md").read_text("utf-8").partition("## Limits")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text.partition("\n## ")[0], re.M))
    for one in fields(Limits):
        figure = rows.pop(one.name)
        if one.default is not None:
            assert parse_limits([f"{one.name}={figure.replace(' ', '')}"])[one.name] == one.default
    assert rows == {}


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"compression": "gzip"}])
def test_a_native_file_written_anew_opens(tmp_path, options):
    """A native file that pyarrow wrote again, every column with a dictionary, reads the same."""
    table = pq.read_table(DUMPS["native"])
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=3, **options)
    for one, other in zip(open_dump(DUMPS["native"]), open_dump(path), strict=True):
        np.testing.assert_array_equal(one.routes.ids_TLK, other.routes.ids_TLK)
