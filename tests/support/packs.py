"""Random batches on random ranks, and what each rank's tensors must hold, row by row.

``expected_rows`` is the slow truth: it looks every row up in ``Packing.local_rows``. Shape
suffixes: T tokens, L MoE layers, K top_k, R rows of a rank.
"""

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from routectl import Packing, Pipeline, Rank, Routes
from routectl.layouts.packing import FORMS, FRAMEWORKS
from routectl.layouts.rules import rule_of
from routectl.routes import ids_dtype
from support.dumps import make_dump, make_sample

__all__ = [
    "KINDS",
    "Batch",
    "as_settings",
    "batches",
    "check_rows",
    "expected_rows",
    "form_of",
    "ranks_of",
    "repeated_rows",
    "routes_like",
    "sizes_of",
]

# K, E and the dtype of the tensors: odd widths, ids of one and of two bytes, K = E
KINDS = [
    (1, 1, "uint8"),
    (1, 300, "int32"),
    (2, 6, "int8"),
    (3, 300, "int16"),
    (4, 32, None),
    (5, 256, "uint8"),
    (6, 300, "uint16"),
    (7, 8, "int32"),
    (8, 8, "int16"),
    (9, 300, "int64"),
]
LAYERS = (1, 2, 3, 5)
PIPELINES = [
    None,
    Pipeline(6, 2),
    Pipeline(6, 3, 2),
    Pipeline(6, 2, 3),
    Pipeline(6, 2, 2, embedding=True, loss=True),
    Pipeline(6, 2, layout="Et|tttttL"),
]
FLAGS = ("framework", "tp", "cp", "pp", "vpp", "ep", "dp", "max-tokens-per-gpu", "balance", "plan")


def as_settings(*words):
    """Words of a command line, the flags of a layout as --layout has them, for verify."""
    words, told = [*map(str, words)], []
    while words:
        word = words.pop(0)
        if word.removeprefix("--") in FLAGS:
            told += ["--layout", f"{word.removeprefix('--')}={words.pop(0)}"]
        else:
            told.append(word)
    return told


@dataclass(frozen=True)
class Batch:
    """A packing, the routes of its samples (None for none), and how tensors are written."""

    packing: Packing
    routes: list[Routes | None]
    layers: tuple[int, ...]
    experts: int
    top_k: int
    dtype: str | None

    @property
    def samples(self):
        """The routes as samples, named by their order."""
        return [make_sample(held, f"s{i}") for i, held in enumerate(self.routes)]

    @property
    def dump(self):
        """The samples as a dump."""
        return make_dump(self.samples, self.layers, self.experts, self.top_k)


def routes_like(rng, rows, layers, kind, start=0, missing=0.0):
    """Routes of distinct random ids; ``missing`` is the share of rows that were not captured."""
    top_k, experts, _ = kind
    ids = np.array(
        [[rng.sample(range(experts), top_k) for _ in layers] for _ in range(rows)],
        ids_dtype(experts),
    ).reshape(rows, len(layers), top_k)
    holes = np.array([[rng.random() < missing for _ in layers] for _ in range(rows)], np.bool_)
    holes = holes.reshape(rows, len(layers))
    if rows and missing:
        holes[rng.randrange(rows)] = True  # a row that is missing in every layer
    ids[holes] = 0
    return Routes(ids, tuple(layers), experts, start, holes if holes.any() else None)


def _held(rng, tokens, layers, kind):
    """A sample's routes: none; of N or N - 1 rows; from a start on; some missing."""
    how = rng.choice(["none", "engine", "engine", "trainer", "start", "short"])
    if how == "none":
        return None
    start = rng.randint(0, tokens) if how == "start" else 0
    stop = (
        tokens
        if how == "trainer"
        else max(start, tokens - rng.randint(1, 4 * (how == "short") + 1))
    )
    return routes_like(rng, stop - start, layers, kind, start, rng.choice([0, 0, 0.3, 1]))


def sizes_of(framework, tp, cp):
    """Sizes as they are, or 1 where a framework has neither tp nor cp."""
    return {"tp": tp, "cp": cp} if rule_of(framework).form == "thd" else {"tp": 1, "cp": 1}


def form_of(framework, form):
    """A form, or the only one that the framework has."""
    return form if rule_of(framework).form == "thd" else rule_of(framework).form


