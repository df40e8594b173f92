"""What padding rows and missing rows of a replay tensor hold.

Shape suffixes: K top_k, P rows after which a filler repeats, L layers, R rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError, unknown
from ...layouts.packing import Packing
from ...layouts.rules import DTYPES, PADDINGS, replay_dtype

__all__ = ["TensorSpec", "filler_ids"]

_RANDOM_ROWS = 4096


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How a replay tensor is written; None takes what the packing's framework does.

    padding  what padding and missing rows hold. zero: K times expert 0. arange: experts 0..K-1.
             spread: distinct experts, in turn over the ``ep`` expert-parallel ranks, so that no
             rank gets more filler than another. minus-one: -1, for routers that then route
             natively. repeat: the route nearest before it in its sample, after all samples that of
             the last; expert 0 where there is none. random: ids drawn alike, the same at each
             call, an expert perhaps twice in a row.
    dtype    the name of a numpy integer dtype: int8 .. int64, uint8 .. uint64
    ep       expert-parallel size: rank r holds experts [r E / ep, (r + 1) E / ep)
    greatest the greatest id of the batch, for a framework whose dtype goes by it (ROLL); None
             where it is not known
    layers   those of the stage's layers that are written, 0-based; None for all of them
    """

    padding: str | None = None
    dtype: str | None = None
    ep: int = 1
    greatest: int | None = None
    layers: tuple[int, ...] | None = None

    def needs_greatest(self, packing: Packing) -> bool:
        """Whether the dtype goes by the greatest id of the batch, and it is not known yet."""
        return self.dtype is None and self.greatest is None and packing.rule.dtype == "value"

    def policy(self, packing: Packing) -> str:
        """The padding policy: given, or the framework's. Raises ValueError for another name."""
        policy = self.padding or packing.rule.padding
        if policy not in PADDINGS:
            raise unknown("padding", policy, PADDINGS, ValueError)
        return policy

    def dtype_for(self, packing: Packing, num_experts: int) -> np.dtype[Any]:
        """The dtype: given, or the framework's for E experts.

        Raises MismatchError for another name, and when it cannot hold the ids, or -1 where the
        padding writes it.
        """
        if self.dtype is not None and self.dtype not in DTYPES:
            raise unknown("dtype", str(self.dtype), DTYPES, MismatchError)
        last = num_experts - 1  # which spread writes, and otherwise the batch may not
        if packing.rule.dtype == "value" and self.policy(packing) not in ("spread", "random"):
            last = last if self.greatest is None else self.greatest
        named = (
            np.dtype(self.dtype) if self.dtype else replay_dtype(packing.rule, num_experts, last)
        )
        if last > np.iinfo(named).max:
            raise MismatchError(f"dtype {named} cannot hold expert {last}", hint="--dtype int32")
        if named.kind == "u" and self.policy(packing) == "minus-one":
            raise MismatchError(
                f"dtype {named} has no -1, which padding minus-one writes",
                hint="--dtype int16, or another --padding",
            )
        return named


def filler_ids(policy: str, num_experts: int, top_k: int, ep: int) -> NDArray[np.int64]:
    """The rows that fillers go through in turn, int64 [P, K].

    spread: with experts numbered so that neighbours are on different ranks, row p holds the K
    from p x K on, modulo E. In any number of rows the ranks' loads then differ by at most 1.
    repeat: what rows hold that no route is before. Raises ValueError when ep does not divide E.
    """
    if ep < 1 or num_experts % ep:
        raise ValueError(f"num_experts {num_experts} does not divide by ep {ep}")
    if policy == "spread":
        turns = np.arange(num_experts)
        experts = turns % ep * (num_experts // ep) + turns // ep
        period = num_experts // int(np.gcd(num_experts, top_k))
        return experts[np.arange(period * top_k).reshape(period, top_k) % num_experts]
    if policy == "random":
        return np.random.default_rng(0).integers(0, num_experts, (_RANDOM_ROWS, top_k))
    zero = [0] * top_k
    rows = {"zero": zero, "repeat": zero, "arange": range(top_k), "minus-one": [-1] * top_k}
    return np.array([rows[policy]], np.int64)
