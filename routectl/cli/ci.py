"""``routectl ci [CONFIG]``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError
from ..jobs.ci.baseline import Numbers, kept_numbers, read_baseline, write_baseline
from ..jobs.ci.config import Check, CiConfig, read_checks
from ..jobs.ci.runs import CheckRun, answer_run, limits_of, runs_of_check
from .dashboards import Step, Tensorboard, Wandb, dashboards_to
from .options import ExitZero, Force, Json, Output
from .output import check_output, emit, note

if TYPE_CHECKING:
    from ..reports.diff.document import Document

__all__ = ["ci_command"]

_CONFIG = typer.Argument(
    metavar="[CONFIG]",
    show_default=False,
    help="TOML with a table [checks.NAME] a check; [tool.routectl] of ./pyproject.toml when not "
    "given.",
)
_ONLY = typer.Option("--only", metavar="NAME", help="Run this check and no other; repeatable.")
_UPDATE = typer.Option(
    "--update-baseline", help="Store what is measured now: relative thresholds start from there."
)
_JUNIT = typer.Option("--junit", metavar="PATH", help="Write JUnit XML, a test case a run.")
_BADGE = typer.Option("--badge", metavar="PATH", help="Write the JSON of a shields.io endpoint.")
_GITHUB = typer.Option(
    "--github/--no-github",
    show_default=False,
    help="Annotations, and a summary to $GITHUB_STEP_SUMMARY; when not given, where "
    "GITHUB_ACTIONS is true.",
)


@dataclass(frozen=True, slots=True)
class _Voices:
    """What is written beside the report."""

    junit: Path | None
    badge: Path | None
    github: bool
    force: bool

    def write(self, document: "Document") -> None:
        from ..files import replacing
        from ..reports.ci.services import (
            badge_json,
            github_annotations,
            github_summary,
            junit_xml,
        )

        for path, text in ((self.junit, junit_xml), (self.badge, badge_json)):
            if path is not None:
                found = text(document)
                with replacing(path, force=self.force) as stream:
                    stream.write(found if isinstance(found, bytes) else found.encode())
                note(f"wrote {path}")
        if self.github:
            sys.stderr.write(github_annotations(document))  # read there too, and not the answer
            _append_summary(github_summary(document))


def ci_command(
    config: Annotated[Path | None, _CONFIG] = None,
    only: Annotated[list[str] | None, _ONLY] = None,
    update_baseline: Annotated[bool, _UPDATE] = False,
    junit: Annotated[Path | None, _JUNIT] = None,
    badge: Annotated[Path | None, _BADGE] = None,
    github: Annotated[bool | None, _GITHUB] = None,
    tensorboard: Tensorboard = None,
    wandb_offline: Wandb = None,
    step: Step = None,
    exit_zero: ExitZero = False,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> int:
    """Run the checks of a config: each a diff, a check or a staleness with its thresholds.

    All are run, whatever the others come to. Exit status: 0 all passed, 1 at least one is over a
    threshold, 2 trouble with the config or at least one check; 2 wins over 1. docs/ci.md has the
    config, baselines, and workflows for GitHub and GitLab.
    """
    from ..reports.ci.document import ci_document
    from ..reports.ci.text import render_ci

    asked = read_checks(Path("pyproject.toml") if config is None else config)
    checks = _chosen(asked, only or ())
    target = check_output(output, force)
    here = os.environ.get("GITHUB_ACTIONS") == "true"
    voices = _Voices(
        _file("--junit", junit, force),
        _file("--badge", badge, force),
        here if github is None else github,
        force,
    )
    boards = dashboards_to(tensorboard, wandb_offline, step)
    accepted = read_baseline(asked.baseline)
    runs: list[Document] = []
    kept: dict[str, dict[str, float]] = {}
    for check in checks:
        for run, entry in _entries(check, asked.path.parent, accepted, update_baseline):
            runs.append(entry)
            if run is not None and entry["status"] != "trouble":
                kept[entry["name"]] = _accepted(run, entry)
    if update_baseline and kept:
        _store(asked, accepted, kept)
    known = asked.baseline.exists()
    document = ci_document(str(asked.path), str(asked.baseline) if known else None, runs)
    emit(document, render_ci, as_json=as_json, output=target, force=force)
    voices.write(document)
    boards.write(document)
    code = int(document["verdict"]["exit_code"])
    return 0 if exit_zero and code == 1 else code


def _chosen(config: CiConfig, only: "list[str] | tuple[()]") -> list[Check]:
    """The checks to run. Raises RoutectlError for a name that none has."""
    names = [check.name for check in config.checks]
    for name in only:
        if name not in names:
            raise RoutectlError(f"--only {name}: expected one of {', '.join(names)}")
    return [check for check in config.checks if not only or check.name in only]


def _file(flag: str, path: Path | None, force: bool) -> Path | None:
    """A file that is written beside the report; refused before any work is done."""
    if path is not None and check_output(path, force) is None:
        raise RoutectlError(f"{flag} -: expected a file")
    return path


def _entries(
    check: Check, folder: Path, accepted: Numbers, update: bool
) -> "list[tuple[CheckRun | None, Document]]":
    """A check's runs, each with its entry; one entry without a run where none is found."""
    from ..ops.diff.thresholds import Baseline
    from ..reports.ci.document import troubled

    try:
        runs = runs_of_check(check, folder)
    except RoutectlError as error:
        about: Document = {
            "name": check.name,
            "check": check.name,
            "key": None,
            "verb": check.verb,
            "inputs": {},
        }
        return [(None, troubled(about, str(error), error.hint, 0.0))]
    found: list[tuple[CheckRun | None, Document]] = []
    for run in runs:
        numbers = accepted.get(run.name)
        known = None if numbers is None and not update else Baseline(numbers or {}, update)
        found.append((run, answer_run(run, known)))
    return found


def _accepted(run: CheckRun, entry: "Document") -> dict[str, float]:
    """What a baseline keeps of a run."""
    from ..ops.diff.thresholds import scalar_name

    limits = limits_of(run.request)
    layered = {
        scalar_name(one.relative_to) for one in limits if one.relative_to and one.layer is not None
    }
    return kept_numbers(entry["metrics"], layered)


def _store(config: CiConfig, before: Numbers, kept: Numbers) -> None:
    """Write what was measured over what was accepted before; checks that are gone go."""
    names = {check.name for check in config.checks}
    numbers = {name: of for name, of in before.items() if name.partition("[")[0] in names}
    write_baseline(config.baseline, {**numbers, **kept})
    note(f"wrote {config.baseline}: accepted {', '.join(sorted(kept))}")


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