@st.composite
def batches(draw, frameworks=FRAMEWORKS, forms=FORMS, pipelines=PIPELINES, kinds=KINDS):
    """A batch of up to four samples, one token long or more, on up to 4 x 4 ranks a stage."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    framework = draw(st.sampled_from(frameworks))
    kind = draw(st.sampled_from(kinds))
    count = draw(st.sampled_from([0, 1, 2, 3, 4, 4, 4]))
    lens = [rng.choice([1, rng.randint(1, 5), rng.randint(6, 20)]) for _ in range(count)]
    cp = draw(st.integers(1, 4))
    slime = "mult" in rule_of(framework, cp).total
    options = {
        **sizes_of(framework, draw(st.integers(1, 4)), cp),
        "pad_multiplier": draw(st.integers(1, 3)) if slime else None,
        "form": form_of(framework, draw(st.sampled_from(forms))),
        "pipeline": draw(st.sampled_from(pipelines)),
    }
    try:
        packing = Packing(lens, framework, **options)
    except ValueError:
        assert framework == "ms-swift"  # its padding after the samples need not divide by 2 cp
        reject()
    layers = draw(st.sampled_from([LAYERS, LAYERS[:1], LAYERS[1:]]))
    routes = [_held(rng, tokens, layers, kind) for tokens in lens]
    return Batch(packing, routes, layers, kind[1], kind[0], kind[2])


def ranks_of(packing, split=True):
    """Every rank of a micro-batch's layout, tp fastest; CP ranks as a whole when not ``split``."""
    stages = 1 if packing.pipeline is None else packing.pipeline.pp
    tp_ranks = range(packing.tp) if split else [None]
    return [Rank(c, t, p) for p in range(stages) for c in range(packing.cp) for t in tp_ranks]


def route_at(held, position, index):
    """A position's ids in the index-th layer, or None when there is no route."""
    if held is None or not held.start <= position < held.start + len(held.ids_TLK):
        return None
    row = position - held.start
    if held.missing_TL is not None and held.missing_TL[row, index]:
        return None
    return held.ids_TLK[row, index].tolist()


def expected_rows(batch, rank):
    """The layers of the rank in order, and each one's rows: ids, or None where filler must be."""
    pipeline = batch.packing.pipeline
    held = [batch.layers] if pipeline is None else pipeline.stage_layers(rank.pp)
    layers = [layer for chunk in held for layer in chunk if layer in batch.layers]
    table = batch.packing.local_rows(rank.cp, rank.tp).tolist()
    return layers, [
        [
            None if s < 0 else route_at(batch.routes[s], position, batch.layers.index(layer))
            for s, position in table
        ]
        for layer in layers
    ]


def repeated_rows(batch, rank):
    """Each layer's rows where every row that is no route repeats the nearest one before it.

    Before it: at a lower position of its sample; padding of the stream is behind the last sample.
    """
    packing, layers = batch.packing, expected_rows(batch, rank)[0]
    edges, size = packing.cu_seqlens_padded.tolist(), len(packing.lens)
    rows = [[] for _ in layers]
    for place in packing.stream_positions(rank.cp, rank.tp).tolist():
        if packing.form == "thd":
            sample = max(i for i in range(size) if edges[i] <= place)
            position = place - edges[sample]
        else:
            position, sample = divmod(place, size)
        position = min(position, packing.num_routes(sample) - 1)
        for n, layer in enumerate(layers):
            index = batch.layers.index(layer)
            found = (route_at(batch.routes[sample], p, index) for p in range(position, -1, -1))
            rows[n].append(next((ids for ids in found if ids is not None), [0] * batch.top_k))
    return rows


def check_rows(packed, batch, rank):
    """The tensors hold the expected rows, and the mask is False exactly where filler is."""
    layers, rows = expected_rows(batch, rank)
    assert packed.layers_L == tuple(layers)
    ids = np.asarray(packed.ids_LRK)
    size = batch.packing.num_rows(rank.tp)
    assert ids.shape == (len(layers), size, batch.top_k)
    assert packed.mask.shape[-1] == size
    assert packed.mask.dtype == np.bool_
    for i, expected in enumerate(rows):
        assert packed.mask_of(i).tolist() == [row is not None for row in expected]
        got = ids[i].tolist()
        assert [row for row, e in zip(got, expected, strict=True) if e is not None] == [
            row for row in expected if row is not None
        ]
    return [[row is None for row in expected] for expected in rows]
