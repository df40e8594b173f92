"""Lines that fit a width: broken between words, continued lines indented.

Two spaces or more in a line divide it into parts, commas and semicolons into clauses. What of them
is short is kept on one line, so that a figure stays with its name. A word that no line can hold, a
path say, is broken behind a separator; only what has none is cut anywhere.
"""

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

__all__ = ["broken", "wrapped"]

_PART = re.compile(r"\S+(?: \S+)*")
_CLAUSE = re.compile(r"\S(?:[^,;]|[,;](?! |$))*[,;]?")
_WORD = re.compile(r"\S+(?: (?:%|x|k?B|[MGT]B)(?!\w)\S*)?")  # a unit stays with its number
_PIECES = (  # of a word, behind its separators: the first that make it fit
    re.compile(r"[^/\\]*[/\\]*"),
    re.compile(r"[^,;:=&?_-]*[,;:=&?_-]*"),
    re.compile(r"."),
)
_LEAST = 16  # columns that a continued line has at least, unless the whole width is less

Span = tuple[int, int]


def wrapped(line: str | Text, width: int, hang: int = 0) -> list[Text]:
    """A line as lines of at most ``width`` columns, those after the first indented by ``hang``.

    Characters, styles and their order stay; spaces at a break are gone.
    """
    whole = Text(line) if isinstance(line, str) else line
    if cell_len(whole.plain) <= width:
        return [whole]
    width = max(width, 1)
    hang = max(min(hang, width - _LEAST), 0)
    spans = list(_lines(whole.plain, width, hang))
    lines = [whole[start:stop] for start, stop in spans]
    return [lines[0], *(Text(" " * hang).append_text(line) for line in lines[1:])]


def broken(line: str, width: int, hang: int = 0) -> str:
    """A plain line, wrapped, as one string."""
    return "\n".join(text.plain for text in wrapped(line, width, hang))


def _lines(text: str, width: int, hang: int) -> Iterator[Span]:
    """Where the lines of a text begin and end."""
    start = stop = 0  # of the line so far
    room = width
    for begin, end in _units(text, width - hang):
        if stop and cell_len(text[start:end]) > room:
            yield start, stop
            start, room = begin, width - hang
        stop = end
    yield start, stop


def _units(text: str, room: int) -> Iterator[Span]:
    """What is not broken: short parts whole, else words, else pieces of words."""
    for part in _PART.finditer(text):
        size = cell_len(part[0])
        if size <= room // 2 or (part[0].startswith("(") and size <= room):
            yield part.span()
            continue
        for clause in _CLAUSE.finditer(text, *part.span()):
            if cell_len(clause[0]) <= room // 3:
                yield clause.span()
            else:
                yield from _words(text, clause.span(), room)


def _words(text: str, span: Span, room: int) -> Iterator[Span]:
    """The words of a clause."""
    for word in _WORD.finditer(text, *span):
        if cell_len(word[0]) <= room:
            yield word.span()
        else:
            yield from _pieces(text, word.span(), room)


def _pieces(text: str, span: Span, room: int, level: int = 0) -> Iterator[Span]:
    """A word too wide for a line, behind its separators, and where it has none at any place."""
    for piece in _PIECES[level].finditer(text, *span):
        if cell_len(piece[0]) > room and level + 1 < len(_PIECES):
            yield from _pieces(text, piece.span(), room, level + 1)
        elif piece[0]:
            yield piece.span()
