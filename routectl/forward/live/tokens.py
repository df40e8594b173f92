"""Whether routes of samples stand at the samples' own tokens in a batch.

Shape suffixes: N tokens of a sample, T tokens of a sequence of a batch, R rows of a router, P
positions that have a route.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import MismatchError
from ...routes import Routes
from .sequences import Batch

__all__ = ["GivenRoutes", "check_tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class GivenRoutes:
    """What a sequence is given. tokens_N, int32, are a Sample's ids from its first on, or its
    prompt's; None where nothing tells them. name says which it is to who gave it.
    """

    name: str
    routes: Routes | None
    tokens_N: NDArray[np.int32] | None = None


def check_tokens(
    batch: Batch, sequences: list[NDArray[np.int64]], left: Sequence[GivenRoutes]
) -> None:
    """Raise MismatchError where a route of the first of ``left`` would stand at another token.

    Token ids are read from their device where one of these has its own.
    """
    used = left[: len(sequences)]
    if all(held.routes is None or held.tokens_N is None for held in used):
        return
    flat = batch.input_ids_BS.T if batch.s_major else batch.input_ids_BS
    ids_R = flat.detach().cpu().numpy().reshape(-1)
    for place, (rows_T, held) in enumerate(zip(sequences, used, strict=True)):
        ids_T, at_P = ids_R[rows_T], _routed(held)
        if held.tokens_N is None or _same(ids_T, held.tokens_N, at_P):
            continue
        at = at_P[ids_T[at_P] != held.tokens_N[at_P]][0]
        raise MismatchError(
            f"{held.name}: position {at} of sequence {place} of this forward is token {ids_T[at]}, "
            f"of the sample {held.tokens_N[at]}: {_cause(ids_T, held, left)}"
        )


def _routed(held: GivenRoutes) -> NDArray[np.int64]:
    """The positions that have a route in some layer and a known token, int64 [P]."""
    routes, tokens_N = held.routes, held.tokens_N
    if routes is None or tokens_N is None:
        return np.empty(0, np.int64)
    at_P = np.arange(routes.start, routes.stop)
    if routes.missing_TL is not None:
        at_P = at_P[~routes.missing_TL.all(axis=1)]
    return at_P[at_P < len(tokens_N)]


def _same(
    ids_T: NDArray[np.int64], tokens_N: NDArray[np.int32], at_P: NDArray[np.int64], by: int = 0
) -> bool:
    """Whether a sequence has a sample's tokens at the positions, each ``by`` later."""
    if at_P.size and at_P[-1] + by >= len(ids_T):
        return False
    return bool((ids_T[at_P + by] == tokens_N[at_P]).all())


def _cause(ids_T: NDArray[np.int64], held: GivenRoutes, left: Sequence[GivenRoutes]) -> str:
    """What is likely wrong, in words."""
    for other in left:
        at_P = _routed(other)
        if at_P.size and other.tokens_N is not None and _same(ids_T, other.tokens_N, at_P):
            return f"they are those of {other.name}: give the routes in the order of the batch"
    at_P = _routed(held)
    assert held.tokens_N is not None
    begins = np.flatnonzero(ids_T == held.tokens_N[at_P[0]]) - at_P[0]
    for by in begins[begins > 0].tolist():
        if _same(ids_T, held.tokens_N, at_P, by):
            return (
                f"the sample's tokens come {by} later: where that is padding, pass the model its "
                "attention_mask"
            )
    return "the routes are not in the order of the batch, or padding has no attention_mask"
