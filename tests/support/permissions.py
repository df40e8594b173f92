"""Permissions of files, and the umask that new ones are made with."""

import os
import stat
from contextlib import contextmanager

__all__ = ["mode_of", "modes_in", "umask"]


@contextmanager
def umask(mask):
    """Another umask within the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path):
    """The permissions of a file or folder, in octal digits."""
    return f"{stat.S_IMODE(os.lstat(path).st_mode):o}"


def modes_in(folder):
    """The permissions of a folder, and all those of the files in it."""
    return mode_of(folder), {mode_of(path) for path in folder.iterdir()}
