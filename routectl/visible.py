r"""Text of others as it may be shown: in a terminal, a log, an error, a file name.

A foreign string may hold what moves a cursor, hides a word, or begins a line of its own. Shown,
each such character is its escape: ``\n``, ``\x1b``, ``\u202e``.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

__all__ = ["quoted", "visible"]

_FIGURES = (int, float, complex, bool, type(None))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSEEN = re.compile(  # Default_Ignorable_Code_Point of Unicode 16 that counts as printable
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_WORKFLOW = (
    "add-mask add-matcher add-path debug echo endgroup error group internal-set-repo-path notice "
    "remove-matcher save-state set-env set-output stop-commands warning"
).replace(" ", "|")
# What a log's reader takes for a command, and in what is folded any part may begin a line. GitHub:
# actions/runner, ActionCommand.cs, `::name` first in a line or `##[name]` anywhere in it, of names
# in any case. Azure has ##vso[, TeamCity ##teamcity[, GitLab section_start:TIME.
_COMMAND = re.compile(
    rf":(?=:(?:{_WORKFLOW}|[\w-]+::))|^:(?={_WORKFLOW})"
    r"|#(?=#\w*\[)|^#(?=\w*\[)|(?:(?<=section_start)|(?<=section_end)):(?=\d)",
    re.IGNORECASE,
)


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
    )


def _shown(char: str) -> str:
    """A character that is seen as itself, printable or a space that ends no line; or its escape."""
    seen = char.isprintable() or unicodedata.category(char) == "Zs"
    return char if seen and not _UNSEEN.match(char) else _escaped(char)


def _line(text: str) -> str:
    """Text on one line, each character shown, no command in it."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_shown, text))
    if ":" in text or "#" in text:
        text = _COMMAND.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text


def visible(text: object, most: int = 4000, *, end: int = 0) -> str:
    """``text`` on one line, each character shown, cut with an ellipsis after ``most``.

    What is not printable (controls, C1, bidi and format characters, line ends, surrogates, private
    and unassigned ones) or has no width is escaped, and what would begin a command of a log's
    reader has an escaped colon or hash. Of long text the last ``end`` characters are kept too.
    What is visible already stays as it is.
    """
    whole = str(text)
    shown = _line(whole[: most + 1])
    if len(whole) <= most and len(shown) <= most:
        return shown
    last = _line("…" + whole[-end:])[-end:] if end else ""
    return f"{shown[: most - end]}…{last}"


def quoted(value: object, most: int = 60) -> str:
    """The repr of a foreign value, visible and cut; a large one is not written out first.

    An object, within a list too, is the name of its type: its own repr is never called.
    """
    try:
        return visible(repr(_part(value, most, iter(range(most)))), most)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        return f"<{type(value).__name__}>"


def _part(value: Any, most: int, left: Iterator[int]) -> Any:
    """As much of a value as ``most`` characters of its repr need; each item takes one of left."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        return value[: most + 1]
    if kind in (list, tuple, set, frozenset):
        return kind([_part(item, most, left) for item, _ in zip(value, left, strict=False)])
    if kind is dict:
        pairs = zip(value.items(), left, strict=False)
        return {_part(key, most, left): _part(inner, most, left) for (key, inner), _ in pairs}
    return value if kind in _FIGURES else _Named(kind.__name__)


class _Named:
    """What stands for an object."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"
