"""``routectl staleness --series DIR``: the steps of a run, each a report or a folder of dumps."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FormatError, RoutectlError
from ...files.places import place_of
from ..saved import read_report
from .question import Question
from .versions import mode_of, version_of

if TYPE_CHECKING:
    from ...dump import Dump
    from ...reports.document import Document

__all__ = ["series_of"]

_SCHEMA = "routectl.staleness/1"
_ROLLOUT = "rollout"
_NUMBER = re.compile(r"\d+")


def series_of(folder: Path, question: Question, open_at: "Callable[[str], Dump]") -> "Document":
    """The routectl.staleness_series/1 document of a folder.

    Raises FormatError where no entry is a step, and, where there are thresholds, where one from
    the last step on is broken: what they are held against is then not known.
    """
    from ...reports.staleness.series import Step, series_document

    try:
        entries = sorted(path for path in folder.iterdir() if not _is_hidden(path))
    except OSError as error:
        raise FormatError(f"{folder}: cannot be read: {error.strerror}") from None
    steps: dict[int, Step] = {}
    skipped: list[tuple[str, str]] = []
    measured = any(path.is_dir() for path in entries)  # each with a line of its own
    line = question.progress.counting("reading", len(entries), "steps", lambda rate: "")
    with nullcontext(lambda work: None) if measured else line as advance:
        for path in entries:
            advance(1)
            number = _number_of(path)
            try:
                if number is None:
                    raise FormatError("no number in its name says which step it is")
                if number in steps:
                    raise FormatError(f"step {number} is there already: {steps[number].entry}")
                document = _document_of(path, question, open_at)
            except RoutectlError as error:
                skipped.append((path.name, str(error).removeprefix(f"{path}: ")))
                continue
            steps[number] = Step(number, path.name, document)
    if not steps:
        why = f": {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise FormatError(f"{folder}: no step in it{why}")
    last = max(steps)
    for name, reason in skipped:
        number = _number_of(place_of(name))
        if question.limits and number is not None and number > last:
            raise FormatError(f"{folder / name}: the last step cannot be judged: {reason}")
    ordered = [steps[number] for number in sorted(steps)]
    return series_document(str(folder), ordered, skipped, question.limits, question.fail_on)


def _is_hidden(path: Path) -> bool:
    """Whether an entry is no step by its name: hidden, or what 0.1 kept beside a report."""
    return path.name.startswith(".") or (
        path.name.endswith(".versions") and path.with_name(path.stem).exists()
    )


def _number_of(path: Path) -> int | None:
    """The last number in a name, its ending aside; a report of step 30 may be named step-30.json"""
    stem = path.name.removesuffix(".json")
    found = _NUMBER.findall(stem)
    return int(found[-1]) if found else None


def _document_of(path: Path, question: Question, open_at: "Callable[[str], Dump]") -> "Document":
    """The staleness document of one entry."""
    return _measured(path, question, open_at) if path.is_dir() else _report(path)


def _report(path: Path) -> "Document":
    """A report that was written before."""
    if path.suffix != ".json":
        raise FormatError(f"{path}: neither a folder nor a report NAME.json")
    found = read_report(path, _SCHEMA)
    _refuse_damaged(path, found)
    return found


def _refuse_damaged(path: Path, document: "Document") -> None:
    """Raise FormatError where a report lacks what a step is made of."""
    from ...reports.staleness.series import Step, series_document

    try:
        series_document("", [Step(0, "", document)], [])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        told = f": no {error.args[0]}" if isinstance(error, KeyError) else ""
        raise FormatError(f"{path}: not a whole report of {_SCHEMA}{told}") from None


def _measured(path: Path, question: Question, open_at: "Callable[[str], Dump]") -> "Document":
    """A folder of a rollout and a dump a version, measured now."""
    rollouts = sorted(path.glob(f"{_ROLLOUT}.*"))
    if len(rollouts) != 1:
        raise FormatError(f"{path}: {len(rollouts)} files named {_ROLLOUT}.*, expected one")
    routes: dict[str, dict[str, Dump]] = {}
    for file in sorted(path.iterdir(), key=_by_number):
        if file == rollouts[0] or file.name.startswith(".") or file.name == "config.json":
            continue
        dump = open_at(str(file))
        mode = mode_of(dump)
        of_version = routes.setdefault(file.name.split(".")[0], {})
        if mode in of_version:
            raise FormatError(f"{file}: {mode} routes of its version are there twice")
        of_version[mode] = dump
    if not routes:
        raise FormatError(f"{path}: no version beside {rollouts[0].name}")
    versions = [version_of(name, of) for name, of in routes.items()]
    rollout = open_at(str(rollouts[0]))
    question.refuse_one(rollout, [version.name for version in versions])
    return replace(question, limits=()).answer(rollout, versions)[1]


def _by_number(path: Path) -> tuple[int, str]:
    """Versions in the order of the numbers that end their names, else by name."""
    name = path.name.split(".")[0]
    found = re.search(r"\d+$", name)
    return (int(found[0]) if found else 0, name)
