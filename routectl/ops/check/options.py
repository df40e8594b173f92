"""What ``check`` is told beside the dump."""

from collections.abc import Callable
from dataclasses import dataclass

from ...dump import Sample
from ...model import ModelFacts

__all__ = ["CheckOptions"]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Facts of the model and of the run.

    facts        the model's sizes, for samples that their reader refuses; None if not known
    raw          such a sample again, its ids unchecked: all layers as MoE, E = 65536; None when it
                 cannot be had; raises FormatError where that is refused too
    zero_experts ids from E on that return their input (LongCat); expert 0 may then repeat
    hash_layers  layers that select by a table: never written by some engines
    ep           expert-parallel ranks that filler is counted for; 1 for none
    """

    facts: ModelFacts | None = None
    raw: Callable[[int], Sample] | None = None
    zero_experts: int = 0
    hash_layers: tuple[int, ...] = ()
    ep: int = 1
