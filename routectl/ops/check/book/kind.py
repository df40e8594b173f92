"""What a kind of finding is."""

from dataclasses import dataclass

__all__ = ["SEVERITIES", "FindingKind"]

SEVERITIES = ("note", "undecided", "warning", "error")


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A finding that ``check`` can make.

    severity is one of SEVERITIES; cause and action are a sentence each; upstream names issues
    where this happened, as repository#number.
    """

    code: str
    severity: str
    title: str
    cause: str
    action: str
    upstream: tuple[str, ...] = ()
