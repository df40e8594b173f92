"""How an answer is told: as text or JSON, here or in a file, as a page, on dashboards."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RoutectlError, UnsupportedError
from ..jobs.options import force_option, option
from .terminal import emit, note

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.document import Document

__all__ = ["Voices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """The options that say where an answer goes; a command takes those that make sense for it."""

    rules: bool = option(
        False, help="List what can be found; with a CODE in place of DUMP, what that means."
    )
    draw: bool = option(
        False, name="explain", help="Draw which token sits where; nothing is written."
    )
    junit: Path | None = option(None, metavar="PATH", help="Write JUnit XML, a test case a run.")
    badge: Path | None = option(
        None, metavar="PATH", help="Write the JSON of a shields.io endpoint."
    )
    github: bool | None = option(
        None,
        help="Annotations, and a summary to $GITHUB_STEP_SUMMARY; when not given, where "
        "GITHUB_ACTIONS is true.",
    )
    exit_zero: bool = option(False, help="Exit 0 when the dumps differ.")
    as_json: bool = option(False, name="json", help="Print the report as one JSON document.")
    lines: bool = option(False, name="json", help="Print each dump as a line of JSON.")
    plain: bool = option(False, help="Print to a terminal as to a pipe: no colours, no pictures.")
    detail: bool = option(False, help="In --json, what a page shows beside the figures: `report`.")
    step: int | None = option(
        None,
        least=0,
        metavar="N",
        help="The training step that the scalars are of; 0 when not given.",
    )
    html: Path | None = option(
        None, metavar="PATH", help="Write the report as one HTML page there too."
    )
    tokenizer: Path | None = option(
        None, metavar="PATH", help="tokenizer.json: the page shows tokens as text."
    )
    no_tokens: bool = option(
        False,
        help="Leave token ids, their texts, and sample names that read as text out of what is "
        "written.",
    )
    tensorboard: Path | None = option(
        None, metavar="DIR", help="Write the figures as TensorBoard scalars."
    )
    wandb_offline: Path | None = option(
        None, metavar="DIR", help="Write them as an offline run of W&B."
    )
    output: Path | None = option(
        None, short="o", metavar="PATH", help="Write the report there; - is stdout."
    )
    force: bool = force_option()

    @property
    def target(self) -> Path | None:
        """The file that the report goes to; None for stdout."""
        return None if self.output is None or str(self.output) == "-" else self.output

    def pictured(self, as_json: bool) -> bool:
        """Whether a report goes to a terminal, where pictures are drawn."""
        return self.target is None and not (as_json or self.plain) and sys.stdout.isatty()

    def refuse(self) -> None:
        """Refuse, before any work is done, what cannot be written."""
        from ..files.writing import refuse_existing

        if self.target is not None:
            refuse_existing(self.target, force=self.force)
        _refuse_beside("--junit", self.junit, self.force)
        _refuse_beside("--badge", self.badge, self.force)
        if str(self.html) == "-":
            raise RoutectlError("--html -: a page is a file: expected NAME.html")
        _refuse_beside("--html", self.html, self.force)
        self._refuse_tokenizer()
        self._refuse_dashboards()

    def _refuse_tokenizer(self) -> None:
        if self.tokenizer is None:
            return
        if self.html is None:
            raise RoutectlError("--tokenizer is for a page", hint="--html PATH writes one")
        if self.no_tokens:
            raise RoutectlError("--tokenizer and --no-tokens cannot both be given")
        if not self.tokenizer.exists():
            raise RoutectlError(f"{self.tokenizer}: no such file")

    def _refuse_dashboards(self) -> None:
        if self.step is not None and self.tensorboard is None and self.wandb_offline is None:
            raise RoutectlError("--step is of --tensorboard or --wandb-offline: got neither")
        for path, flag, package, extra in (
            (self.tensorboard, "--tensorboard", "tensorboardX", "tensorboard"),
            (self.wandb_offline, "--wandb-offline", "wandb", "wandb"),
        ):
            if path is None:
                continue
            if path.exists() and not path.is_dir():
                raise RoutectlError(f"{flag} {path}: expected a folder, got a file")
            if find_spec(package) is None:
                raise UnsupportedError(
                    f"{flag} needs {package}, which is not installed",
                    hint=f"pip install 'routectl[{extra}]'",
                )

    def tell(
        self,
        document: "Document",
        render: "Callable[[Any, Console], None]",
        *,
        as_json: bool | None = None,
    ) -> None:
        """The page and the dashboards that were asked for, then the report itself.

        ``detail`` of a document is for the page, unless --detail asks for it.
        """
        as_json = self.as_json if as_json is None else as_json
        document = self._reduced(document)
        self.page(document)
        self.scalars(document)
        if as_json and not self.detail:
            document.pop("detail", None)
        emit(
            document,
            render,
            as_json=as_json,
            plain=self.plain,
            output=self.target,
            force=self.force,
        )

    def _reduced(self, document: "Document") -> "Document":
        """The document, without what --no-tokens keeps back."""
        if not self.no_tokens:
            return document
        from ..reports.withheld import without_tokens

        return without_tokens(document)

    def page(self, document: "Document") -> None:
        """Write the document as a page; nothing where none was asked for."""
        if self.html is None:
            return
        from ..files.writing import replacing
        from ..reports.page.page import html_page, with_texts

        if self.tokenizer is not None:
            from ..formats.tokenizer import open_tokenizer

            document = with_texts(document, open_tokenizer(self.tokenizer))
        text = html_page(self._reduced(document))
        with replacing(self.html, force=self.force) as stream:
            stream.write(text.encode())
        note(f"wrote {self.html}")

    def scalars(self, document: "Document") -> None:
        """Write the scalars of a document to dashboards, where that was asked for."""
        if self.tensorboard is None and self.wandb_offline is None:
            return
        from ..reports.ci.scalars import metrics

        scalars, step = metrics(document), self.step or 0
        if self.tensorboard is not None:
            from ..reports.ci.dashboards import write_events

            write_events(self.tensorboard, scalars, step)
            note(f"wrote {self.tensorboard}: {len(scalars)} scalars of step {step}")
        if self.wandb_offline is not None:
            from ..reports.ci.dashboards import write_offline_run

            run = write_offline_run(self.wandb_offline, scalars, step)
            note(f"wrote {run}: {len(scalars)} scalars of step {step}")

    def code(self, document: "Document") -> int:
        """The exit code of a verdict."""
        return 0 if self.exit_zero else int(document["verdict"]["exit_code"])


def _refuse_beside(flag: str, path: Path | None, force: bool) -> None:
    """Refuse a file beside the report that cannot be written, before any work is done."""
    from ..files.writing import refuse_existing

    if path is None:
        return
    if str(path) == "-":
        raise RoutectlError(f"{flag} -: expected a file")
    refuse_existing(path, force=force)
