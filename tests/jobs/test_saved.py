"""Saved reports: strict JSON of the types of its schema, or one line that says where it is not."""

import json
import random
import shutil

import msgspec
import pytest

from routectl.errors import FormatError
from routectl.jobs.saved import read_report
from routectl.reports.page.page import VIEWED
from support.recordings import FIXTURES
from support.shell import complaint, run

GOLDEN = {
    path: whole
    for path in sorted((FIXTURES / "golden").glob("*.json"))
    if (whole := json.loads(path.read_text("utf-8"))).get("schema") in VIEWED
}
KINDS = (None, True, -1, 10**30, 1e308, -0.5, "x\n", [], [None], {}, {"x": 1})


def places(value, place=()):
    """Every place in a document; of a list the first element stands for all."""
    if place:
        yield place
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*place, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))


def changed(value, place, *new):
    """The document with another value at a place, or with none; the rest is the same objects."""
    made, key = value.copy(), place[0]
    if place[1:]:
        made[key] = changed(value[key], place[1:], *new)
    elif new:
        (made[key],) = new
    else:
        del made[key]
    return made


DRAWN = 24  # places of a document
WAYS = ((), *((kind,) for kind in KINDS))  # to damage one: gone, or a value of another type


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_damage_is_a_report_or_one_line(path, tmp_path, capsys):
    """With a key gone, or a value of any other type, text and page are whole or exit 2.

    Places are drawn, always the same; each is damaged in three ways, which go round.
    """
    saved, page = tmp_path / "saved.json", tmp_path / "x.html"
    found = list(places(GOLDEN[path]))
    drawn = random.Random(path.name).sample(found, min(len(found), DRAWN))
    for number, place in enumerate(drawn):
        for value in WAYS[number % 4 :: 4]:
            saved.write_text(json.dumps(changed(GOLDEN[path], place, *value)), "utf-8")
            done = run(capsys, "report", saved, "--html", page, "--force")
            assert done.code in (0, 2), (place, value, done.err)
            assert "Traceback" not in done.err, (place, value)
            if done.code == 2:
                assert (done.out, len(done.err.splitlines())) == ("", 1), (place, value)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_wrong_types_are_refused_at_the_door(path, tmp_path):
    """A value of a type that no schema has there is one line that names its place.

    Of the largest documents some places are drawn, always the same.
    """
    saved = tmp_path / "saved.json"
    found = [place for place in places(GOLDEN[path]) if place != ("schema",)]
    for place in random.Random(path.name).sample(found, min(len(found), 60)):
        saved.write_text(json.dumps(changed(GOLDEN[path], place, [[{"odd": 1}]])), "utf-8")
        with pytest.raises(FormatError, match=r"not a whole report of \S+: .* - at `\$") as caught:
            read_report(saved, *VIEWED)
        assert str(place[0]) in str(caught.value) or "[...]" in str(caught.value)


def test_what_came_later_may_be_missing_and_more_may_come(tmp_path, capsys):
    """A report of before, without keys of now, and one with keys of later are shown."""
    doc = GOLDEN[FIXTURES / "golden" / "diff.json"]
    verdict = {"differs": True, "failed": [], "incomparable_layers": [], "exit_code": 1}
    doc = {**doc, "verdict": verdict, "later": {"anything": [1]}}
    del doc["rows_lost_old"]
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(doc), "utf-8")
    assert read_report(saved, *VIEWED) == doc
    assert run(capsys, "report", saved).code == 0
    del doc["rows"]
    saved.write_text(json.dumps(doc), "utf-8")
    assert "not a whole report of routectl.diff/1: no rows in it" in complaint(
        capsys, "report", saved
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": "routectl.diff/2"}', "got schema 'routectl.diff/2', expected one of"),
        ('{"schema": "routectl.diff/1", "rows": NaN}', "not JSON: "),
        ('{"schema": "routectl.diff/1", "mismatch_rate": -Infinity}', "not JSON: "),
        ('{"schema": "routectl.diff/1", "mismatch_rate": 1e999}', "not JSON: "),
        ('{"schema": "routectl.diff/1", "token_selection": "\\ud800"}', "not JSON: "),
        ('{"schema": "routectl.diff/1", "rows": true}', "Expected `int`, got `bool` - at `$.rows`"),
        ('{"schema": "routectl.diff/1", "rows": 1.5}', "Expected `int`, got `float`"),
        ("[" * 100_000, "lists and objects within each other: got 100000, expected at most 200"),
        ('"x"', "got a JSON str, expected a report"),
    ],
)
def test_what_is_no_report(tmp_path, capsys, text, why):
    """Other numbers of a schema, numbers that are none and other types are one line each."""
    saved = tmp_path / "saved.json"
    saved.write_text(text, "utf-8")
    assert why in complaint(capsys, "report", saved)


def test_more_values_than_a_document_may_have(tmp_path, capsys):
    """A report and a baseline are within the budgets of any JSON document."""
    saved = tmp_path / "saved.json"
    saved.write_text('{"schema": "routectl.diff/1", "x": [' + "[], " * 2000 + "1]}", "utf-8")
    words = ("--limit", "nodes=1000", "report", saved)
    assert "values of JSON: got 4004, expected at most 1000" in complaint(capsys, *words)


def test_a_path_that_is_no_utf8(tmp_path, capsys):
    """A report of a dump with such a path is JSON to strict readers, and is shown again."""
    dump, saved = tmp_path / "a\udcff\\ud800.parquet", tmp_path / "saved.json"
    shutil.copy(FIXTURES / "golden/deepseek_v3.parquet", dump)
    assert run(capsys, "show", dump, "--json", "-o", saved).code == 0
    assert repr(msgspec.json.decode(saved.read_bytes())).count(r"a\\udcff\\ud800.parquet")
    assert r"a\udcff\ud800.parquet" in run(capsys, "report", saved).out
