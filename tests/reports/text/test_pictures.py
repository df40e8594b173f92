"""Pictures on a terminal: sparklines and heatmaps, and the plain text where there are none."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from routectl.cli.main import main
from routectl.reports.text.cells import Cells, cells_of
from routectl.reports.text.pictures import ink_of, print_heatmap, spark_column
from routectl.reports.text.tables import open_console
from support.recordings import FIXTURES
from support.shell import detailed, document, run

TINY = (
    FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl",
    FIXTURES / "tiny_rl" / "routes_v0.fp32.npz",
)
LATER = ("--at", f"v0={TINY[1]}", "--at", f"v1={FIXTURES / 'tiny_rl' / 'transformers_v1.fp32.npz'}")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
COLOURS = re.compile(r"\x1b\[[0-9;]*[34]8;5;")
TITLE = "mismatch by layer and position"


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    def __init__(self, encoding="utf-8"):
        super().__init__()
        self.spoken = encoding

    @property
    def encoding(self):
        """What it takes."""
        return self.spoken

    def isatty(self):
        """Always."""
        return True


@pytest.fixture
def shown(monkeypatch):
    """What a command line prints on a terminal of so many columns, and its exit code."""

    def show(*args, columns=100, encoding="utf-8", **environment):
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
                patch.delenv(name, raising=False)
            told = {"COLUMNS": columns, "TERM": "xterm-256color", **environment}
            for name, value in told.items():
                patch.setenv(name, str(value))
            page = Terminal(encoding)
            patch.setattr("sys.stdout", page)
            code = main([str(arg) for arg in args])
        return page.getvalue(), code

    return show


def cells(layers=4, bins=20, seed=0):
    """Cells with rows everywhere but in the last bin of layer 0."""
    rng = np.random.default_rng(seed)
    rows_LB = rng.integers(50, 100, (layers, bins))
    rows_LB[0, -1] = 0
    mismatched_LB = np.minimum(rng.integers(0, 30, (layers, bins)), rows_LB)
    return Cells(tuple(range(3, 3 + layers)), 4, rows_LB, mismatched_LB)


def console(columns=80, **how):
    """A console that draws into memory."""
    file = Terminal()
    return Console(file=file, width=columns, force_terminal=True, **how), file


@pytest.mark.parametrize("columns", [1, 7, 10, 19, 20, 21, 60])
def test_a_column_shows_the_bins_that_it_covers(columns):
    """A drawn rate is that of all rows of its bins, whether columns are fewer than bins or more."""
    some = cells()
    rates_LC, top = some.drawn(columns)
    for c in range(columns):
        first = c * 20 // columns
        covered = slice(first, max((c + 1) * 20 // columns, first + 1))
        for layer in range(4):
            rows = int(some.rows_LB[layer, covered].sum())
            rate = some.mismatched_LB[layer, covered].sum() / rows if rows else np.nan
            assert np.isclose(rates_LC[layer, c], rate, equal_nan=True)
    assert top <= np.nanmax(rates_LC)


def test_the_top_of_a_scale_is_of_a_cell_with_rows():
    """One row of one that differs does not make the scale end at 100 %."""
    rows_LB, mismatched_LB = np.full((1, 9), 100), np.full((1, 9), 5)
    rows_LB[0, 8] = mismatched_LB[0, 8] = 1
    assert Cells((0,), 1, rows_LB, mismatched_LB).drawn(9)[1] == 0.05


@pytest.mark.parametrize(("layers", "lines"), [(4, 4), (12, 12), (13, 7), (48, 24), (94, 24)])
def test_many_layers_share_lines(layers, lines):
    """From 13 layers on two have a line, and more where that would be over 32 lines."""
    target, file = console(color_system="256")
    print_heatmap(target, cells(layers), "rates")
    drawn = ESCAPES.sub("", file.getvalue()).splitlines()
    assert drawn[1].startswith("where     rates  0 %")
    assert drawn[-1].startswith("position")
    assert len(drawn) - 3 == lines
    labels = [line[:10].strip() for line in drawn[2:-1]]
    numbers = [number for label in labels for number in map(int, label.split("-"))]
    assert (numbers[0], numbers[-1]) == (3, 2 + layers)
    assert all(len(line) <= 80 for line in drawn)


def test_half_a_character_is_a_layer():
    """Two layers of one line keep their own colours: of the upper half and of the lower."""
    rows_LB, mismatched_LB = np.full((14, 12), 100), np.zeros((14, 12), int)
    mismatched_LB[3] = 50
    target, file = console(color_system="256")
    print_heatmap(target, Cells(tuple(range(14)), 1, rows_LB, mismatched_LB), "rates")
    line = next(line for line in file.getvalue().splitlines() if "2-3" in line)
    assert "38;5;234;48;5;229m" in line
    assert "▀" in line


def test_what_a_console_draws_with():
    """Colours where there are 256, else shades, else ASCII; nothing in a pipe or under --plain."""
    assert ink_of(console(color_system="256")[0]).colours
    assert not ink_of(console(color_system="standard")[0]).colours
    assert not ink_of(console(color_system="256", no_color=True)[0]).colours
    assert ink_of(open_console(Terminal("iso8859-1"))).shades.isascii()
    assert ink_of(open_console(io.StringIO())) is None
    assert ink_of(open_console(Terminal(), plain=True)) is None


def test_sparklines_have_one_scale():
    """Full height is the greatest rate of all layers, and the title says it where it fits."""
    target, _ = console()
    rows_LB, mismatched_LB = np.full((2, 12), 100), np.zeros((2, 12), int)
    mismatched_LB[0, 3], mismatched_LB[1, 6] = 40, 20
    one = Cells((0, 1), 1, rows_LB, mismatched_LB)
    (column,) = spark_column(target, one, [], "by position", 1)
    assert column.title == "by position, to 40.00 %"
    first, second, whole = (re.sub(r"(.)\1*", r"\1", cell) for cell in column.cells)
    assert (first, second, whole) == ("·█·", "·▄·", "·▄·▂·")
    assert spark_column(target, None, [], "by position", 1) == []


def test_diff_on_a_terminal_has_pictures_and_a_pipe_has_none(shown, capsys):
    """The figures are the same; sparklines and a coloured heatmap come beside them."""
    page, code = shown("diff", *TINY)
    assert code == 1
    assert COLOURS.search(page)
    text = ESCAPES.sub("", page)
    assert "by position" in text
    assert f"where     {TITLE}  0 %" in text
    piped = run(capsys, "diff", *TINY)
    assert TITLE not in piped.out
    assert "by position" not in piped.out


@pytest.mark.parametrize(
    "args",
    [
        ("diff", *TINY),
        ("staleness", TINY[0], *LATER),
        ("show", TINY[1]),
        ("check", TINY[0]),
        ("pack", "--explain", "--lens", "9,17,3"),
        ("report", FIXTURES / "golden" / "diff.detail.json"),
    ],
    ids=lambda args: args[0],
)
@pytest.mark.slow
def test_plain_prints_to_a_terminal_as_to_a_pipe(shown, capsys, args):
    """With --plain a terminal gets the very bytes that a pipe does."""
    page, code = shown(*args, "--plain")
    piped = run(capsys, *args)
    assert (page, code) == (piped.out, piped.code)


def test_colours_are_left_out_under_no_color(shown):
    """NO_COLOR draws cells with shades, and no colour is in the output."""
    page, _ = shown("diff", *TINY, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]|48;5", page)
    assert "░" in page


@pytest.mark.parametrize("how", [{"TERM": "dumb"}, {"encoding": "iso8859-1"}])
def test_a_poor_terminal_gets_plain_characters(shown, how):
    """A dumb terminal, and one that takes no UTF-8, have pictures in ASCII."""
    page, code = shown("diff", *TINY, "--examples", 1, **how)
    drawn = ESCAPES.sub("", page)
    assert (code, TITLE in drawn) == (1, True)
    assert not set("▀█░·▁") & set(drawn)
    if "TERM" in how:
        assert page == drawn


def test_what_an_encoding_lacks_is_a_question_mark():
    """A stream that takes no UTF-8 gets every report, with ? for what it lacks."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    open_console(stream).print("a … b")
    assert raw.getvalue() == b"a ? b\n"


