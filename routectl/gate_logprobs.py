"""Gate log-probabilities: how probable one version's router finds the experts that a dump names.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .routes import Routes

__all__ = [
    "GATE_STEP",
    "GateLogprobs",
    "digest_routes",
    "gates_of",
    "gates_of_weights",
    "own_gates",
]

_WEIGHTS = "weights:"
GATE_STEP = 2.0**-12  # what is kept are multiples of it
_DIGEST_TOKENS = 4096  # whose ids are widened at a time


@dataclass(frozen=True, slots=True, eq=False)
class GateLogprobs:
    """What a router thinks of given experts, beside the routes that it took itself.

    logprobs_TLK  float32, natural log, at most 0, multiples of GATE_STEP. Rows and layers are those
                  of the routes beside it; slot k is of the expert that slot k of the dump's row
                  names, in the dump's order. NaN where the dump has no route.
    of            digest_routes of the dump's routes: two are comparable where it is the same. It
                  begins with "weights:" where they are shares of the row, gates_of_weights.

    Raises ValueError for another dtype, and for values that are no log-probabilities.
    """

    logprobs_TLK: NDArray[np.float32]
    of: str

    def __post_init__(self) -> None:
        values = self.logprobs_TLK
        if values.dtype != np.float32 or values.ndim != 3:
            raise ValueError(f"logprobs_TLK must be float32 [T, L, K], got {values.dtype}")
        if not ((values <= 0) & np.isfinite(values) | np.isnan(values)).all():
            raise ValueError("logprobs_TLK must be finite and at most 0, or NaN")

    @property
    def is_of_own_routes(self) -> bool:
        """Whether slot k is of what slot k of the routes beside it names: gates_of_weights."""
        return self.of.startswith(_WEIGHTS)

    def columns(self, columns: Sequence[int]) -> "GateLogprobs":
        """The same with some of the layers, by their index."""
        return replace(self, logprobs_TLK=np.ascontiguousarray(self.logprobs_TLK[:, columns]))


def digest_routes(routes: Routes) -> str:
    """Hex BLAKE2b-128 of everything that says which expert is in which slot of which row."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((routes.start, routes.layers_L, routes.ids_TLK.shape)).encode())
    for first in range(0, routes.num_tokens, _DIGEST_TOKENS):
        digest.update(routes.ids_TLK[first : first + _DIGEST_TOKENS].astype("<u2").tobytes())
    if routes.missing_TL is not None and routes.missing_TL.any():
        digest.update(np.packbits(routes.missing_TL).tobytes())
    return digest.hexdigest()


def gates_of(logprobs_TLK: NDArray[np.floating[Any]], routes: Routes) -> GateLogprobs:
    """Log-probabilities of these routes' experts, rounded to the nearest multiple of GATE_STEP.

    So each is off by at most 1/8192, and a router-shift gamma by less than 1/4096; what is left of
    a float32 compresses to little more than half. What is not finite becomes NaN.
    """
    with np.errstate(invalid="ignore"):
        rounded = np.round(logprobs_TLK.astype(np.float64) / GATE_STEP) * GATE_STEP
    rounded[~np.isfinite(rounded)] = np.nan
    return GateLogprobs(np.minimum(rounded, 0.0).astype(np.float32), digest_routes(routes))


def gates_of_weights(weights_TLK: NDArray[np.floating[Any]], routes: Routes) -> GateLogprobs:
    """The combine weights that a dump has beside its own routes, each as a share of its row's sum.

    Weights are at least 0; a row without any has NaN. Shares of the K that were taken are no
    probabilities over all E, and their ``of`` says so: they compare with their like alone.
    Raises ValueError for weights that are negative or not finite.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN, which is refused below
        weights = weights_TLK.astype(np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights are at least 0, and finite")
    with np.errstate(divide="ignore", invalid="ignore"):
        found = gates_of(np.log(weights / weights.sum(axis=-1, keepdims=True)), routes)
    return own_gates(found.logprobs_TLK, routes)


def own_gates(logprobs_TLK: NDArray[np.float32], routes: Routes) -> GateLogprobs:
    """Shares of the rows of these very routes, slot by slot."""
    return GateLogprobs(logprobs_TLK, f"{_WEIGHTS}{digest_routes(routes)}")
