"""Small dumps made in memory, for the tests of the verbs; random ones come with their plain form.

Shape suffixes: T tokens, L MoE layers, K top_k.
"""

import random

import numpy as np
from hypothesis import strategies as st

from routectl.dump import Dump, DumpMeta, Sample, key_of
from routectl.routes import Routes, ids_dtype

LAYERS = (1, 2, 4)
EXPERTS = 6
TOP_K = 2
SOME_MARGINS = (  # exact in float16
    0.0,
    0.0,
    2.0**-24,
    3 * 2.0**-24,
    2.0**-14,
    2.0**-10,
    2.0**-10 + 2.0**-20,
    0.25,
    1.0,
    1.5,
    65504.0,
    float("inf"),
    None,
    None,
)
SIDE = {"prompt": None, "response": None, "prompt_length": None, "cached": 0}


def make_routes(
    ids, layers=LAYERS, experts=EXPERTS, start=0, missing=(), margins=None, group_margins=None
):
    """Routes from nested lists [T][L][K]; ``missing`` holds (row, layer index); margins [T][L]."""
    top_k = len(ids[0][0]) if ids else TOP_K
    ids_TLK = np.array(ids, ids_dtype(experts)).reshape(len(ids), len(layers), top_k)
    missing_TL = None
    if missing:
        missing_TL = np.zeros(ids_TLK.shape[:2], np.bool_)
        for place in missing:
            missing_TL[place] = True
    both = [  # None among them is not known
        None if m is None else np.array(m, np.float64).astype(np.float16).reshape(ids_TLK.shape[:2])
        for m in (margins, group_margins)
    ]
    return Routes(ids_TLK, tuple(layers), experts, start, missing_TL, *both)


def tokens_of(values):
    """Token ids as an array, or None."""
    return None if values is None else np.array(values, np.int32)


def make_sample(routes, name=None, prompt=None, response=None, **more):
    """A sample; the lengths come from the token ids unless they are given."""
    known = {
        "prompt_length": None if prompt is None else len(prompt),
        "response_length": None if response is None else len(response),
    }
    ids = {"prompt_ids": tokens_of(prompt), "response_ids": tokens_of(response)}
    return Sample(routes, name, **{**ids, **known, **more})


def make_dump(samples, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, **about):
    """A dump of samples that are already there."""
    meta = DumpMeta(about.pop("path", "memory"), "test", tuple(layers), experts, top_k, **about)
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in samples]
    return Dump(meta, keys, samples.__getitem__)


def part_of(dump, indices):
    """The dump with these samples only."""
    picked = list(indices)
    return Dump(dump.meta, [dump.keys[i] for i in picked], lambda i: dump[picked[i]])


def from_plain(plain, name=None, **more):
    """The Sample of a plain dict, as tests/oracles.py describes it."""
    routes = None
    if plain["ids"] is not None:
        routes = make_routes(
            plain["ids"],
            plain["layers"],
            EXPERTS,
            plain["start"],
            plain["missing"],
            plain.get("margins"),
            plain.get("group_margins"),
        )
    lengths = {"prompt_length": plain["prompt_length"], "cached_tokens": plain["cached"] or None}
    return make_sample(routes, name, plain["prompt"], plain["response"], **lengths, **more)


def plain_of(ids, start=0, missing=(), layers=LAYERS, **side):
    """A plain dict, as tests/oracles.py describes it."""
    base = {"ids": ids, "start": start, "missing": set(missing), "layers": list(layers)}
    return {**base, **SIDE, **side}


def all_alike(tokens, row=(0, 1), layers=LAYERS):
    """Ids [T][L][K], every row the same."""
    return [[list(row) for _ in layers] for _ in range(tokens)]


@st.composite
def plain_routes(draw, layers, positions):
    """ids, start and missing of one side, somewhere inside ``positions``; rarely no ids."""
    start = draw(st.integers(0, 2))
    rows = max(0, positions - start - draw(st.integers(0, 3)))
    rng = random.Random(draw(st.integers(0, 2**32)))
    ids = [[[rng.randrange(EXPERTS) for _ in range(TOP_K)] for _ in layers] for _ in range(rows)]
    share = draw(st.sampled_from([0, 0, 0.3, 0.8]))
    places = [(t, index) for t in range(rows) for index in range(len(layers))]
    return {
        "ids": None if draw(st.integers(0, 9)) == 9 else ids,
        "start": start,
        "missing": {place for place in places if rng.random() < share},
        "layers": list(layers),
    }


@st.composite
def plain_pairs(draw, old_layers=LAYERS, new_layers=LAYERS, *, parting=False):
    """Two plain samples of one prompt; the same response too, unless ``parting``."""
    tokens = st.lists(st.integers(0, 2), min_size=1, max_size=4)
    prompt, response = draw(tokens), draw(tokens)
    size = len(prompt) + len(response)
    old, new = (draw(plain_routes(layers, size)) for layers in (old_layers, new_layers))
    if old["ids"] and new["ids"] and old_layers == new_layers and draw(st.booleans()):
        for t, (a, b) in enumerate(zip(old["ids"], new["ids"], strict=False)):
            new["ids"][t] = draw(st.sampled_from([b, a, [list(reversed(row)) for row in a]]))
    for side in (old, new):
        side |= {"prompt": prompt, "response": response, "prompt_length": len(prompt)}
        side["cached"] = draw(st.integers(0, size))
    if parting:
        keep = draw(st.integers(0, len(response)))
        new["response"] = draw(st.sampled_from([None, response[:keep], [*response[:keep], 1, 0]]))
    if draw(st.booleans()):
        draw(st.sampled_from([old, new]))["prompt_length"] = None
    return old, new


@st.composite
def margined_pairs(draw):
    """A plain pair of which neither, one or both sides have ``margins`` [T][L], and some of those
    ``group_margins``; None: not known."""
    pair = draw(plain_pairs())
    rng = random.Random(draw(st.integers(0, 2**32)))
    for side in pair:
        if side["ids"] is None or draw(st.integers(0, 2)) == 2:
            continue
        for name in ("margins", "group_margins")[: draw(st.integers(1, 2))]:
            side[name] = [
                [
                    None if (t, i) in side["missing"] else rng.choice(SOME_MARGINS)
                    for i in range(len(side["layers"]))
                ]
                for t in range(len(side["ids"]))
            ]
    return pair