@pytest.mark.parametrize("columns", [40, 56, 60, 80, 120, 200])
def test_pictures_fit(shown, columns):
    """No line of a table or of a heatmap is wider than the terminal, and a narrow one says so."""
    text = ESCAPES.sub("", shown("diff", *TINY, columns=columns)[0])
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    last = next(i for i, line in enumerate(lines) if line.startswith("depth"))
    assert all(len(line) <= columns for line in lines[first:last])
    assert (f"not shown: {TITLE}" in " ".join(text.split())) == (columns < 58)


@pytest.mark.slow
def test_staleness_draws_mismatch_and_staleness(shown, capsys, tmp_path):
    """Two heatmaps on a terminal; -o NAME.json has the cells of each comparison, --json not."""
    page = ESCAPES.sub("", shown("staleness", TINY[0], *LATER)[0])
    assert "where     mismatch by layer and position  0 %" in page
    assert "where     staleness at lag 1 by layer and position  0 %" in page
    assert "total by position" in page
    args = ("staleness", TINY[0], *LATER)
    bare, whole = document(capsys, *args), detailed(capsys, tmp_path, *args)
    for c in (*whole["comparisons"], *whole["by_lag"]):
        found = cells_of(c)
        assert found.rows_LB.sum() == c["rows"]
        assert found.mismatched_LB.sum() == c["rows_mismatched"]
        del c["detail"]
    assert bare == whole


@pytest.mark.parametrize(
    "detail",
    [
        None,
        {},
        {"places": [], "bin_width": 4},
        {"places": [{"place": "prompt"}], "bin_width": 4},
        {"places": [{"rows": [[1]], "rows_mismatched": [[1], [1, 2]]}], "bin_width": 4},
        {"places": [{"rows": [[1], [1]], "rows_mismatched": [[1], [1]]}], "bin_width": 4},
        {"places": [{"rows": [[9**30]], "rows_mismatched": [[1]]}], "bin_width": 4},
        {"places": [{"rows": [[2]], "rows_mismatched": [[1]]}]},
    ],
)
def test_a_damaged_detail_has_no_picture(detail):
    """Of a saved document whose detail does not hold, the figures are shown without pictures."""
    assert cells_of({"layers": [{"layer": 3}], "detail": detail}) is None
    whole = {"places": [{"rows": [[2]], "rows_mismatched": [[1]]}], "bin_width": 4}
    assert cells_of({"layers": [{"layer": 3}], "detail": whole}) is not None
