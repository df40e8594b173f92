"""A report in ten lines: what --summary prints.

The seam: ``cli/voices.py`` wraps the render of a document in ``ten_lines`` where --summary is
given, for stdout, ``-o NAME.txt`` and ``.md``; no command and no render knows of it.
"""

import io
from typing import Any

from rich.console import Console

from .recorded import Render
from .tables import open_console

__all__ = ["LINES", "ten_lines"]

LINES = 10


def ten_lines(render: Render) -> Render:
    """A render of the same documents that prints at most ``LINES`` lines, the verdict first.

    As it is, those are the first ones of the whole report, empty lines left out.
    """

    def short(document: Any, console: Console) -> None:
        page = io.StringIO()
        render(document, open_console(page))
        lines = [line for line in page.getvalue().splitlines() if line.strip()]
        for line in lines[:LINES]:
            console.print(line, soft_wrap=True)

    return short
