"""What ``routectl cache`` is asked: to list what is kept of checkpoints, or to let go of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError, did_you_mean
from ..options import argument, check_bounds, option
from ..progress import SILENT, Progress
from .cache import Cache, Entry

if TYPE_CHECKING:
    from ...reports.cache.schema import CacheDocument, CacheEntry

__all__ = ["CacheRequest", "answer_cache"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """The entries of the user's cache that are listed or let go of; all where none is named."""

    names: tuple[str, ...] = argument(
        (), metavar="NAME", help="Only these; the beginning of a name is enough."
    )
    clear: bool = option(False, help="Let go of them: they are computed again when asked for.")

    def __post_init__(self) -> None:
        check_bounds(self)


def answer_cache(request: CacheRequest, progress: Progress = SILENT) -> "CacheDocument":
    """The routectl.cache/1 document: what is there after what was asked.

    Raises RoutectlError for a name that nothing has.
    """
    cache = Cache()
    chosen = _chosen(cache.entries(), request.names)
    removed: list[str] = []
    in_use: list[str] = []
    if request.clear:
        for one in chosen:
            (removed if cache.remove(one.name) else in_use).append(one.name)
        chosen = [one for one in chosen if one.name in in_use]
    return {
        "schema": "routectl.cache/1",
        "folder": str(cache.folder),
        "bytes": sum(one.bytes for one in cache.entries()),
        "most_bytes": cache.most_bytes,
        "entries": [_entry(one) for one in chosen],
        "removed": removed,
        "in_use": in_use,
    }


def _chosen(entries: list[Entry], names: tuple[str, ...]) -> list[Entry]:
    """The entries whose names begin so."""
    for name in names:
        if not any(one.name.startswith(name) for one in entries):
            raise RoutectlError(
                f"{name}: nothing in the cache has a name that begins so",
                hint=did_you_mean(name, (one.name for one in entries))
                or "routectl cache lists all",
            )
    return [one for one in entries if not names or one.name.startswith(names)]


def _entry(one: Entry) -> "CacheEntry":
    made = one.about.get("made")
    return {
        "name": one.name,
        "bytes": one.bytes,
        "made": _time(made) if isinstance(made, int | float) else None,
        "used": _time(one.used),
        "finished": one.is_whole,
        "checkpoint": _told(one.about, "checkpoint", str),
        "dump": _told(one.about, "dump", str),
        "mode": _told(one.about, "mode", str),
        "samples": _told(one.about, "samples", int),
        "tokens": _told(one.about, "tokens", int),
    }


def _told(about: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """What an entry says of itself, None where it is of another type."""
    found = about.get(name)
    return found if isinstance(found, kind) else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
