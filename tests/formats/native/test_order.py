"""A native file read out of its order: how many row groups are decoded for it."""

import numpy as np
import pytest

from routectl.dump import Dump, DumpMeta, Sample
from routectl.formats.native import parquet, row_groups
from routectl.formats.native.container import open_native, write_native
from routectl.formats.native.encoder import Coding
from routectl.routes import Routes

COUNT, EACH = 60, 5  # samples, and those of a row group


@pytest.fixture(params=["plain", "packed"])
def opened(request, tmp_path, monkeypatch):
    """A file of 12 row groups, and the numbers of those that were decoded, as they come."""
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", EACH)
    random = np.random.default_rng(7)
    meta = DumpMeta("made", "made", (0, 2), 16, 4)
    samples = [
        Sample(
            Routes(
                np.argsort(random.random((3 + i, 2, 16)), -1)[..., :4].astype(np.uint8),
                (0, 2),
                16,
                0,
            ),
            str(i),
        )
        for i in range(COUNT)
    ]
    coding = None if request.param == "plain" else Coding("packed", True, None)
    write_native(samples, meta, tmp_path / "a.parquet", force=False, coding=coding)
    decoded: list[int] = []
    read = parquet.ParquetSource.group

    def counted(self, number, about):
        decoded.append(number)
        return read(self, number, about)

    monkeypatch.setattr(parquet.ParquetSource, "group", counted)
    return open_native(tmp_path / "a.parquet"), samples, decoded


def test_each_row_group_is_decoded_once(opened) -> None:
    """Samples asked for in a random order bring in each row group once, and are as in order."""
    dump, samples, decoded = opened
    for i in np.random.default_rng(1).permutation(COUNT).tolist():
        np.testing.assert_array_equal(dump[i].routes.ids_TLK, samples[i].routes.ids_TLK)
    assert set(decoded) == set(range(COUNT // EACH))
    assert len(decoded) <= COUNT // EACH + 2  # those before the first step back


def test_samples_in_order_keep_one(opened) -> None:
    """Two passes in order decode each row group twice: one is held at a time."""
    dump, _, decoded = opened
    for _ in range(2):
        for sample in dump:
            assert sample.routes is not None
    assert decoded == 2 * list(range(COUNT // EACH))


def test_kept_row_groups_are_bounded(opened, monkeypatch) -> None:
    """Without room for others, a row group is decoded again each time that it is come back to."""
    dump, _, decoded = opened
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 1)
    for i in (0, 30, 1, 31, 2, 32):
        dump[i]
    assert decoded == [0, 6, 0, 6, 0, 6]


def test_a_part_in_another_order(opened) -> None:
    """What is selected out of order is read as cheaply."""
    dump, _, decoded = opened
    part: Dump = dump.select(layers=[2]).select(samples=list(range(COUNT - 1, -1, -1)))
    assert [sample.sample_id for sample in part] == [str(i) for i in range(COUNT - 1, -1, -1)]
    assert len(decoded) == len(set(decoded)) == COUNT // EACH
