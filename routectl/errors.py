"""What can go wrong, as a user sees it: one line, and a hint when a flag would help."""

from typing import Any

from .visible import visible

__all__ = ["FormatError", "MismatchError", "RoutectlError", "UnsupportedError"]


class RoutectlError(Exception):
    """Anything that a user can act on; the command line prints it as one line and exits 2.

    ``hint`` names the flag or the step that helps, or is None; a traceback has it as a note. Both
    may quote foreign text: they are made visible here, on one line, a long one without its middle.
    What is pickled is an error of this file: that of another file, with what it holds, stays in
    its process.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(visible(message, end=1000))
        self.hint = hint

    @property
    def hint(self) -> str | None:
        """The flag or the step that helps."""
        return self._hint

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = None if hint is None else visible(hint, end=1000)
        self.__notes__ = [] if self._hint is None else [f"hint: {self._hint}"]

    def __reduce__(self) -> tuple[Any, ...]:
        kind = next(one for one in type(self).__mro__ if one.__module__ == __name__)
        return _said, (kind, str(self), self.hint)


def _said(kind: type[RoutectlError], message: str, hint: str | None) -> RoutectlError:
    """An error that another process raised."""
    return kind(message, hint=hint)


class FormatError(RoutectlError):
    """A file is not what it claims to be."""


class MismatchError(RoutectlError):
    """Two inputs cannot be laid side by side, or nothing in them was comparable."""


class UnsupportedError(RoutectlError):
    """The input is understood, but routectl has no way to handle it."""
