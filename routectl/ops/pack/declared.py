"""The layout that tensors were held against: who said it, and what their files' names say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...layouts.packing import Packing

__all__ = ["Declared", "NamedSizes"]


@dataclass(frozen=True, slots=True)
class NamedSizes:
    """Ranks and micro-batches that files are named by: one more than the greatest of each."""

    dp: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    micro_batches: int = 1


def _nothing(keys: Mapping[str, object]) -> None:
    """No layout is refused."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A layout that a manifest says, or a user as far as ``assumed`` does not have its keys.

    assumed are of framework, tp, cp, pp, dp and max-tokens-per-gpu (which stands for whatever says
    micro-batches) those that nobody gave, so that they are as when not given. given are the keys
    of a layout that somebody did. refuses says why the layout could not be given with some keys,
    by field, in place of its own; None where it could.
    """

    packing: Packing
    from_manifest: bool
    assumed: tuple[str, ...] = ()
    named: NamedSizes = NamedSizes()
    given: frozenset[str] = frozenset()
    refuses: Callable[[Mapping[str, object]], str | None] = _nothing
