"""Runs of tokens whose rows differ more than rounding explains, in all layers or in some.

Shape suffixes: N tokens, L layers.
"""

from collections.abc import Iterator

import numpy as np

from ....kernels.check import heaviest_run
from ....routes import Bools
from .side import Ints

__all__ = ["column_runs", "token_runs"]

_EXPECTED = 0.6  # mismatch that a run of tokens must exceed
_HEAVY = 8.0  # rows above it that make a run, beyond what rounding does
_RUNS = 16  # of one sample, in all layers together, and in each
_ALIKE = 0.5  # share of tokens that runs of two layers have in common, to be one


def _runs(wrong_N: Ints, there_N: Ints) -> Bools:
    """The tokens of the heaviest runs."""
    run_N = np.zeros(len(wrong_N), np.bool_)
    value_N = (wrong_N - _EXPECTED * there_N).astype(np.float32)
    for _ in range(_RUNS):
        first, end, heavy = heaviest_run(value_N)
        if heavy < _HEAVY:
            break
        run_N[first:end] = True
        value_N[first:end] = -1.0
    return run_N


def token_runs(wrong_NL: Bools, both_NL: Bools) -> Bools:
    """Tokens of runs that differ in all layers, bool [N]."""
    return _runs(wrong_NL.sum(axis=1), both_NL.sum(axis=1))


def column_runs(wrong_NL: Bools, rest_NL: Bools) -> Iterator[tuple[Ints, Bools]]:
    """(layers, tokens) of runs in some layers; those of like tokens together."""
    groups: list[tuple[list[int], Bools]] = []
    for column in range(wrong_NL.shape[1]):
        there_N = rest_NL[:, column]
        wrong_N = (wrong_NL[:, column] & there_N).astype(np.int64)
        run_N = _runs(wrong_N, there_N.astype(np.int64)) & there_N
        if not run_N.any():
            continue
        for columns, tokens_N in groups:
            if (tokens_N & run_N).sum() > _ALIKE * (tokens_N | run_N).sum():
                columns.append(column)
                tokens_N |= run_N
                break
        else:
            groups.append(([column], run_N))
    for columns, tokens_N in groups:
        yield np.array(columns, np.int64), tokens_N
