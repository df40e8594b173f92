"""A dump as a user names it: what stands behind :: holds for it alone."""

import io
import sys

import pytest

from routectl.errors import RoutectlError
from routectl.jobs.inputs import Input, parse_input
from routectl.jobs.reading import Reading
from support.building import as_npy, record, some_ids, write_lines
from support.shell import complaint, document, run


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.npz", Input("a.npz")),
        ("a.npz::start=0", Input("a.npz", start=0)),
        ("-::format=jsonl,start=12", Input("-", start=12, format="jsonl")),
        ("a*.x::format=npz", Input("a*.x", format="npz")),
        ("a.pt::tokens=t,1.json,start=3", Input("a.pt", start=3, tokens="t,1.json")),
        ("a::base=b.npz::start=1", Input("a", base="b.npz::start=1")),
        ("/dev/stdin::start=1", Input("-", start=1)),
    ],
)
def test_what_is_said(text, found, tmp_path, monkeypatch):
    """The options of an input by name; a comma before no name belongs to the value; it is written
    back as it was read."""
    monkeypatch.chdir(tmp_path)
    assert parse_input(text) == found
    assert parse_input(str(found)) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a::nope=1", "'nope=1' behind :: is not known: start=, format=, base=, tokens="),
        ("a::start", "'start' behind :: is not known: did you mean start=?"),
        ("a::", "'' behind :: is not known: start="),
        ("a::start=-1", "start: got '-1', expected a position from 0 on"),
        ("a::start=x", "start: got 'x'"),
        ("a::start=1,start=2", "start is there twice"),
        ("a::format=zip", "format 'zip' is not known: json, jsonl"),
        ("a::base=", "base: got nothing behind ="),
    ],
)
def test_what_is_refused(text, said, capsys):
    """An unknown option answers with the known ones, a bad value with what was expected."""
    with pytest.raises(RoutectlError) as caught:
        parse_input(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert said in str(caught.value)
    assert said in complaint(capsys, "show", text)


def test_a_path_that_is_there_is_itself(tmp_path, monkeypatch):
    """Whatever characters a path has that exists, it is opened as it is, with options too."""
    monkeypatch.chdir(tmp_path)
    for name in ("a::start=1", "b::c"):
        (tmp_path / name).write_text("")
        assert parse_input(name) == Input(name)
    assert parse_input("b::c::start=2") == Input("b::c", start=2)


def test_it_holds_for_one_side(tmp_path, capsys):
    """start of NEW places its rows alone; in Python a Reading's start holds for those without."""
    ids = some_ids(9)
    old = write_lines(tmp_path / "old.jsonl", [record(ids, routed_experts=as_npy(ids))])
    bare = write_lines(tmp_path / "new.jsonl", [{"id": "s0", "routed_experts": as_npy(ids[2:])}])
    doc = document(capsys, "diff", old, f"{bare}::start=2", "--match", "order")
    assert (doc["rows_mismatched"], doc["rows"]) == (0, 7 * ids.shape[1])
    assert "neither the token counts nor the start" in complaint(
        capsys, "diff", old, bare, "--match", "order"
    )
    reading = Reading(start=5)
    assert reading.open(str(bare))[0].routes.start == 5
    assert reading.open(f"{bare}::start=2")[0].routes.start == 2


def test_a_format_is_of_one_side(tmp_path, capsys):
    """A format that is no content's is refused for that side alone, by its path."""
    ids = some_ids(9)
    path = write_lines(tmp_path / "x.jsonl", [record(ids)])
    assert run(capsys, "diff", path, f"{path}::format=jsonl").code == 0
    assert f"{path}: damaged .npz: cut short?" in complaint(
        capsys, "diff", path, f"{path}::format=npz"
    )


def test_standard_input_takes_options(tmp_path, capsys, monkeypatch):
    """-::start=2 is standard input with a start, on the command line too."""
    ids = some_ids(9)
    bare = write_lines(tmp_path / "x.jsonl", [{"id": "s0", "routed_experts": as_npy(ids[2:])}])
    monkeypatch.chdir(tmp_path)  # a config.json is there, as it is beside the dump
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bare.read_bytes())))
    doc = document(capsys, "show", "-::start=2", "--model", tmp_path)
    assert (doc["dump"]["path"], doc["starts"]) == ("-", {"given": 1})
