"""Shards that nobody has begun: whoever comes again takes the one behind its last.

What two neighbours both need, such as a row group, is then read once, in the process that has both.
"""

__all__ = ["Queue"]


class Queue:
    """The numbers below ``count``, each handed out once."""

    def __init__(self, count: int) -> None:
        self._free = [range(count)] if count else []  # ascending

    def __len__(self) -> int:
        return sum(map(len, self._free))

    @property
    def lowest(self) -> int | None:
        """The least number that is left."""
        return self._free[0].start if self._free else None

    def drop(self, end: int) -> None:
        """Hand out none from ``end`` on."""
        self._free = [range(one.start, min(one.stop, end)) for one in self._free if one.start < end]

    def take(self, last: int | None, *, far: bool) -> int:
        """The number behind ``last``, else the first of the longest run, or, ``far``, of its half.

        Far is for whoever is not the only one: the run's beginning is another's next.
        """
        assert self._free
        at = next((i for i, one in enumerate(self._free) if one.start - 1 == last), None)
        if at is not None:
            return self._first(at)
        at = max(range(len(self._free)), key=lambda i: len(self._free[i]))
        run = self._free[at]
        middle = run.start + len(run) // 2
        if not far or middle == run.start:
            return self._first(at)
        self._free[at : at + 1] = [range(run.start, middle), range(middle, run.stop)]
        return self._first(at + 1)

    def take_lowest(self) -> int:
        """The least number that is left."""
        return self._first(0)

    def _first(self, at: int) -> int:
        run = self._free[at]
        self._free[at : at + 1] = [run[1:]] if len(run) > 1 else []
        return run.start
