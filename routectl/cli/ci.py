"""``routectl ci [CONFIG]``."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RoutectlError
from ..jobs.ci.request import CiRequest, answer_ci
from .desk import CommandLine, desk
from .terminal import TERMINAL, emit, note

if TYPE_CHECKING:
    from ..reports.document import Document
    from .voices import Voices

__all__ = ["ci_command"]

_VOICES = "junit badge github tensorboard wandb_offline step exit_zero as_json output force"


@desk(CiRequest, _VOICES)
def ci_command(line: CommandLine) -> int:
    """Run the checks of a config: each a diff, a check or a staleness with its thresholds.

    All are run, whatever the others come to. Exit status: 0 all passed, 1 at least one is over a
    threshold, 2 trouble with the config or at least one check; 2 wins over 1. docs/ci.md has the
    config, baselines, and workflows for GitHub and GitLab.
    """
    request, voices = line.request(CiRequest), line.voices
    voices.refuse()
    document = answer_ci(request, TERMINAL)
    _tell(document, voices)
    code = int(document["verdict"]["exit_code"])
    return 0 if voices.exit_zero and code == 1 else code


def _tell(document: "Document", voices: "Voices") -> None:
    """Every voice that was asked for, whatever becomes of others; the first error at the end."""
    from ..reports.ci.services import badge_json, junit_xml
    from ..reports.ci.text import render_ci

    said: list[Callable[[], None]] = [
        partial(
            emit,
            document,
            render_ci,
            as_json=voices.as_json,
            output=voices.target,
            force=voices.force,
        )
    ]
    for path, text in ((voices.junit, junit_xml), (voices.badge, badge_json)):
        if path is not None:
            said.append(partial(_write, path, text, document, voices.force))
    here = os.environ.get("GITHUB_ACTIONS") == "true"
    if here if voices.github is None else voices.github:
        said.append(partial(_annotate, document))
    said.append(partial(voices.scalars, document))
    errors: list[RoutectlError] = []
    for say in said:
        try:
            say()
        except RoutectlError as error:
            errors.append(error)
    for other in errors[1:]:
        note(str(other))
    if errors:
        raise errors[0]


def _write(
    path: Path, text: "Callable[[Document], str | bytes]", document: "Document", force: bool
) -> None:
    """JUnit, or a badge."""
    from ..files.writing import replacing

    found = text(document)
    with replacing(path, force=force) as stream:
        stream.write(found if isinstance(found, bytes) else found.encode())
    note(f"wrote {path}")


def _annotate(document: "Document") -> None:
    """GitHub's annotations, and the summary of the step."""
    from ..reports.ci.services import github_annotations, github_summary

    sys.stderr.write(github_annotations(document))  # read there too, and not the answer
    _append_summary(github_summary(document))


def _append_summary(text: str) -> None:
    """Add to the summary of the step that runs, where there is one."""
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        note("GITHUB_STEP_SUMMARY is not set: no step summary")
        return
    try:
        with open(name, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise RoutectlError(f"{name}: cannot be written: {error.strerror}") from None
