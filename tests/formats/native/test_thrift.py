"""The column chunks of a footer: where pyarrow finds them too, and refused where it would not."""

from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.native import thrift
from routectl.formats.native.thrift import Compact, read_chunks
from support.building import check_line
from support.recordings import FIXTURES

NATIVE = sorted(FIXTURES.rglob("*.parquet"))
SOUND = FIXTURES / "golden" / "deepseek_v3.parquet"
ROW_GROUPS, COLUMNS, LIST, STRUCT = 4, 1, 9, 12


@pytest.fixture(params=[False, True], ids=["small", "large"], autouse=True)
def large(request, monkeypatch):
    """Footers are read as small ones are, and by the compiled loop."""
    if request.param:
        monkeypatch.setattr(thrift, "_LARGE", 0)


def chunks_of(path):
    """The chunks of each row group, as routectl and as pyarrow has them."""
    footer = pq.ParquetFile(path).metadata
    shape = footer.num_row_groups, footer.num_columns
    with path.open("rb") as stream:
        mine = [
            [(c.values, c.stored, c.data_page, c.dictionary_page) for c in group]
            for group in read_chunks(stream, path.stat().st_size, shape)
        ]
    groups = (footer.row_group(g) for g in range(footer.num_row_groups))
    columns = [[group.column(i) for i in range(footer.num_columns)] for group in groups]
    theirs = [
        [
            (
                c.num_values,
                c.total_compressed_size,
                c.data_page_offset,
                c.dictionary_page_offset or 0,
            )
            for c in group
        ]
        for group in columns
    ]
    return mine, theirs


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: path.stem)
def test_chunks_are_those_of_pyarrow(path):
    """Values, bytes and places of every column of a file that is checked in."""
    mine, theirs = chunks_of(path)
    assert mine == theirs
    assert mine


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("columns", [1, 14, 15, 200])
def test_chunks_of_other_files(tmp_path, compression, columns):
    """Short and long lists of columns and row groups, dictionaries or none."""
    path = tmp_path / "x.parquet"
    table = pa.table({f"c{i}": [f"{i}-{n % 3}" for n in range(40)] for i in range(columns)})
    pq.write_table(table, path, compression=compression, row_group_size=2, use_dictionary=["c0"])
    mine, theirs = chunks_of(path)
    assert mine == theirs
    assert len(mine) == 20


def parts_of(footer):
    """Where the list of row groups begins and ends, and the first one's list of columns.

    Of the columns: where their list begins, and where its header and each of them end.
    """
    read, lists = Compact(footer, len(footer)), []
    for number, kind in read.fields():
        begin = read.at
        if (number, kind) != (ROW_GROUPS, LIST):
            read.skip(kind)
            continue
        for _ in read.items():
            for inner, of in read.fields():
                head, ends = read.at, []
                if (inner, of) != (COLUMNS, LIST):
                    read.skip(of, 1)
                    continue
                for _ in read.items():
                    ends.append(read.at)
                    read.skip(STRUCT, 1)
                lists.append((head, [*ends, read.at]))
        groups = begin, read.at
    return groups, lists[0]


def with_footer(path, change):
    """The sound file with another footer."""
    data = SOUND.read_bytes()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = change(data[begin:-8])
    path.write_bytes(data[:begin] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


def without_a_column(footer):
    """One column of the first row group less; the schema has it still."""
    _, (head, ends) = parts_of(footer)
    assert len(ends) - 2 >= 15  # a header of two bytes, as is written here
    return (
        footer[:head]
        + bytes([0xFC, len(ends) - 2])
        + footer[ends[0] : ends[-2]]
        + footer[ends[-1] :]
    )


def twice(footer):
    """The list of row groups again, behind all fields."""
    (begin, end), _ = parts_of(footer)
    return footer[:-1] + bytes([LIST, 2 * ROW_GROUPS]) + footer[begin:end] + b"\0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_column, "row groups without a place for each column"),
        (twice, "twice"),
        (lambda footer: footer[: len(footer) // 2], "damaged Parquet"),
    ],
)
def test_a_footer_that_lies_is_refused(tmp_path, change, said):
    """Fewer chunks than columns, a list that is there twice, a cut: one line, no traceback."""
    path = with_footer(tmp_path / "x.parquet", change)
    with pytest.raises(FormatError, match=said) as caught:
        open_dump(path)
    check_line(caught.value, path)


def test_the_same_footer_is_read(tmp_path):
    """What these tests change is a sound file: as it was, it opens."""
    path = with_footer(tmp_path / "x.parquet", lambda footer: footer)
    assert len(open_dump(path)) == len(open_dump(SOUND))


def read(footer, least):
    """The chunks of a footer alone, read as one of at least so many bytes; None for damage."""
    data = footer + len(footer).to_bytes(4, "little") + b"PAR1"
    about = pq.ParquetFile(SOUND).metadata
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thrift, "_LARGE", least)
        try:
            found = read_chunks(BytesIO(data), len(data), (about.num_row_groups, about.num_columns))
        except ValueError:
            return None
        return list(found)


@given(st.data())
def test_damage_is_the_same_to_both(data):
    """A footer of which bytes were changed, cut or put in is read alike, or refused by both."""
    sound = SOUND.read_bytes()
    footer = bytearray(sound[-8 - int.from_bytes(sound[-8:-4], "little") : -8])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(footer) - 1))
        size = data.draw(st.integers(0, 3))
        footer[at : at + size] = data.draw(st.binary(max_size=3))
    assert read(bytes(footer), 0) == read(bytes(footer), 1 << 30)


@pytest.mark.parametrize(("kinds", "expected"), [((5,), {1: 3, 2: 9}), ((5, 6), {1: 4, 2: 9})])
def test_numbers_of_another_type_are_passed_over(kinds, expected):
    """Field 1 is there as an i32 and as an i64: readers take the type that the struct declares."""
    again = bytes([0x06, 2, 8])  # field 1 by its number, an i64, 4
    data = bytes([0x15, 6]) + again + bytes([0x15, 18, 0])
    found = {1: 0, 2: 0}
    Compact(data, 10).numbers(found, 0, {}, kinds)
    assert found == expected
