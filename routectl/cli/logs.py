"""Warnings and logs of libraries on stderr: what they quote is foreign text."""

import logging
import warnings

from ..visible import visible

__all__ = ["show_logs"]


class _Shown(logging.LogRecord):
    """A record of any library's log, its message visible."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return visible(super().getMessage(), end=1000)


def _shown_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of any library on one line, visible."""
    return f"{visible(f'{filename}:{lineno}: {category.__name__}: {message}', end=1000)}\n"


def show_logs() -> None:
    """From now on every warning and every record of a log in this process is visible text."""
    logging.setLogRecordFactory(_Shown)
    warnings.formatwarning = _shown_warning
