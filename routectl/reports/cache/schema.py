"""The types of routectl.cache/1, as docs/json.md has them."""

from typing import Literal, TypedDict

__all__ = ["CacheDocument", "CacheEntry"]


class CacheEntry(TypedDict):
    """The routes of a checkpoint for a dump's tokens; what is not known is None.

    made and used are ISO 8601; finished tells whole ones from the parts of a run that was ended.
    """

    name: str
    bytes: int
    made: str | None
    used: str
    finished: bool
    checkpoint: str | None
    dump: str | None
    mode: str | None
    samples: int | None
    tokens: int | None


class CacheDocument(TypedDict):
    """routectl.cache/1."""

    schema: Literal["routectl.cache/1"]
    folder: str
    bytes: int
    most_bytes: int
    entries: list[CacheEntry]
    removed: list[str]
    in_use: list[str]
