"""What ``context`` starts from: three integer functions as tables, and a model that knows nothing.

Shape suffixes: R rows, S samples, E num_experts, O orders, I inputs, C choices of weights.
"""

import functools
from bisect import bisect_left
from itertools import accumulate, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .block import About
from .context_kernels import ORDERS, number_contexts

__all__ = ["ContextModel", "Functions", "functions", "new_model"]

_ONE = 1 << 128
_MOST_SHARES = 1 << 22  # of the contexts of one order: 8 MiB
_WEIGHTS = (0, 1 << 19, 1 << 19, 3 << 16, 5 << 16, 0)  # of 2^20


class Functions(NamedTuple):
    """stretch: of a share of 4096; squash: of a logit + 2048; logs: 256 ln n, all int32."""

    stretch: NDArray[np.int32]
    squash: NDArray[np.int32]
    logs: NDArray[np.int32]


class ContextModel(NamedTuple):
    """The state of ``context_kernels.code_rows``, in the order of its arguments.

    places_RO: which of shares_NE each order's context of a row is, the next shorter one's where it
    has none of its own; 0 is the layer's. shares_NE: of 65536. seen_N: how often a context was.
    """

    places_RO: NDArray[np.int64]
    shares_NE: NDArray[np.uint16]
    seen_N: NDArray[np.int64]
    after_2E: NDArray[np.uint16]
    before_E: NDArray[np.uint8]
    weights_CI: NDArray[np.int64]
    second_KJ: NDArray[np.int64]


def _powers() -> list[int]:
    """e^(d / 256) for d in 0..2130: up to 4096, in units of 2^-128, by integers."""
    term, step, n = _ONE, 0, 1
    while term:
        step += term
        term = term // (256 * n)
        n += 1
    return list(accumulate(repeat(step, 2130), lambda power, s: power * s >> 128, initial=_ONE))


@functools.lru_cache(maxsize=1)
def functions() -> Functions:
    """The tables of docs/codecs/context.md: squash is rounded to nearest, logs down.

    stretch(i) is the least logit whose squash reaches 16 i + 8, within -2047..2047.
    """
    powers = _powers()
    upper = [(2 * 65536 * p + p + _ONE) // (2 * (p + _ONE)) for p in powers[:2048]]
    squash = [65536 - value for value in upper[:0:-1]] + upper
    squash = [65536 - upper[2047], *squash]
    stretch = [min(bisect_left(squash, 16 * i + 8, 1) - 2048, 2047) for i in range(4096)]
    logs = [0] + [bisect_left(powers, (n * _ONE) + 1) - 1 for n in range(1, 4096)]
    return Functions(*(np.array(table, np.int32) for table in (stretch, squash, logs)))


def new_model(about: About) -> ContextModel:
    """A model before the first row of a block that has token ids."""
    tokens_R, num_experts = about.token_ids_R, about.num_experts
    assert tokens_R is not None
    starts_S = np.concatenate([[0], np.cumsum(about.lens_S, dtype=np.int64)])
    limit, places = max(1, _MOST_SHARES // num_experts), 1
    places_RO = np.zeros((about.rows, ORDERS), np.int64)
    shorter_R = np.zeros(about.rows, np.int64)
    for order in range(ORDERS):
        number_R, count = number_contexts(tokens_R, starts_S, order + 1, limit)
        shorter_R = np.where(number_R < 0, shorter_R, places + number_R)
        places_RO[:, order] = shorter_R
        places += count
    even = np.uint16(min(65536 * about.top_k // num_experts, 65535))
    shares_NE = np.zeros((places, num_experts), np.uint16)
    shares_NE[0] = even
    steps_J = np.minimum(np.arange(33) * 128, 4095)
    return ContextModel(
        places_RO,
        shares_NE,
        np.zeros(places, np.int64),
        np.full((2, num_experts), even),
        np.zeros(num_experts, np.uint8),
        np.tile(np.array(_WEIGHTS, np.int64), (4**ORDERS, 1)),
        np.tile(functions().squash[steps_J].astype(np.int64), (9, 1)),
    )
