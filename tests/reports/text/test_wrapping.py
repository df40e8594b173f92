"""Text at every width: no line is wider, no word is split, continued lines hang."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from routectl.reports.summary.ten_lines import LINES, ten_lines
from routectl.reports.text.tables import (
    Column,
    Headline,
    open_console,
    print_line,
    print_lines,
    print_table,
    under_verdict,
)
from routectl.reports.text.wording import figures, plural, rates_text
from routectl.reports.text.wrapping import broken, wrapped
from support.reports import REPORTS, Terminal, golden, many_layers, printed_report

WIDTHS = (60, 80, 100, 200)
NOT_SHOWN = re.compile(r"\((?:narrow terminal, )?(?:not shown|\d+ more layers).*?\)\n", re.DOTALL)
LABELS = "old|new|dump|folder|compared|checked|cause|model|layout|rows|judged on|matches"


def words_of(text):
    """Words of a text; a path as its parts, which is where it may be broken."""
    return [piece for word in text.split() for piece in re.split(r"(?<=[/\\,;:=&?_-])", word)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_fits_its_terminal(monkeypatch, name, width):
    """No line is wider than the terminal, and each word is one that a pipe gets."""
    document = REPORTS[name]()
    whole = printed_report(monkeypatch, document, None)
    shown = printed_report(monkeypatch, document, width)
    assert max(map(cell_len, shown.splitlines())) <= width
    pictured = re.sub(r"(?s)\nwhere .*?\n\n|by position, to [\d.]+ %", "\n", shown)
    known = set(words_of(whole))
    strange = [w for w in words_of(NOT_SHOWN.sub("", pictured)) if w not in known]
    assert [w for w in strange if not re.fullmatch(r"[-.:=+*#%@ ]+", w)] == []  # sparklines


@pytest.mark.parametrize("name", REPORTS)
def test_a_pipe_is_not_narrow(monkeypatch, name):
    """In a pipe a line is one line however narrow the terminal is, and paths are whole."""
    document = REPORTS[name]()
    printed = []
    for columns in ("20", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        printed.append(printed_report(monkeypatch, document, None))
    text = printed[0]
    assert text == printed[1]
    assert "narrow terminal" not in text
    path = next((d["path"] for d in map(document.get, ("old", "dump")) if isinstance(d, dict)), "")
    assert path in text


@pytest.mark.parametrize("width", WIDTHS[:3])
@pytest.mark.parametrize("name", REPORTS)
def test_continued_lines_hang(monkeypatch, name, width):
    """What continues a labelled line stands under its text, and is all of it."""
    document = REPORTS[name]()
    shown = printed_report(monkeypatch, document, width)
    whole = {
        "".join(line.split()) for line in printed_report(monkeypatch, document, None).split("\n")
    }
    blocks = re.findall(rf"(?m)^(?:{LABELS}) .*\n(?: {{10}}\S.*\n)*", shown)
    assert blocks or name in ("series", "ci")
    assert ["".join(block.split()) for block in blocks if "".join(block.split()) not in whole] == []


@pytest.mark.parametrize("name", REPORTS)
def test_long_reports_end_with_their_verdict(monkeypatch, name):
    """A report of more than 40 lines ends as it begins; a shorter one says its verdict once."""
    for width in (None, 80):
        text = printed_report(monkeypatch, REPORTS[name](), width)
        first = text.split("\n")[0]
        number = text.count("\n")
        if number - 2 > 40:
            assert text.split("\n\n")[-1].startswith(first)
        else:
            assert text.count(first) == 1


def test_reports_within_reports_stay_in_order():
    """A report that prints another stands around it, whichever of them is long."""
    page = io.StringIO()
    console = open_console(page)
    with under_verdict(console, Headline("OUTER", "bold", "o")):
        print_line(console, "first", "1")
        with under_verdict(console, Headline("INNER", "bold", "i")):
            print_lines(console, [("row", str(n)) for n in range(40)])
        print_line(console, "last", "2")
    lines = page.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line] == [
        *("OUTER", "first", "INNER"),
        *["row"] * 40,
        *("INNER", "last", "OUTER"),
    ]


def test_many_layers_are_some_on_a_terminal(monkeypatch):
    """Of 48 layers a terminal gets the twelve that differ most, and how the others are; a pipe all.

    It is under 75 lines, which were 125.
    """
    document = many_layers(golden("diff.detail"))
    worst = sorted(document["layers"], key=lambda layer: -layer["mismatch_rate"])
    shown = printed_report(monkeypatch, document, 80)
    rows = re.search(r"(?ms)^layer .*?\n(.*?)^all ", shown)[1].splitlines()
    kept = {layer["layer"] for layer in worst[:12]}
    assert [int(row.split()[0]) for row in rows] == sorted(kept)
    low, high = worst[-1]["mismatch_rate"], worst[12]["mismatch_rate"]
    told = f"(36 more layers, {100 * low:.2f} % to {100 * high:.2f} % of rows differ"
    assert told.replace("0.00 %", "0.00 %") in shown
    assert shown.count("\n") < 75
    whole = printed_report(monkeypatch, document, None)
    rows = re.search(r"(?ms)^layer .*?\n(.*?)^all ", whole)[1].splitlines()
    assert [int(row.split()[0]) for row in rows] == [*range(48)]


@pytest.mark.parametrize("width", [None, *WIDTHS])
@pytest.mark.parametrize("name", REPORTS)
def test_a_summary_is_ten_lines(monkeypatch, name, width):
    """--summary prints at most ten lines at any width: the verdict first, how to see more last."""
    document = REPORTS[name]()
    text = printed_report(monkeypatch, document, width, ten_lines)
    lines = text.splitlines()
    assert 3 <= len(lines) <= LINES
    assert max(map(cell_len, lines)) <= (width or 100_000)
    first = printed_report(monkeypatch, document, width).splitlines()[0]
    assert lines[0] == first
    assert lines[-1] == "more      without --summary: every figure, by layer"


def test_summaries_have_the_figures_that_matter(monkeypatch):
    """Mismatch and worst layer of a diff, the first finding of a check, failed runs of ci."""
    said = {
        "diff with margins": ("worst     layer 5: 514 of 16,936 rows (3.03 %)", "411 clear"),
        "check": ("note      R004  a row for the last token  (576 rows, 96 samples)", "do  "),
        "recompute": ("noise     padded batches: 0.01 % of 101,616 rows change", "2.02 % over 1 %"),
        "show": ("max_vio 1.994 in layer 3, the greatest",),
        "staleness": ("staleness@lag2:12%", "ALARM     routes are stale", "half-life"),
        "series": (
            "crossed   total:10%: first at step 9",
            "step 12: mismatch 2.02 % (+0 % a step)",
        ),
        "predict": ("step_000121  0.00 % of rows stale; accuracy 100.00 % frozen",),
        "verify": ("12,288 of 393,216 rows wrong",),
        "pack": ("layout    verl, thd, dp 4, cp 2, tp 2, pp 4, vpp 2; 4 micro-batches",),
        "ci": ("4 of 12 checks passed, 5 failed, 3 could not be run", "4 more did not pass"),
    }
    for name, parts in said.items():
        text = printed_report(monkeypatch, REPORTS[name](), None, ten_lines)
        assert [part for part in parts if part not in text] == [], text


def test_a_document_without_a_summary_has_its_first_lines(monkeypatch):
    """What has no summary of its own prints its first lines, tables left out."""
    text = printed_report(monkeypatch, golden("checkpoint"), None, ten_lines)
    whole = printed_report(monkeypatch, golden("checkpoint"), None)
    assert text.splitlines()[:-1] == whole.splitlines()[:9]


@given(
    st.text(alphabet="ab cde/f,;: 漢%", max_size=120),
    st.integers(20, 60),
    st.integers(0, 10),
)
def test_any_text_is_kept(text, width, hang):
    """Lines fit, and what is not blank is all there, in its order."""
    lines = [line.plain for line in wrapped(text, width, hang)]
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.lists(st.text(alphabet="abc漢", min_size=1, max_size=9), min_size=1, max_size=40))
def test_words_are_never_split(words):
    """A word that a line can hold is on one line; continued lines are indented."""
    lines = broken(" ".join(words), 32, 4).split("\n")
    assert [word for line in lines for word in line.split()] == words
    assert all(line.startswith("    ") for line in lines[1:])


def test_figures_stay_with_their_names():
    """Parts and clauses that are short are not broken; a unit stays with its number."""
    text = "sequence  96 of 96 differ; mean 2.07 %, p50 1.86 %, p90 3.01 %, p99 4.60 %, max 5.21 %"
    assert broken(text, 68, 10).split("\n") == [
        "sequence  96 of 96 differ; mean 2.07 %, p50 1.86 %, p90 3.01 %,",
        "          p99 4.60 %, max 5.21 %",
    ]
    assert broken("first  0: 15,402  1: 1,167  2: 249", 30, 7) == (
        "first  0: 15,402  1: 1,167\n       2: 249"
    )


def test_paths_break_behind_a_slash():
    """A path that no line can hold is broken behind a slash, else a separator, else anywhere."""
    path = "/data/run/step_000120/samples.jsonl"
    assert broken(path, 24) == "/data/run/step_000120/\nsamples.jsonl"
    assert broken("a-long-name_of_a_file", 12) == "a-long-name_\nof_a_file"
    assert broken("x" * 45, 20) == "\n".join(["x" * 20, "x" * 20, "x" * 5])


def test_styles_are_kept():
    """A styled line keeps its styles over a break."""
    text = Text().append("word ", "bold").append("red words that are long", "red")
    lines = wrapped(text, 18, 2)
    assert [line.plain for line in lines] == ["word red words", "  that are long"]
    assert [span.style for span in lines[1].spans] == ["red"]


def test_tables_break_names_and_drop_columns(monkeypatch):
    """On a narrow terminal names are broken, then columns of a high rank go; figures never are."""
    for name, value in (("COLUMNS", "40"), ("LINES", "40"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    page = Terminal()
    names = ["train/step_000012/prompt-00345", "b"]
    columns = [
        Column("worst samples", names),
        Column("rows", ["1,234,567", "1"], 1),
        Column("rate", ["12.34 %", "0 %"]),
        Column("only old", ["1 22 333 4444 5555", "-"], words=True),
    ]
    print_table(open_console(page), columns)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "(narrow terminal, not shown: rows)" in page.getvalue()
    assert lines[0].split() == ["worst", "samples", "rate", "only", "old"]
    text = page.getvalue()
    assert "12.34 %" in text
    assert all(word in text.split() for word in ["1", "22", "333", "4444", "5555"])


def test_points_of_a_column_stand_in_a_line():
    """Figures of a column have as many decimals each, unless they are far apart; never -0."""
    assert figures([1.38, 0.985, None, 12.0]) == ["1.38", "0.98", "-", "12.00"]
    assert figures([1.625, 1.14, 0.9754]) == ["1.625", "1.140", "0.975"]
    assert figures([0.5, 1e-6]) == ["0.5", "1e-06"]
    assert figures([-0.0, 2.0]) == ["0.000", "2.000"]
    assert figures([np.float64(3), 0.0]) == ["3.000", "0.000"]


def test_counts_have_their_plural():
    """One file, two files, three batches, four entries."""
    counts = [(1, "file"), (2, "file"), (3, "micro-batch"), (4, "entry"), (0, "row"), (1, "entry")]
    assert [plural(*one) for one in counts] == [
        "1 file",
        "2 files",
        "3 micro-batches",
        "4 entries",
        "0 rows",
        "1 entry",
    ]


def test_what_layers_are_left_is_told():
    """Rates of the layers that are not shown: none, one, a range, and how many have none."""
    assert rates_text([0.0, 0.0]) == "in which no row differs"
    assert rates_text([0.5]) == "50.00 % of rows differ"
    assert rates_text([0.0, 0.25]) == "0.00 % to 25.00 % of rows differ, in 1 of them none"
