"""Reading a small file."""

from pathlib import Path

from ..errors import FormatError

__all__ = ["read_text"]


def read_text(path: Path, most: int, too_large: str) -> str:
    """The text of a file of at most ``most`` bytes.

    Raises FormatError where it cannot be read or has more, as ``too_large`` says then, ValueError
    where it is no UTF-8.
    """
    try:
        if path.stat().st_size > most:
            raise FormatError(f"{path}: {too_large}")
        return path.read_text("utf-8")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
