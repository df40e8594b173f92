"""What is wrong in a layer of a file, and whether a shift explains it."""

import numpy as np
import pytest

from routectl import Routes
from routectl.ops.pack.wrong import SHIFTS, WrongLayer


def counted(got, expected, positions=None):
    """The counts of one run."""
    got, expected = np.array(got), np.array(expected)
    at = np.arange(len(got)) if positions is None else np.array(positions)
    one = WrongLayer(rows=len(got))
    wrong = (np.sort(got, axis=1) != np.sort(expected, axis=1)).any(axis=1)
    one.add(got, expected, at, wrong)
    return one


@pytest.mark.parametrize("by", SHIFTS)
def test_a_shift_is_named(by):
    """Rows that hold the token's so many positions later, the ends of the run other ids, in any
    order of slots.
    """
    rng = np.random.default_rng(by + 9)
    truth = rng.permuted(np.tile(np.arange(64), (40, 1)), axis=1)[:, :4]
    got = rng.permuted(np.roll(truth, -by, axis=0), axis=1)
    found = counted(got, truth)
    assert (found.wrong, found.shifted[by], found.shift) == (40, 40 - abs(by), by)
    assert (found + found).shift == by


def test_other_rows_are_no_shift():
    """One row of nine holds its neighbour's, and rows of no neighbour are nobody's."""
    truth = np.arange(40).reshape(10, 4)
    got = truth + 100
    got[3] = truth[2]
    assert counted(got, truth).shift is None
    assert counted(truth, truth).shift is None
    assert counted(np.roll(truth, 1, axis=0), truth, positions=range(0, 30, 3)).shift is None


def test_another_layers_routes():
    """Rows that are another layer's, in any order of slots; missing ones are not looked at; one
    that is not, or fewer than could be so by chance, and no layer is named.
    """
    rng = np.random.default_rng(3)
    ids = rng.permuted(np.tile(np.arange(64), (40, 3, 1)), axis=2)[..., :4]
    ids = np.ascontiguousarray(ids, np.uint8)
    missing = np.zeros((40, 3), bool)
    missing[:9, 2] = True
    got = rng.permuted(ids[:, 2], axis=1)
    got[:9] = 0
    wrong = np.ones(40, bool)

    def holds(got_RK, rows):
        one = WrongLayer(rows=rows, wrong=rows)
        held = Routes(ids[:rows], (1, 3, 5), 64, missing_TL=missing[:rows])
        one.look(got_RK[:rows], held, np.arange(rows), wrong[:rows])
        return (one + WrongLayer()).holds

    assert holds(got, 40) == 5
    assert holds(got, 12) is None
    got[-4:] = 7
    assert holds(got, 40) is None


def test_a_row_amiss_is_no_shift():
    """Where one row of many holds neither, the shift does not explain all."""
    truth = np.arange(160).reshape(40, 4)
    got = np.roll(truth, 1, axis=0)
    got[20] = 0, 1, 2, 9
    found = counted(got, truth)
    assert (found.wrong, found.shifted[-1], found.shift) == (40, 38, None)


def test_ids_of_another_space():
    """Where each expert has one other id in most rows, all are told, in every sum of parts; an
    expert that has two, or another's, and it is no renaming.
    """
    rng = np.random.default_rng(4)
    truth = rng.permuted(np.tile(np.arange(32), (40, 1)), axis=1)[:, :4]
    other = (np.arange(32) * 7 + 3) % 32
    parts = [counted(other[truth[n : n + 10]], truth[n : n + 10]) for n in range(0, 40, 10)]
    one, two, three, four = parts
    for found in (one + two + three + four, (four + two) + (three + one)):
        assert found.renamed == {n: (n * 7 + 3) % 32 for n in np.unique(truth).tolist()}
        assert (found.shift, found.filled) == (None, None)
    got = other[truth]
    got[7, 2] = (got[7, 2] + 1) % 32
    assert counted(got, truth).renamed is None
    assert counted(truth // 2, truth).renamed is None
    few = counted(other[truth[:7]], truth[:7])
    assert few.renamed is None
    few.rows = few.wrong = 8  # rows enough, each expert seen twice at most
    assert few.renamed is None


def test_rows_that_were_never_written():
    """Wrong rows that hold one and the same are told with it, in sums too; one that does not, and
    they are not.
    """
    truth = np.arange(80).reshape(20, 4) % 7 + 1
    got = np.tile([0, 0, 0, 0], (20, 1))
    found = counted(got[:10], truth[:10]) + counted(got[10:], truth[10:])
    assert (found.wrong, found.filled, found.renamed) == (20, (0, 0, 0, 0), None)
    got[13] = 8, 9, 10, 11
    found = counted(got[:10], truth[:10]) + counted(got[10:], truth[10:])
    assert found.filled is None
    assert counted(got[:3], truth[:3]).filled is None
