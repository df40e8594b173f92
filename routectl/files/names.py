"""Names of files that a file gives: of its own folder alone."""

import os

__all__ = ["is_own_name"]

_LONGEST = 255  # bytes of a name, of Linux's file systems


def is_own_name(name: object) -> bool:
    """Whether a name is one of a folder's own entries could have: no path, no NUL, not too long."""
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        return False
    try:
        return len(os.fsencode(name)) <= _LONGEST
    except UnicodeEncodeError:  # halves of surrogate pairs
        return False
