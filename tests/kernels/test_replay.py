"""The kernel that packs rows, against one numpy assignment a token and layer."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.kernels.replay import Copy, copy_rows

KINDS = [(np.uint8, t) for t in ("uint8", "int8", "int16", "int32", "int64")] + [
    (np.uint16, t) for t in ("uint16", "int32", "int64")
]


@st.composite
def cases(draw):
    """Sources, their columns, and an output that may start at any address."""
    top_k = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 10, 16, 22, 136]))
    source, target = draw(st.sampled_from(KINDS))
    seed = draw(st.integers(0, 2**32 - 1))
    layers = draw(st.integers(1, 5))
    columns = draw(st.lists(st.integers(0, layers - 1), max_size=4))
    step = draw(st.sampled_from([1, 1, 2, 3]))
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 7, 255, 256, 257, 600]), max_size=4))
    odd = draw(st.integers(0, 20))
    return np.random.default_rng(seed), top_k, source, target, layers, columns, step, sizes, odd


@given(cases(), st.integers(1, 3))
def test_against_assignment(case, threads):
    """Each row lands where it is to; no other byte of the buffer changes."""
    rng, top_k, source, target, layers, columns, step, sizes, odd = case
    copies, row = [], 1
    for size in sizes:
        most = min(np.iinfo(source).max, np.iinfo(target).max)
        ids = rng.integers(0, most, (size, layers, top_k), endpoint=True, dtype=np.int64)
        copies.append(Copy(ids.astype(source), row, step))
        row += size * step
    shape = (len(columns), row + 2, top_k)
    count, item = int(np.prod(shape)), np.dtype(target).itemsize
    buffer = np.full(odd * item + count * item + 64, 0x5A, np.uint8)
    expected = buffer.copy()
    out, wanted = (
        b[odd * item : odd * item + count * item].view(target).reshape(shape)
        for b in (buffer, expected)
    )
    for ids, first, _ in copies:
        for t, token in enumerate(ids):
            for m, column in enumerate(columns):
                wanted[m, first + step * t] = token[column]
    copy_rows(copies, np.array(columns, np.uint64), out, threads=threads)
    assert np.array_equal(buffer, expected)


SOURCE = np.zeros((4, 3, 2), np.uint8)
OUT = np.zeros((1, 5, 2), np.int16)


@pytest.mark.parametrize(
    ("copies", "columns", "out", "said"),
    [
        ([Copy(SOURCE, 2, 1)], [0], OUT, "beyond the 5 rows"),
        ([Copy(SOURCE, 0, 2)], [0], OUT, "beyond the 5 rows"),
        ([Copy(SOURCE, -1, 1)], [0], OUT, "beyond the 5 rows"),
        ([Copy(SOURCE, 0, 1)], [3], OUT, "do not fill 1 layers"),
        ([Copy(SOURCE, 0, 1)], [0, 1], OUT, "do not fill 1 layers"),
        ([Copy(SOURCE[:, :, :1].copy(), 0, 1)], [0], OUT, "rows of 1 do not fit"),
        ([Copy(SOURCE.astype(np.uint32), 0, 1)], [0], OUT, "do not fit int16"),
        ([Copy(SOURCE, 0, 1), Copy(SOURCE[:, :2], 0, 1)], [0], OUT, "differ in dtype, L or K"),
        ([Copy(SOURCE[::2], 0, 1)], [0], OUT, "not in C order"),
    ],
)
def test_memory_is_kept(copies, columns, out, said):
    """What would read or write beyond an array is refused."""
    with pytest.raises(ValueError, match=said):
        copy_rows(copies, np.array(columns, np.uint64), out)
    assert not out.any()


def _in_child(queue):
    out = np.zeros((1, 4, 2), np.int16)
    copy_rows([Copy(SOURCE + 1, 0, 1)], np.array([2], np.uint64), out, threads=2)
    queue.put(out.sum())


def test_after_a_fork():
    """A forked process, as trainers start them, has its own threads."""
    copy_rows([Copy(SOURCE, 0, 1)], np.array([2], np.uint64), OUT.copy(), threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=30) == 8
    finally:
        child.kill()
        child.join()
