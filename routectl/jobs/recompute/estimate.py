"""How long a run will take, said once, when its own first samples were measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ...reports.text.wording import plural
from ..progress import Progress

if TYPE_CHECKING:
    from ..progress import Show

__all__ = ["duration", "estimating"]

_MEASURED_S = 3.0  # of the run, before anything is said
_WORTH_S = 5.0  # left, below which nothing is said


def estimating(progress: Progress) -> Progress:
    """The same, that notes how much time is left when some seconds of a run were measured."""

    @contextmanager
    def line(what: str, unit: str) -> "Iterator[Show]":
        with progress.line(what, unit) as shown:
            begun, is_told = time.monotonic(), False

            def show(done: float, total: int, words: Callable[[float], str]) -> None:
                nonlocal is_told
                if shown is not None:
                    shown(done, total, words)
                elapsed = time.monotonic() - begun
                if is_told or elapsed < _MEASURED_S or not 0 < done < total:
                    return
                is_told = True
                left = elapsed * (total - done) / done
                if left >= _WORTH_S:
                    measured = f"{done:.3g} of {plural(total, unit.removesuffix('s'))}"
                    progress.note(
                        f"about {duration(left)} left, judged by {measured} in {duration(elapsed)}"
                    )

            yield show

    return replace(progress, line=line)


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
