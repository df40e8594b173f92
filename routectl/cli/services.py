"""What other programs read of a report: JUnit, a badge, GitHub's annotations, dashboards."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RoutectlError, UnsupportedError, extra_hint
from ..jobs.options import option
from .terminal import note
from .voices import Voices

if TYPE_CHECKING:
    from ..reports.document import Document

__all__ = ["Dashboards", "Saying", "Services", "say_all"]

Saying = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """JUnit and GitHub, of the runs of a routectl.ci/1 document."""

    junit: Path | None = option(None, metavar="PATH", help="Write JUnit XML, a test case a run.")
    github: bool | None = option(
        None,
        help="Annotations, and a summary to $GITHUB_STEP_SUMMARY; of ci, where GITHUB_ACTIONS is "
        "true when not given.",
    )

    def refuse(self, voices: Voices) -> None:
        """Refuse, before any work is done, what cannot be written."""
        _refuse_file("--junit", self.junit, voices.force)

    def sayings(self, runs: "Document", voices: Voices) -> list[Saying]:
        """What is to be said of a routectl.ci/1 document, made here and written each on its own."""
        from ..reports.ci.services import github_annotations, github_summary, junit_xml

        said: list[Saying] = []
        if self.junit is not None:
            said.append(partial(voices.publish, self.junit, junit_xml(runs)))
        if self.github:
            said.append(partial(_annotate, github_annotations(runs), github_summary(runs)))
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboards:
    """A badge, and the figures of a document as scalars."""

    badge: Path | None = option(
        None, metavar="PATH", help="Write the JSON of a shields.io endpoint."
    )
    tensorboard: Path | None = option(
        None, metavar="DIR", help="Write the figures as TensorBoard scalars."
    )
    wandb_offline: Path | None = option(
        None, metavar="DIR", help="Write them as an offline run of W&B."
    )
    step: int | None = option(
        None,
        least=0,
        metavar="N",
        help="The training step that the scalars are of; 0 when not given.",
    )

    @property
    def scalars(self) -> bool:
        """Whether scalars are asked for."""
        return self.tensorboard is not None or self.wandb_offline is not None

    def refuse(self, voices: Voices) -> None:
        """Refuse, before any work is done, what cannot be written."""
        _refuse_file("--badge", self.badge, voices.force)
        if self.step is not None and not self.scalars:
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
                    hint=extra_hint(extra),
                )

    def sayings(self, runs: "Document", document: "Document", voices: Voices) -> list[Saying]:
        """What is to be said of a document, and of its runs, made here and written each on its own.

        Raises UnsupportedError for a document without scalars, where these are asked for.
        """
        from ..reports.ci.scalars import SCALED, metrics
        from ..reports.ci.services import badge_json

        said: list[Saying] = []
        if self.badge is not None:
            said.append(partial(voices.publish, self.badge, badge_json(runs).encode()))
        if self.scalars:
            if document["schema"] not in SCALED:
                raise UnsupportedError(f"{document['schema']} has no scalars")
            said.append(partial(self._write_scalars, metrics(document)))
        return said

    def _write_scalars(self, scalars: dict[str, float]) -> None:
        step = self.step or 0
        if self.tensorboard is not None:
            from ..reports.ci.dashboards import write_events

            write_events(self.tensorboard, scalars, step)
            note(f"wrote {self.tensorboard}: {len(scalars)} scalars of step {step}")
        if self.wandb_offline is not None:
            from ..reports.ci.dashboards import write_offline_run

            run = write_offline_run(self.wandb_offline, scalars, step)
            note(f"wrote {run}: {len(scalars)} scalars of step {step}")


def say_all(sayings: Sequence[Saying]) -> None:
    """Say each, whatever becomes of others; the first error is raised at the end."""
    errors: list[RoutectlError] = []
    for say in sayings:
        try:
            say()
        except RoutectlError as error:
            errors.append(error)
    for other in errors[1:]:
        note(str(other))
    if errors:
        raise errors[0]


def _refuse_file(flag: str, path: Path | None, force: bool) -> None:
    """Refuse a file beside the report that cannot be written."""
    from ..files.writing import refuse_existing

    if path is None:
        return
    if str(path) == "-":
        raise RoutectlError(f"{flag} -: expected a file")
    refuse_existing(path, force=force)


def _annotate(annotations: str, summary: str) -> None:
    """GitHub's annotations, and text added to the summary of the step that runs."""
    sys.stderr.write(annotations)  # read there too, and not the answer
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        note("GITHUB_STEP_SUMMARY is not set: no step summary")
        return
    try:
        with open(name, "a", encoding="utf-8") as stream:
            stream.write(summary)
    except OSError as error:
        raise RoutectlError(f"{name}: cannot be written: {error.strerror}") from None
