"""Several writers of one destination, in processes that begin at the same time."""

import multiprocessing

from routectl.errors import RoutectlError

__all__ = ["raced"]

WRITERS = 8


def _writer(write, number, start, told):
    try:
        write(number, start.wait)
        told.put(number)
    except RoutectlError as error:
        told.put(str(error))


def raced(write, *, force):
    """Of eight writers the numbers of those that wrote: one, or with ``force`` all.

    ``write(number, begin)`` writes, and calls ``begin`` where all are to meet. The others say that
    the destination exists.
    """
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(WRITERS), context.Queue()
    all_of_them = [
        context.Process(target=_writer, args=(write, number, start, told))
        for number in range(WRITERS)
    ]
    for process in all_of_them:
        process.start()
    results = [told.get(timeout=60) for _ in all_of_them]
    for process in all_of_them:
        process.join()
    won = [result for result in results if isinstance(result, int)]
    assert len(won) == (WRITERS if force else 1), results
    assert all("already exists" in result for result in results if isinstance(result, str))
    return won
