"""What ``routectl ci`` is asked: the checks of a config run, and the document of them all."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, check_choice
from ..options import argument, option
from ..progress import SILENT, Progress
from .baseline import Numbers, kept_numbers, read_baseline, write_baseline
from .config import Check, CiConfig, read_checks
from .runs import CheckRun, answer_run, limits_of, runs_of_check, trouble_in

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["CiRequest", "answer_ci"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CiRequest:
    """A config, None for [tool.routectl] of ./pyproject.toml, and which of its checks are run."""

    config: Path | None = argument(
        None,
        metavar="[CONFIG]",
        help="TOML with a table [checks.NAME] a check; [tool.routectl] of ./pyproject.toml when "
        "not given.",
    )
    only: tuple[str, ...] = option(
        (), metavar="NAME", help="Run this check and no other; repeatable."
    )
    update_baseline: bool = option(
        False, help="Store what is measured now: relative thresholds start from there."
    )


def answer_ci(request: CiRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.ci/1 document: every run, whatever the others came to."""
    from ...reports.ci.document import ci_document

    update = request.update_baseline
    asked = read_checks(Path("pyproject.toml") if request.config is None else request.config)
    checks = _chosen(asked, request.only)
    accepted = _accepted_before(asked.baseline, update)
    runs: list[Document] = []
    kept: dict[str, dict[str, float]] = {}
    for check in checks:
        for run, entry in _entries(check, asked.path.parent, accepted, update, progress):
            runs.append(entry)
            if run is not None and entry["status"] != "trouble":
                kept[entry["name"]] = _accepted(run, entry)
    if update and kept and not isinstance(accepted, RoutectlError):
        _store(asked, accepted, kept, progress)
    known = asked.baseline.exists()
    return ci_document(str(asked.path), str(asked.baseline) if known else None, runs)


def _accepted_before(path: Path, update: bool) -> Numbers | RoutectlError:
    """The accepted numbers, or why they cannot be read. Raises that where they are to be replaced:
    numbers of checks that do not run now would be lost.
    """
    try:
        return read_baseline(path)
    except RoutectlError as error:
        if update:
            raise
        return error


def _chosen(config: CiConfig, only: tuple[str, ...]) -> list[Check]:
    """The checks to run. Raises RoutectlError for a name that none has."""
    names = [check.name for check in config.checks]
    for name in only:
        check_choice("--only", name, names)
    return [check for check in config.checks if not only or check.name in only]


def _entries(
    check: Check,
    folder: Path,
    accepted: Numbers | RoutectlError,
    update: bool,
    progress: Progress,
) -> "list[tuple[CheckRun | None, Document]]":
    """A check's runs, each with its entry; one entry without a run where none is found."""
    from ...ops.diff.thresholds import Baseline
    from ...reports.ci.document import troubled

    runs: list[CheckRun] = []
    trouble = trouble_in(lambda: runs.extend(runs_of_check(check, folder)))
    if trouble is not None:
        about: Document = {
            "name": check.name,
            "check": check.name,
            "key": None,
            "verb": check.verb,
            "inputs": {},
        }
        return [(None, troubled(about, *trouble, 0.0))]
    found: list[tuple[CheckRun | None, Document]] = []
    for run in runs:
        known: Baseline | RoutectlError | None
        if isinstance(accepted, RoutectlError):
            known = accepted
        else:
            numbers = accepted.get(run.name)
            known = None if numbers is None and not update else Baseline(numbers or {}, update)
        found.append((run, answer_run(run, known, progress)))
    return found


def _accepted(run: CheckRun, entry: "Document") -> dict[str, float]:
    """What a baseline keeps of a run."""
    from ...ops.diff.thresholds import scalar_name

    limits = limits_of(run.request)
    layered = {
        scalar_name(one.relative_to) for one in limits if one.relative_to and one.layer is not None
    }
    return kept_numbers(entry["metrics"], layered)


def _store(config: CiConfig, before: Numbers, kept: Numbers, progress: Progress) -> None:
    """Write what was measured over what was accepted before; checks that are gone go."""
    names = {check.name for check in config.checks}
    numbers = {name: of for name, of in before.items() if name.partition("[")[0] in names}
    write_baseline(config.baseline, {**numbers, **kept})
    progress.note(f"wrote {config.baseline}: accepted {', '.join(sorted(kept))}")
