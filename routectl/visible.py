r"""Text of others as it may be shown: in a terminal, a log, an error, a file name.

A foreign string may hold what moves a cursor, hides a word, or begins a line of its own. Shown,
each such character is its escape: ``\n``, ``\x1b``, ``\u202e``.
"""

import re
import unicodedata

__all__ = ["visible"]

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_COMMAND = re.compile(r"::(?=[\w-]+[^:]*::)|##\[")  # actions/runner, ActionCommand.cs


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
    )


def _shows(char: str) -> bool:
    """Whether a character is seen as itself: printable, or a space that ends no line."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def visible(text: object, most: int = 4000) -> str:
    """``text`` on one line, each character shown, cut with an ellipsis after ``most``.

    What is not printable (controls, C1, bidi and format characters, line ends, surrogates, private
    and unassigned ones) is escaped, and what would begin a workflow command has an escaped colon.
    """
    whole = str(text)
    shown = whole[:most]
    if not shown.isprintable():
        shown = "".join(char if _shows(char) else _escaped(char) for char in shown)
    if "::" in shown or "##[" in shown:
        shown = _COMMAND.sub(lambda found: f"\\x{ord(found[0][0]):02x}{found[0][1:]}", shown)
    return shown + "…" * (len(whole) > most)
