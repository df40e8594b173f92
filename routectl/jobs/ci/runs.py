"""From checks to runs: paths beside the config, ``{}`` matched by name, each run answered."""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError
from ...files.places import is_there, is_uri, place_of
from ..check.request import CheckRequest, answer_check
from ..diff.request import DiffRequest, answer_diff, refuse_incomparable
from ..inputs import parse_input
from ..progress import Progress
from ..reading import Reading
from ..staleness.request import answer_staleness
from .config import Check, Request
from .patterns import BRACES, beside, named, names_in

if TYPE_CHECKING:
    from ...ops.diff.thresholds import Baseline
    from ...reports.ci.schema import RunSubject
    from ...reports.document import Document

__all__ = ["CheckRun", "answer_run", "limits_of", "runs_of_check", "trouble_in"]

_NAMED = ("at", "candidates")  # NAME=WHERE each
_DATA = ("old", "new", "rerun", "logprobs", "dump", "against", *_NAMED)
_PATHS = (*_DATA, "cache")


@dataclass(frozen=True, slots=True)
class CheckRun:
    """One run of a check: the request with its paths; key is what ``{}`` stands for, or None."""

    check: Check
    key: str | None
    request: Request

    @property
    def name(self) -> str:
        """The check's name, with the key where there is one: ``mismatch[step-7]``."""
        return self.check.name if self.key is None else f"{self.check.name}[{self.key}]"

    @property
    def inputs(self) -> dict[str, Any]:
        """The data that is read, by option, as far as it is given."""
        given = {n: getattr(self.request, n) for n in _DATA if hasattr(self.request, n)}
        return {
            name: list(value) if isinstance(value, tuple) else str(value)
            for name, value in given.items()
            if value
        }


def runs_of_check(check: Check, folder: Path) -> list[CheckRun]:
    """The runs of a check: one, or with ``{}`` in its inputs one for every name that it matches.

    A name that matches one input alone is a run too: it fails for the file that is missing.
    Raises RoutectlError where nothing is matched.
    """
    placed = _mapped(check.request, partial(_beside, folder), partial(_is_there, folder))
    patterns = [text for text in _paths(placed) if BRACES in text]
    if not patterns:
        return [CheckRun(check, None, placed)]
    keys = sorted({key for pattern in patterns for key in names_in(pattern)})
    if not keys:
        raise RoutectlError(f"{patterns[0]}: no file matches it")
    return [CheckRun(check, key, _mapped(placed, partial(_named, key), is_there)) for key in keys]


def _is_there(folder: Path, text: str) -> bool:
    return is_there(text if is_uri(text) else str(folder / text))


def _beside(folder: Path, text: str, one: bool) -> str:
    """A path of the config, from where the command runs."""
    if text == "-":
        raise RoutectlError("-: a check reads files, and not standard input")
    return str(folder / text) if one and not is_uri(text) else beside(folder, text)


def _named(key: str, text: str, one: bool) -> str:
    """A path with a key in place of the braces."""
    return text.replace(BRACES, key) if one else named(text, key)


def _mapped(
    request: Request, change: Callable[[str, bool], str], exists: Callable[[str], bool]
) -> Request:
    """The request with its paths changed, each told whether it is of one file, and so no glob.

    Of NAME=WHERE, WHERE is; of PATH::start=0, the path; a reference that is the name of a candidate
    is none. ``exists`` tells a path with :: in it.
    """

    def placed(text: str) -> str:
        return str(parse_input(text, exists).placed(lambda path: change(path, False)))

    names = {text.partition("=")[0].strip() for text in getattr(request, "candidates", ())}
    changed: dict[str, Any] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in _NAMED:
            changed[field.name] = tuple(
                f"{name}{equals}{placed(where)}" if where else f"{name}{equals}"
                for name, equals, where in (text.partition("=") for text in value)
            )
        elif field.name == "against" and value in names:
            continue
        elif field.name in _PATHS and value is not None:
            is_file = isinstance(value, Path)
            changed[field.name] = place_of(change(str(value), True)) if is_file else placed(value)
        elif field.name == "reading":
            changed["reading"] = _read_from(value, change, exists)
    return replace(request, **changed)


def _read_from(
    reading: Reading, change: Callable[[str, bool], str], exists: Callable[[str], bool]
) -> Reading:
    """How a dump is read: a model that is a path beside the config, and no name and no sizes."""
    if reading.expert_map is not None:
        reading = replace(reading, expert_map=place_of(change(str(reading.expert_map), True)))
    model = reading.model
    if not isinstance(model, str) or not (exists(model) or BRACES in model):
        return reading
    return replace(reading, model=change(model, True))


def _paths(request: Request) -> Iterator[str]:
    """The paths of data."""
    for name in _DATA:
        value = getattr(request, name, None)
        if name in _NAMED:
            yield from (parse_input(text.partition("=")[2]).path for text in value or ())
        elif value is not None:
            yield parse_input(str(value)).path


def limits_of(request: Request) -> tuple[Any, ...]:
    """The thresholds of a request; a check has none."""
    return () if isinstance(request, CheckRequest) else request.limits


def answer_run(
    run: CheckRun, baseline: "Baseline | RoutectlError | None", progress: Progress
) -> "Document":
    """What a run came to, in an entry of routectl.ci/1; trouble too, a bug of ours among it.

    ``baseline`` is None where there is none of this run, an error where its file cannot be read:
    that is the trouble of those that need it.
    """
    from ...reports.ci.document import answered, troubled

    about: RunSubject = {
        "name": run.name,
        "check": run.check.name,
        "key": run.key,
        "verb": run.check.verb,
        "inputs": run.inputs,
    }
    began = time.perf_counter()
    found: list[Document] = []

    def work() -> None:
        document = _answer(run.request, _known_baseline(run, baseline), progress)
        found.append(answered(about, document, time.perf_counter() - began))

    trouble = trouble_in(work)
    return troubled(about, *trouble, time.perf_counter() - began) if trouble else found[0]


def trouble_in(work: Callable[[], None]) -> tuple[str, list[str]] | None:
    """What went wrong in a work, in a line, and lines that help: a hint, or where a bug of ours is.

    None where nothing did. Whatever it is, other checks go on.
    """
    try:
        work()
    except RoutectlError as error:
        return str(error), [] if error.hint is None else [f"hint: {error.hint}"]
    except MemoryError:
        return "out of memory", []
    except Exception as error:  # noqa: BLE001 - as in cli/main.py
        lines = "".join(traceback.format_exception(error)).splitlines()
        return "this is a bug in routectl; please report it with the lines below", lines
    return None


def _known_baseline(
    run: CheckRun, baseline: "Baseline | RoutectlError | None"
) -> "Baseline | None":
    """The baseline. Raises RoutectlError, before anything is run, where a relative threshold cannot
    be held against it.
    """
    relative = [limit for limit in limits_of(run.request) if limit.relative_to is not None]
    if not isinstance(baseline, RoutectlError):
        if relative and baseline is None:
            raise RoutectlError(
                f"threshold {relative[0].text!r} is relative to a baseline, and this check has "
                "none",
                hint="the same with --update-baseline stores what is measured now",
            )
        return baseline
    if relative:
        raise baseline
    return None


def _answer(request: Request, baseline: "Baseline | None", progress: Progress) -> "Document":
    """The document of the verb, by the function that its command calls."""
    if isinstance(request, DiffRequest):
        document = answer_diff(request, progress, baseline=baseline)
        refuse_incomparable(document)
        return document
    if isinstance(request, CheckRequest):
        return answer_check(request, progress)
    return answer_staleness(request, progress, baseline=baseline)
