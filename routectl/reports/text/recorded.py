"""What a report prints, kept in order: the page and Markdown are made of it."""

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["Render", "printed_parts"]

Render = Callable[[Any, Console], None]  # of the document of one schema
_WIDTH = 100_000  # no column is left out


class _Recorder(Console):
    """A console that keeps what is printed on it."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=_WIDTH, markup=False, highlight=False)
        self.printed: list[Any] = []

    def print(self, *objects: Any, style: Any = None, **_: Any) -> None:
        """Keep the objects; None stands for an empty line."""
        styled = [Text(o, style=style or "") if isinstance(o, str) else o for o in objects]
        self.printed += styled or [None]


def printed_parts(document: Any, render: Render) -> list[Any]:
    """What a report prints of a visible document, in order: ``Labelled``, ``TextLine``, ``Table``,
    and None for an empty line.
    """
    recorder = _Recorder()
    render(document, recorder)
    return recorder.printed
