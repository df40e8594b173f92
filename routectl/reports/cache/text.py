"""The cache's document as terminal text."""

from rich.console import Console

from ..text.tables import Column, print_line, print_table
from ..text.wording import amount, bytes_text, plural
from .schema import CacheDocument, CacheEntry

__all__ = ["render_cache"]

_NAME = 12  # characters of a name, enough to tell it


def render_cache(doc: CacheDocument, console: Console) -> None:
    """Print a routectl.cache/1 document."""
    entries = doc["entries"]
    size = f"{bytes_text(doc['bytes'])} of {bytes_text(doc['most_bytes'])}"
    print_line(console, "cache", f"{doc['folder']}  ({len(entries):,} kept, {size})")
    if doc["removed"]:
        print_line(console, "removed", plural(len(doc["removed"]), "file"))
    for name in doc["in_use"]:
        print_line(console, "in use", f"{name}: another run makes or reads it")
    if not entries:
        return
    console.print()
    print_table(
        console,
        [
            Column("name", [one["name"][:_NAME] for one in entries]),
            Column("size", [_size(one) for one in entries]),
            Column("used", [one["used"][:16].replace("T", " ") for one in entries], 1),
            Column("mode", [one["mode"] or "-" for one in entries], 2),
            Column("tokens", [_count(one["tokens"]) for one in entries], 3),
            Column("checkpoint", [one["checkpoint"] or "-" for one in entries]),
            Column("dump", [one["dump"] or "-" for one in entries]),
        ],
    )


def _size(one: CacheEntry) -> str:
    return bytes_text(one["bytes"]) + ("" if one["finished"] else ", unfinished")


def _count(number: int | None) -> str:
    return "-" if number is None else amount(number)
