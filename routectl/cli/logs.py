"""Warnings and logs of libraries on stderr: what they quote is foreign text."""

import logging
import warnings
from collections.abc import Callable

from ..visible import visible

__all__ = ["show_logs", "tell_compiling"]

# Its log says, below what is shown, each function that it reads.
_COMPILED = "numba.core.byteflow"
_COMPILING = "compiling kernels, once: up to half a minute"


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


class _Once(logging.Filter):
    """Takes the first record of a logger as news, which is not shown, and then is gone."""

    def __init__(self, log: logging.Logger, told: Callable[[], None]) -> None:
        super().__init__()
        self._log, self._told, self._level = log, told, log.level
        log.addFilter(self)
        log.setLevel(logging.DEBUG)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell it, and let go of the logger."""
        self._log.removeFilter(self)
        self._log.setLevel(self._level)
        self._told()
        return False


def tell_compiling(told: Callable[[str], None]) -> None:
    """Have the first kernel that is compiled in this process told, before it is; numba, which may
    never be loaded, is not loaded here.
    """
    _Once(logging.getLogger(_COMPILED), lambda: told(_COMPILING))
