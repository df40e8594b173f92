"""What a comparison compares and keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import unknown
from ..pairs.align import TOKENS

__all__ = ["DiffOptions"]


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What ``diff`` compares and keeps: see there for match, tokens, layers and examples.

    detail  whether to keep what a page shows beside the figures: see ``ops.diff.detail``
    part    OLD is a part of its dump, its other rows missing: what NEW has beside it is not counted
            as left over, nor a sample of OLD without any row
    each    whether to keep every compared sample: memory then grows with them
    """

    match: str = "auto"
    tokens: str = "all"
    layers: Sequence[int] | None = None
    examples: int = 10
    detail: bool = False
    part: bool = False
    each: bool = False

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise unknown("tokens", self.tokens, TOKENS, ValueError)
