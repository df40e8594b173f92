"""A part of some work counted and written as a partial: what ``--shard`` and ``--partial`` ask."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...errors import FormatError, RoutectlError
from ...files.places import place_of
from ..held import HeldDump
from ..options import build, check_bounds, groups_of, options_of
from ..progress import Progress
from .partials import PARTIAL, PartialFile, digest_of, packed_body, save
from .run import counted
from .work import Work

if TYPE_CHECKING:
    from ...reports.dumps import WrittenDocument

__all__ = ["Mergeable", "PartedWork", "asked_fields", "request_from", "write_partial"]

_R = TypeVar("_R")


class PartedWork(Work[Any], Protocol):
    """Work whose parts are kept in files; ``identity`` is the same of all parts."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which samples there are: see ``digest_of``."""


@dataclass(frozen=True, slots=True)
class Mergeable:
    """What ``routectl merge`` needs of a command whose partials add up.

    counted  what ``Work.partial`` gives: a dataclass of dataclasses, arrays, numbers and text
    request  its request's class
    answer   the document of what all parts counted, and of a request: as the command gives it
    """

    counted: type[Any]
    request: type[Any]
    answer: Callable[[Any, Any], Any]


def asked_fields(request: Any) -> dict[str, Any]:
    """What a request asks, by the names of its fields, groups too; without what is aside.

    Raises RoutectlError for a dump in memory, or what else a program alone can give.
    """
    found: dict[str, Any] = {}
    for one, about in options_of(type(request)):
        if not about.aside:
            found[one.name] = _plain(getattr(request, one.name))
    for name in groups_of(type(request)):
        inner = asked_fields(getattr(request, name))
        if inner:
            found[name] = inner
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, HeldDump)):
        return value
    raise RoutectlError("a partial is of files: what a program holds in memory cannot be kept")


def request_from(kind: type[_R], found: dict[str, Any], path: Path) -> _R:
    """The request that ``asked_fields`` was given. Raises FormatError where it is none."""
    try:
        request: _R = build(kind, _values(kind, found))
        check_bounds(request)
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: damaged: its request: {error}") from None
    return request


def _values(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The values of a request and its groups, by field."""
    types = {one.name: one.type for one in fields(kind)}
    values: dict[str, Any] = {}
    for name, group in groups_of(kind).items():
        values |= _values(group, found.get(name, {}))
    for name, value in found.items():
        if name not in types:
            raise ValueError(f"no option {name!a:.60}")
        if isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, str) and types[name] in (Path, Path | None):
            values[name] = place_of(value)
        elif not isinstance(value, dict):
            values[name] = value
    return values


def write_partial(
    verb: str,
    request: Any,
    opening: "Callable[[], PartedWork]",
    progress: Progress,
    *,
    told: str,
) -> "WrittenDocument":
    """Count a part of some work and write it where ``request.share`` says: routectl.written/1.

    The request has fields crew, share and force; a file that is there is refused before
    ``opening`` opens anything. ``told`` is what the document says was counted. A shard that cannot
    be read is told in the partial, and what could be counted is kept; RoutectlError is raised then,
    when it is written.
    """
    from ...files.writing import refuse_existing
    from ...reports.dumps import written_document

    path = request.share.partial
    refuse_existing(path, force=request.force)
    work = opening()
    part, parts = request.share.place
    asked = asked_fields(request)
    found = counted(work, request.crew, progress)
    if found.partial is None:
        raise found.errors[0]
    size, body = packed_body(found.partial)
    partial = PartialFile(
        schema=PARTIAL,
        verb=verb,
        request=asked,
        digest=digest_of(asked, *work.identity),
        part=part,
        of=parts,
        failed=[str(error) for error in found.errors],
        size=size,
        body=body,
    )
    save(path, partial, force=request.force)
    progress.note(f"wrote {path}: part {part} of {parts}")
    if found.errors:
        raise found.errors[0]
    return written_document(told, str(path), found.samples)
