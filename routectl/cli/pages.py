"""Where a report goes as a page, and how a saved report comes back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, RoutectlError
from .output import check_output, note

if TYPE_CHECKING:
    from ..reports.diff.document import Document

__all__ = ["Page", "page_at", "read_report"]

_MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML file to be written; ``path`` is None where none was asked for."""

    path: Path | None
    tokenizer: Path | None = None
    force: bool = False

    def write(self, document: "Document") -> None:
        """Write the document as a page; nothing where none was asked for."""
        if self.path is None:
            return
        from ..files import replacing
        from ..reports.page.page import html_page, with_texts

        if self.tokenizer is not None:
            from ..formats.tokenizer import open_tokenizer

            document = with_texts(document, open_tokenizer(self.tokenizer))
        text = html_page(document)
        with replacing(self.path, force=self.force) as stream:
            stream.write(text.encode())
        note(f"wrote {self.path}")


def page_at(path: Path | None, force: bool, tokenizer: Path | None = None) -> Page:
    """What --html asks for; refused before any work is done."""
    if path is not None and check_output(path, force) is None:
        raise RoutectlError("--html -: a page is a file: expected NAME.html")
    if tokenizer is not None:
        if path is None:
            raise RoutectlError("--tokenizer is for a page", hint="--html PATH writes one")
        if not tokenizer.exists():
            raise RoutectlError(f"{tokenizer}: no such file")
    return Page(path, tokenizer, force)


def read_report(path: Path) -> "Document":
    """A report that was written with --json. Raises FormatError where it is no JSON object."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{path}: more than {_MAX_BYTES} bytes of JSON")
        found: Any = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not JSON") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path}: got a JSON {type(found).__name__}, expected a report")
    return found
