"""How an answer is told: as text or JSON on stdout, or in a file whose suffix says its form."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RoutectlError
from ..jobs.options import force_option, option
from .terminal import emit, note

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.document import Document

__all__ = ["Voices"]

TABLE = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """The options that say where an answer goes; a command takes those that make sense for it.

    The shared ones are told once, in ``routectl --help``. --summary is of what is printed,
    by ``reports.summary.ten_lines``; a file has the whole. plain is the global --plain.
    """

    rules: bool = option(
        False, help="List what can be found; with a CODE in place of DUMP, what that means."
    )
    html: Path | None = option(None, metavar="PATH", shared=True, help="Write an HTML page there.")
    tokenizer: Path | None = option(
        None, metavar="PATH", help="tokenizer.json: the page shows tokens as text."
    )
    lines: bool = option(False, name="json", help="Print each dump as a line of JSON.")
    as_json: bool = option(False, name="json", shared=True, help="Print one JSON document.")
    output: Path | None = option(
        None, short="o", metavar="PATH", shared=True, help="Write the report there."
    )
    summary: bool = option(False, shared=True, help="Print ten lines.")
    exit_zero: bool = option(False, shared=True, help="Exit 0 for what would be 1.")
    no_tokens: bool = option(False, shared=True, help="Leave tokens out of what is written.")
    force: bool = force_option()
    plain: bool = False

    @property
    def target(self) -> Path | None:
        """The file that the report goes to; None for stdout."""
        return None if self.table is not None or str(self.output) == "-" else self.output

    @property
    def table(self) -> Path | None:
        """The file that a row a sample goes to, beside the report; None where none is asked for."""
        is_table = self.output is not None and self.output.suffix.lower() == TABLE
        return self.output if is_table else None

    @property
    def suffix(self) -> str | None:
        """The form of that file, such as ".json"; None for stdout."""
        return None if self.target is None else self.target.suffix.lower()

    @property
    def pictured(self) -> bool:
        """Whether a report goes to a terminal, where pictures are drawn."""
        silent = self.target is not None or self.as_json or self.plain or self.summary
        return not silent and sys.stdout.isatty()

    @property
    def detailed(self) -> bool:
        """Whether a document is to have ``detail``: for a page, in a file of JSON, for pictures."""
        return self.html is not None or self.suffix in (".json", ".html") or self.pictured

    def refuse(self, *, tabled: bool = False) -> None:
        """Refuse, before any work is done, what cannot be written; ``tabled`` has a table."""
        from ..files.writing import refuse_existing
        from ..reports.written.forms import check_suffix

        if self.table is not None:
            if not tabled:
                check_suffix(self.table)
            refuse_existing(self.table, force=self.force)
        if self.target is not None:
            check_suffix(self.target)
            refuse_existing(self.target, force=self.force)
        if self.as_json and self.suffix not in (None, ".json"):
            raise RoutectlError(f"--json and -o {self.target}: the suffix says the form: drop one")
        if self.summary and self.as_json and self.target is None:
            raise RoutectlError("--summary is of text: not with --json; -o NAME.json is beside it")
        if str(self.html) == "-":
            raise RoutectlError("--html -: a page is a file: expected NAME.html")
        if self.html is not None:
            refuse_existing(self.html, force=self.force)
        self._refuse_tokenizer()

    def _refuse_tokenizer(self) -> None:
        if self.tokenizer is None:
            return
        if self.html is None and self.suffix != ".html":
            raise RoutectlError("--tokenizer is for a page", hint="--html PATH writes one")
        if self.no_tokens:
            raise RoutectlError("--tokenizer and --no-tokens cannot both be given")
        if not self.tokenizer.exists():
            raise RoutectlError(f"{self.tokenizer}: no such file")

    def refuse_streamed(self, save: Path) -> None:
        """Refuse --json where data goes to stdout."""
        if self.as_json and str(save) == "-":
            raise RoutectlError("--json: stdout has the data of --save -: save it in a file")

    def refuse_report(self) -> None:
        """Refuse a report in a file where --partial is written in its place."""
        if self.output is not None or self.html is not None:
            raise RoutectlError(
                "--partial is written in place of a report: drop -o and --html",
                hint="routectl merge writes the report of all parts",
            )

    def tell_saved(self, document: "Document") -> None:
        """What was written, where --json asks for it; notes have said it otherwise."""
        if self.as_json:
            emit(document, lambda _, __: None, as_json=True)

    def tell(self, document: "Document", render: "Callable[[Any, Console], None]") -> None:
        """The page that was asked for, then the report itself, on stdout or in its file.

        Of one in a file the note has the verdict, and stdout the ten lines of --summary. ``detail``
        of a document is for files and pictures: --json prints the rest.
        """
        self.page(document)
        document = self.reduced(document)
        printed = render
        if self.summary:
            from ..reports.summary.ten_lines import ten_lines

            printed = ten_lines(render)
        if self.target is not None:
            from ..reports.summary.lines import verdict_of
            from ..reports.written.forms import report_as

            shown = self._with_texts(document) if self.suffix == ".html" else document
            report = report_as(str(self.suffix), shown, render)
            self.publish(self.target, report, "" if self.summary else verdict_of(document))
            if self.summary:
                emit(document, printed, as_json=False, plain=self.plain)
            return
        if self.as_json:
            document = {name: value for name, value in document.items() if name != "detail"}
        emit(document, printed, as_json=self.as_json, plain=self.plain)

    def page(self, document: "Document") -> None:
        """Write the document as a page; nothing where --html asked for none."""
        if self.html is not None:
            from ..reports.page.page import html_page

            page = html_page(self._with_texts(self.reduced(document)))
            self.publish(self.html, page.encode())

    def publish(self, path: Path, data: bytes, verdict: str = "") -> None:
        """Write a file whole, and say so, with what it comes to."""
        from ..files.writing import replacing

        with replacing(path, force=self.force) as stream:
            stream.write(data)
        note(f"wrote {path}{verdict and f': {verdict}'}")

    def reduced(self, document: "Document") -> "Document":
        """The document, without what --no-tokens keeps back."""
        if not self.no_tokens:
            return document
        from ..reports.withheld import without_tokens

        return without_tokens(document)

    def _with_texts(self, document: "Document") -> "Document":
        """The document with the texts of its tokens, where a tokenizer has them."""
        if self.tokenizer is None:
            return document
        from ..formats.tokenizer import open_tokenizer
        from ..reports.page.page import with_texts

        return with_texts(document, open_tokenizer(self.tokenizer))

    def code(self, document: "Document") -> int:
        """The exit code of a verdict."""
        return 0 if self.exit_zero else int(document["verdict"]["exit_code"])
