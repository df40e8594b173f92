"""Partials of one request added up, and the document of the whole."""

from dataclasses import dataclass
from glob import has_magic
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError
from ...files.places import glob_places, place_of
from ...visible import quoted
from ..options import argument
from ..progress import SILENT, Progress
from ..shards.partials import PartialFile, counted_in, read_partial
from ..shards.parting import Mergeable, request_from

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGED", "MergeRequest", "answer_merge"]

MERGED = (  # of each command whose partials merge its room, which has MERGEABLE
    ("check", "check.merging"),
    ("diff", "diff.merging"),
    ("show", "show.merging"),
    ("staleness", "staleness.merging"),
    ("verify", "pack.merging"),
)
_DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_TOLD = 8  # parts that are missing, by number


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """All parts of some work, in any order."""

    partial: tuple[str, ...] = argument(metavar="PARTIAL", help="What --partial wrote, all parts.")


def answer_merge(request: MergeRequest, progress: Progress = SILENT) -> "Document":
    """The document that the command gives for all parts at once, byte for byte.

    Thresholds are those that the parts were asked with. Raises FormatError for what is no partial,
    MismatchError for partials of several requests, for one part twice and for parts that are
    missing.
    """
    paths = [path for name in request.partial for path in _paths_of(name)]
    verb = _refuse_unlike(paths)
    room = import_module(f"..{dict(MERGED)[verb]}", __package__)
    how: Mergeable = room.MERGEABLE
    total: Any = None
    with progress.counting("merging", len(paths), "parts", lambda _: "") as advance:
        for path in paths:
            partial = read_partial(path)
            counted = counted_in(partial, how.counted, path)
            try:
                total = counted if total is None else total + counted
            except _DAMAGED as error:
                raise _damaged(path, error) from None
            advance(0)
    try:
        document: Document = how.answer(total, request_from(how.request, partial.request, path))
    except _DAMAGED as error:
        raise _damaged(path, error) from None
    return document


def _paths_of(name: str) -> list[Path]:
    """The path of a partial, or those that a glob matches: no shell expands one in a bucket."""
    path = place_of(name)
    if path.exists() or not has_magic(name):
        return [path]
    found = sorted(glob_places(path))
    if not found:
        raise FormatError(f"{name}: no partial matches")
    return found


def _damaged(path: Path, error: Exception) -> FormatError:
    return FormatError(f"{path}: damaged: {type(error).__name__}: {error}")


def _refuse_unlike(paths: list[Path]) -> str:
    """The command of partials that belong together and are all there; none is kept in memory."""
    first: PartialFile | None = None
    seen: dict[int, Path] = {}
    for path in paths:
        partial = read_partial(path)
        if first is None:
            first = partial
        _refuse_other(first, partial, path, paths[0])
        if partial.part in seen:
            raise MismatchError(
                f"{path}: part {partial.part} of {partial.of} is in {seen[partial.part]} too"
            )
        if partial.failed:
            raise MismatchError(
                f"{path}: part {partial.part} was not counted whole: {partial.failed[0]:.300}",
                hint=f"--shard {partial.part}/{partial.of} --partial {path} --force counts it anew",
            )
        seen[partial.part] = path
    assert first is not None
    missing = [n for n in range(1, first.of + 1) if n not in seen]
    if missing:
        more = ", ..." if missing[_TOLD:] else ""
        raise MismatchError(
            f"{len(missing)} of {first.of} parts {'is' if len(missing) == 1 else 'are'} missing: "
            f"{', '.join(map(str, missing[:_TOLD]))}{more}"
        )
    return first.verb


def _refuse_other(first: PartialFile, partial: PartialFile, path: Path, beside: Path) -> None:
    """Refuse a partial that does not belong to the first."""
    verbs = [verb for verb, _ in MERGED]
    if partial.verb not in verbs:
        raise FormatError(f"{path}: got {quoted(partial.verb)}, expected {', '.join(verbs)}")
    for name in ("verb", "of"):
        one, other = getattr(first, name), getattr(partial, name)
        if one != other:
            what = {"verb": "a partial of", "of": "one of so many parts:"}[name]
            raise MismatchError(f"{path}: {what} {other}, where {beside} is of {one}")
    asked = {*first.request, *partial.request}
    other_fields = sorted(n for n in asked if first.request.get(n) != partial.request.get(n))
    if other_fields:
        raise MismatchError(
            f"{path}: of another request than {beside}: other {', '.join(other_fields)}"
        )
    if first.digest != partial.digest:
        raise MismatchError(f"{path}: counted of other samples than {beside}")
