"""What a JSON text would become, counted before it is parsed: values, depth, bytes in memory."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["scan_json"]

_BLOCK = 1024
_QUOTE, _BACKSLASH, _COMMA, _COLON = 34, 92, 44, 58
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125
# CPython 3.11 to 3.14 on 64 bits: a place in a list; an empty list; an object of one key and each
# further key; a string's head; an integer or float that is not one of the cached 0 to 256
_PLACE, _LIST, _OBJECT, _KEY, _STRING, _NUMBER = 8, 56, 184, 40, 49, 24


@njit(nogil=True, cache=True)
def _has_mark(block: NDArray[np.uint8]) -> int:
    """1 where a quote or a backslash is in a block; without a branch, so as vector code."""
    found = np.uint8(0)
    for char in block:
        found = max(found, np.uint8(char == np.uint8(34)), np.uint8(char == np.uint8(92)))
    return int(found)


@njit(nogil=True, cache=True)
def _string_end(text: NDArray[np.uint8], at: int) -> int:
    """The place behind the quote that ends the string whose first character is at ``at``."""
    size = len(text)
    while at < size:
        for _ in range(64):  # most strings are short
            if at >= size:
                return size
            char = text[at]
            at += 1
            if char == _QUOTE:
                return at
            if char == _BACKSLASH:
                at += 1
        while at + _BLOCK <= size and not _has_mark(text[at : at + _BLOCK]):
            at += _BLOCK
    return size


@njit(nogil=True, cache=True)
def scan_json(text: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Values (of lists, objects and the whole), the greatest depth, bytes of the parsed objects.

    ``text`` need not be JSON: of what is none, the numbers are those of a text much like it.
    """
    values, depth, deepest, memory = 1, 0, 0, 0
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        at += 1
        if char == _QUOTE:
            end = _string_end(text, at)
            memory += _STRING + end - at
            at = end
        elif char == _COMMA:
            values += 1
            memory += _PLACE
        elif char in (_OPEN_LIST, _OPEN_OBJECT):
            values += 1
            depth += 1
            deepest = max(deepest, depth)
            memory += _PLACE + (_LIST if char == _OPEN_LIST else _OBJECT)
        elif char in (_CLOSE_LIST, _CLOSE_OBJECT):
            depth -= 1
        elif char == _COLON:
            memory += _KEY
        elif 45 <= char <= 57:
            begin = at - 1
            while (at < size and 45 <= text[at] <= 57) or (at < size and (text[at] | 32) == 101):
                at += 1
            if at - begin > 2:
                memory += _NUMBER
    return values, deepest, memory
