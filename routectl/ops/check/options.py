"""What ``check`` is told beside the dump."""

from dataclasses import dataclass

from ...margins import EPS
from .alone.tables import Dictionary

__all__ = ["CheckOptions"]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What ``check`` is told beside the dump: facts of the model and of the run.

    zero_experts how many of the E ids return their input (LongCat); expert 0 may then repeat
    hash_layers  layers that select by a table: never written by some engines
    ep           expert-parallel ranks that filler is counted for; 1 for none
    by_tokens    whether rows are held against the dump's own tokens too
    prior        what another dump of the same weights taught (``learn_dictionary``), or None
    eps          the margin, in units of the selection score, up to which a flip is a near-tie
    candidates   names of weights by which the rows are judged apart: a sample whose rows the dump
                 says several of them made is not held against a reference, which is one
    """

    zero_experts: int = 0
    hash_layers: tuple[int, ...] = ()
    ep: int = 1
    eps: float = EPS
    by_tokens: bool = True
    prior: Dictionary | None = None
    candidates: tuple[str, ...] = ()
