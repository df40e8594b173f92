"""An answer in a real notebook, and the pictures of one against what they are made of."""

import base64
import io
import re
import struct
import zlib

import numpy as np
import pytest

from routectl.reports.notebook.pictures import Bar, bars, heat

CELL = """
import routectl
routectl.diff({old!r}, {new!r}, detail=True)
"""


@pytest.mark.slow
def test_a_notebook_shows_an_answer(tmp_path):
    """A kernel of Jupyter's gives text and HTML for an answer at the end of a cell."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from support.tiny_rl import ENGINE, TINY

    code = CELL.format(old=str(ENGINE), new=str(TINY / "routes_v0.fp32.npz"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    (output,) = book.cells[0].outputs
    assert output.output_type == "execute_result"
    assert output.data["text/plain"].startswith("<DiffResult of ")
    assert "DIFFERS  2,055 of 101,616 rows" in output.data["text/html"]
    assert len(nbformat.writes(book)) < 100_000


def pixels_of(page):
    """The picture of a page, RGBA [rows, columns, 4], by the PNG format alone."""
    data = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert crc == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    columns, rows, depth, colours = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (depth, colours) == (8, 6)
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(rows, -1)
    assert not lines[:, 0].any()  # no filter
    return lines[:, 1:].reshape(rows, columns, 4)


def test_a_heat_map_is_a_picture():
    """A cell a figure: none is light, the most is dark, an undefined one is see-through."""
    page = heat("rates", np.array([[0.0, 0.25, 0.5], [np.nan, 0.5, 0.0]]), "layers 3 (top) to 4")
    found = pixels_of(page)
    assert found.shape == (2, 3, 4)
    assert found[..., 3].tolist() == [[255, 255, 255], [0, 255, 255]]
    assert (found[0, 2] == found[1, 1]).all()
    assert (found[0, 0] == found[1, 2]).all()
    light = found[..., :3].astype(int).sum(axis=2)
    assert light[0, 0] > light[0, 1] > light[0, 2]
    assert "rates, most 50.000%" in page


def test_a_heat_map_is_one_that_pillow_reads():
    """Another reader of PNG sees the same pixels."""
    image = pytest.importorskip("PIL.Image")
    page = heat("rates", np.random.default_rng(0).random((5, 7)), "")
    data = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    with image.open(io.BytesIO(data)) as opened:
        assert (np.asarray(opened) == pixels_of(page)).all()


def test_bars_stand_for_their_figures():
    """Heights are in proportion, the highest the whole; an undefined figure has no bar."""
    page = bars("t <&>", [Bar("0", 0.5), Bar("1", None), Bar("2", 0.25, 0.1, 0.5), Bar("3", 0.0)])
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', page)]
    assert heights == [82.0, 41.0, 0.0]
    assert re.findall(r"<title>(.*?)</title>", page) == ["0: 50.000%", "2: 25.000%", "3: 0.000%"]
    assert "t &lt;&amp;&gt;" in page
    assert page.count("<path") == 2  # the interval of one, and the axis
    assert bars("nothing", [Bar("0", None)]) == heat("nothing", np.full((2, 2), np.nan), "") == ""


def test_many_layers_have_few_labels():
    """Of 94 layers each has its bar, and labels do not run into each other."""
    page = bars("layers", [Bar(str(i), 0.01 * i) for i in range(94)])
    assert page.count("<rect") == 94
    assert page.count('y="115"') <= 12
    assert len(page) < 20_000
