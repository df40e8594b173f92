"""Synthetic drift with known truth: routers whose weights move by a known step per update.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts, D hidden.
"""

import numpy as np

from routectl.routes import Routes, ids_dtype
from support.dumps import make_dump, make_sample

EXPERTS, TOP_K, HIDDEN = 12, 2, 16


def routers(updates, steps, *, straight=False, seed=0):
    """Router weights [L][E, D] after 0, 1, ... updates; ``steps`` [L] is each update's size.

    The moves are independent (a random walk), or the same at each update where ``straight``.
    """
    rng = np.random.default_rng(seed)
    shape = (len(steps), EXPERTS, HIDDEN)
    weights = [rng.standard_normal(shape)]
    size = np.array(steps)[:, None, None]
    move = rng.standard_normal(shape)
    for _ in range(updates):
        move = move if straight else rng.standard_normal(shape)
        weights.append(weights[-1] + size * move)
    return weights


def hidden_states(sequences, tokens, *, seed=1, own=0.7):
    """Hidden states [B, T, D]; tokens of one sequence share a part, so its rows are alike."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((sequences, 1, HIDDEN))
    return own * shared + rng.standard_normal((sequences, tokens, HIDDEN))


def top_k_of(hidden, weights_LED):
    """The ids of the K greatest router logits, [..., T, L, K]."""
    logits = np.einsum("...td,led->...tle", hidden, weights_LED)
    return np.argpartition(-logits, TOP_K, axis=-1)[..., :TOP_K]


def dump_of(ids_BTLK, *, prompt=3, spans=(), experts=EXPERTS, **about):
    """A dump of such ids; sequence b has the token ids b, b + 1, ... of T tokens."""
    samples = []
    for b, ids in enumerate(ids_BTLK):
        tokens = [b, *range(len(ids) - 1)]
        checked = np.ascontiguousarray(ids, ids_dtype(experts))
        routes = Routes(checked, tuple(range(ids.shape[1])), experts)
        more = {"weight_spans": tuple(spans)}
        samples.append(make_sample(routes, f"s{b}", tokens[:prompt], tokens[prompt:], **more))
    shape = ids_BTLK[0].shape
    return make_dump(samples, tuple(range(shape[1])), experts, shape[2], **about)
