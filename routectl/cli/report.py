"""``routectl report RESULT.json -o page.html``."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import FormatError, RoutectlError
from .options import Force, Output, Plain, TokenizerFile
from .output import check_output, emit
from .pages import page_at, read_report

__all__ = ["report_command"]

_RESULT = typer.Argument(metavar="RESULT", show_default=False, help="What --json printed, saved.")
_DAMAGED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def report_command(
    result: Annotated[Path, _RESULT],
    plain: Plain = False,
    output: Output = None,
    tokenizer: TokenizerFile = None,
    force: Force = False,
) -> int:
    """Show a saved report again: as text, or with -o NAME.html as a page.

    The page of a diff or of a dump shows most when the report was made with --json --detail: where
    rows differ by layer and position, expert loads, the worst sequences token by token.
    """
    from rich.errors import ConsoleError

    from ..reports.page.page import render_of

    target = check_output(output, force)
    document = read_report(result)
    try:
        render = render_of(document)
    except FormatError as error:
        raise FormatError(f"{result}: {error}") from None
    try:
        if target is not None and target.suffix in (".html", ".htm"):
            page_at(target, force, tokenizer).write(document)
        elif tokenizer is not None:
            raise RoutectlError("--tokenizer is for a page", hint="-o NAME.html writes one")
        else:
            emit(document, render, as_json=False, plain=plain, output=target, force=force)
    except (*_DAMAGED, ConsoleError):
        raise FormatError(f"{result}: not a whole report of {document['schema']}") from None
    return 0
