"""Files that routectl wrote and that are no dump are told to be what they are, by every verb."""

import pytest

from routectl.errors import RoutectlError
from routectl.formats import open_dump
from routectl.formats.documents.own import own_document
from routectl.reports.page.page import VIEWED
from support.shell import DUMPS, complaint, run

FOLDER = "routectl verify FOLDER --against DUMP holds the folder against its dump"
SAID = {
    "packed/manifest.json": ("the manifest of a folder that routectl pack wrote", FOLDER),
    "packed/dp0-cp0-tp0-pp0/mb0000.safetensors": ("a rank file of routectl pack", FOLDER),
    "r.json": ("a report of routectl show", "routectl report FILE shows it again"),
    "r.html": ("a report of routectl as a page, for a browser", "routectl report reads the .json"),
    "r.md": ("a report of routectl as Markdown", "routectl report reads the .json"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a file of each kind."""
    from routectl.cli.main import main

    path = tmp_path_factory.mktemp("own")
    assert main(["pack", str(DUMPS["native"]), "--save", str(path / "packed")]) == 0
    for suffix in ("json", "html", "md"):
        assert main(["show", str(DUMPS["native"]), "-o", str(path / f"r.{suffix}")]) == 0
    return path


@pytest.mark.parametrize("name", SAID)
def test_what_it_is(written, name):
    """The message says what the file is, the hint what reads it."""
    with pytest.raises(RoutectlError) as caught:
        open_dump(written / name)
    assert str(caught.value) == f"{written / name}: {SAID[name][0]}, not a dump"
    assert caught.value.hint.startswith(SAID[name][1])


def test_of_every_verb(capsys, written):
    """Whatever takes a dump says so, and exits 2; the command that is named reads the file."""
    path, save = written / "r.json", written / "x.parquet"
    told = f"routectl: {path}: a report of routectl show, not a dump\nhint: routectl report FILE"
    for args in (
        ("show", path),
        ("check", path),
        ("diff", path, DUMPS["native"]),
        ("convert", path, "--save", save),
        ("verify", written / "packed", "--against", path),
    ):
        assert complaint(capsys, *args).startswith(told)
    assert not save.exists()
    assert run(capsys, "report", path).code == 0


def test_every_report_has_a_command():
    """Each schema that routectl report shows is known by a verb; other documents are not ours."""
    for schema in VIEWED:
        what, use = own_document(schema)
        assert (what.rpartition(" ")[0], use[:15]) == ("a report of routectl", "routectl report")
    assert (own_document("routectl.nothing/1"), own_document("diff/1"), own_document(3)) == (
        None,
    ) * 3
