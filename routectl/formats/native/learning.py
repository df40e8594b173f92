"""A dictionary learnt from a dump, for files of codec token.

The dump is read once to see which tokens there are, and twice for as many layers as fit in memory.
Shape suffixes: T tokens, L MoE layers, K top_k.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...codecs.dictionary import MOST_EXPERTS, MOST_TOKENS, LayerFacts, TokenDictionary
from ...codecs.dictionary_tables import TableSizes
from ...codecs.token_training import CLASSES, Training
from ...dump import Dump, Sample
from ...errors import MismatchError, UnsupportedError
from ...routes import Bools, Routes
from .cells import input_tokens

__all__ = ["learn_tokens"]

_MOST_BYTES = 32 << 20  # of entries
_MOST_OWN_BYTES = 8 << 20  # of one that is stored in a file's footer
_LEAST_SEEN, _LEAST_OWN = 2, 12  # rows of a token that has an entry; of one that it must pay for
_COUNTED_BYTES = 512 << 20  # of counts that are in memory at a time


def learn_tokens(dump: Dump, *, own: bool = False) -> TokenDictionary:
    """What each token of a dump takes, for other dumps of its model; ``own``: for itself alone.

    The tokens that come most often have entries, in at most 32 MiB, 8 of ``own``. Takes up to 1 GiB
    of memory. Raises MismatchError where no sample has routes and token ids, UnsupportedError
    beyond 1024 experts.
    """
    meta = dump.meta
    if meta.num_experts > MOST_EXPERTS:
        raise UnsupportedError(
            f"{meta.path}: a dictionary of {meta.num_experts} experts: at most {MOST_EXPERTS} are"
        )
    sizes = TableSizes(meta.num_experts, meta.top_k, CLASSES)
    tokens = _tokens(dump, sizes, own=own)
    per_layer = 2 * (len(tokens) + 1) * sizes.num_experts * (1 if own else 2)
    step = max(1, _COUNTED_BYTES // per_layer)
    found: dict[int, LayerFacts] = {}
    for first in range(0, len(meta.layers_L), step):
        layers = meta.layers_L[first : first + step]
        part = dump if len(layers) == len(meta.layers_L) else dump.select(layers=layers)
        training = Training(sizes, tokens, len(layers), own=own)
        for number, routes, tokens_T in _rows(part):
            training.count(number, routes.ids_TLK, tokens_T, _kept(routes))
        training.rank()
        for number, routes, tokens_T in _rows(part):
            training.tabulate(number, routes.ids_TLK, tokens_T, _kept(routes))
        found.update(zip(layers, training.facts(), strict=True))
    return TokenDictionary.of(sizes, tokens, found)


def _rows(dump: Dump) -> Iterator[tuple[int, Routes, NDArray[np.int32]]]:
    """Place, routes and input tokens of the samples that have both."""
    for number, sample in enumerate(dump):
        tokens_T = _input_tokens(sample)
        if tokens_T is not None and sample.routes is not None:
            yield number, sample.routes, tokens_T


def _input_tokens(sample: Sample) -> NDArray[np.int32] | None:
    routes = sample.routes
    if routes is None:
        return None
    return input_tokens(sample.token_ids, routes.num_tokens, routes.start)


def _kept(routes: Routes) -> Bools:
    """bool [T, L], False where a row is missing."""
    if routes.missing_TL is None:
        return np.ones(routes.ids_TLK.shape[:2], np.bool_)
    return ~routes.missing_TL


def _tokens(dump: Dump, sizes: TableSizes, *, own: bool) -> NDArray[np.int64]:
    """The tokens that get entries, ascending: those that come most often."""
    seen = np.zeros(0, np.int64)
    rows = 0
    for _, _, tokens_T in _rows(dump):
        rows += len(tokens_T)
        more = np.bincount(tokens_T[(tokens_T >= 0) & (tokens_T < MOST_TOKENS)])
        if len(more) > len(seen):
            seen, more = more, seen
        seen[: len(more)] += more
    if not rows:
        raise MismatchError(f"{dump.meta.path}: no sample has routes and token ids to learn from")
    entry_bytes = len(dump.meta.layers_L) * (4 + sizes.listed * sizes.width) / 8
    most = int((_MOST_OWN_BYTES if own else _MOST_BYTES) / entry_bytes)
    least = _LEAST_OWN if own else _LEAST_SEEN
    tokens = np.flatnonzero(seen >= least)
    return np.sort(tokens[np.argsort(-seen[tokens], kind="stable")[:most]])
