"""The block of golden bytes, made by arithmetic alone."""

import numpy as np

from routectl.codecs.block import Block
from routectl.codecs.dictionary import TokenDictionary
from routectl.codecs.dictionary_tables import TableSizes
from routectl.codecs.token_training import Training
from support.recordings import FIXTURES

GOLDEN_DICTIONARY = FIXTURES / "golden" / "token.dictionary"
MODELLED = 1024  # experts that a dictionary has at most


def dictionary_of(ids_RK, num_experts, tokens_R, *, own=True):
    """The dictionary learnt from rows of one layer, number 0; None of too many experts."""
    if num_experts > MODELLED:
        return None
    seen, counts = np.unique(tokens_R, return_counts=True)
    learnt = seen[(counts > 1) & (seen >= 0)].astype(np.int64)
    training = Training(TableSizes(num_experts, ids_RK.shape[1], 8), learnt, 1, own=own)
    parts = [(ids_RK[i::2, None], tokens_R[i::2]) for i in (0, 1)]
    for i, (ids_RLK, tokens) in enumerate(parts):
        training.count(i, ids_RLK, tokens, np.ones((len(tokens), 1), bool))
    training.rank()
    for i, (ids_RLK, tokens) in enumerate(parts):
        training.tabulate(i, ids_RLK, tokens, np.ones((len(tokens), 1), bool))
    return training.dictionary((0,))


def golden_block(codec):
    """A block made by arithmetic: 3 samples, one of them empty, 128 experts, 8 a row."""
    ids, tokens, base = golden_rows()
    base = base if "base" in codec.needs else None
    dictionary = None
    if "dictionary" in codec.needs:
        dictionary = TokenDictionary(GOLDEN_DICTIONARY.read_bytes()).layer(0)
    return Block(ids, 128, (41, 0, 19), tokens, base, dictionary)


def golden_rows():
    """The ids of the golden block, its tokens, and its base."""
    r, k = np.arange(60)[:, None], np.arange(8)[None, :]
    base = ((r * r * 5 + k * 17) % 128).astype(np.uint8)
    ids = base.copy()
    ids[::7, 3] = (ids[::7, 3] + 9) % 128
    ids[::11, 0] = (ids[::11, 0] + 5) % 128
    tokens = (np.arange(60) ** 2 % 23).astype(np.int32)
    return ids, tokens, base
