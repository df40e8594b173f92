"""Native files of any shape, drawn by hypothesis, and what must be the same after reading."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from routectl.dump import DumpMeta, Sample, WeightSpan
from routectl.gate_logprobs import GATE_STEP, GateLogprobs
from routectl.routes import Routes

__all__ = ["COUNTS", "KEPT", "TEXTS", "check_same", "gates_beside", "metas", "routes_of", "samples"]

COUNTS = st.none() | st.integers(0, 2**31 - 1)


TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=12)


KEPT = (
    "layers_L",
    "num_experts",
    "top_k",
    "engine",
    "engine_version",
    "model",
    "id_space",
    "order",
    "margins",
    "group_margins",
    "gates",
    "provenance",
    "num_layers",
)


@st.composite
def metas(draw):
    """A DumpMeta with anything in the fields that a file keeps."""
    layers = draw(st.sets(st.integers(0, 4095), min_size=1, max_size=4))
    experts = draw(st.sampled_from([1, 2, 7, 255, 256, 257, 65535, 65536]))
    top_k = draw(st.sampled_from(sorted({1, min(2, experts), min(experts, 9)})))
    about = {name: draw(TEXTS) for name in ("engine", "engine_version", "model", "wire_dtype")}
    id_space = draw(st.sampled_from(["logical", "physical"]))
    about |= {
        "order": draw(st.sampled_from(["unknown", "score"])),
        "margins": draw(st.booleans()),
        "gates": draw(st.booleans()),
        "num_layers": draw(st.sampled_from([None, max(layers) + 1, 5000])),
        "provenance": draw(st.dictionaries(*[st.text(st.characters(codec="utf-8"))] * 2)),
    }
    about["group_margins"] = about["margins"] and draw(st.booleans())
    return DumpMeta("", "", tuple(sorted(layers)), experts, top_k, id_space=id_space, **about)


@st.composite
def routes_of(draw, meta):
    """Routes that fit the meta: zero tokens to a few, none to all rows missing."""
    shape = (draw(st.integers(0, 5)), len(meta.layers_L), meta.top_k)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.uint8 if meta.num_experts <= 256 else np.uint16
    ids = rng.integers(0, meta.num_experts, shape).astype(dtype)
    ids[rng.random(shape) < 0.2] = meta.num_experts - 1
    missing = None
    share = draw(st.sampled_from([None, 0.0, 0.4, 1.0]))
    if share is not None:
        missing = rng.random(shape[:2]) < share
    kinds = (meta.margins, meta.group_margins)
    margins = [None, None]
    for i in range(draw(st.integers(0, sum(kinds)))):
        margins[i] = rng.integers(0, 0x7C02, shape[:2]).astype(np.uint16).view(np.float16)
        margins[i][rng.random(shape[:2]) < 0.2 if missing is None else missing] = np.nan
    start = draw(st.integers(0, 2**31 - 1))
    return Routes(ids, meta.layers_L, meta.num_experts, start, missing, *margins)


@st.composite
def gates_beside(draw, meta, routes):
    """Gate log-probabilities of as many rows as the routes, or none."""
    if routes is None or not meta.gates or draw(st.booleans()):
        return None
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = -rng.integers(0, 2**17, routes.ids_TLK.shape).astype(np.float32) * GATE_STEP
    values[rng.random(values.shape[:2]) < 0.2] = np.nan
    return GateLogprobs(values.astype(np.float32), draw(st.text(max_size=4)))


@st.composite
def samples(draw, meta):
    """A sample with any mix of known and unknown fields."""

    def maybe(elements, dtype):
        values = draw(st.none() | st.lists(elements, max_size=5))
        return None if values is None else np.array(values, dtype)

    ids = st.integers(0, 2**31 - 1)
    spans = st.builds(WeightSpan, st.text(st.characters(codec="utf-8"), max_size=4), ids, ids)
    routes = draw(st.none() | routes_of(meta))
    return Sample(
        routes=routes,
        gates=draw(gates_beside(meta, routes)),
        prompt_ids=maybe(ids, np.int32),
        response_ids=maybe(ids, np.int32),
        loss_mask=maybe(st.booleans(), np.bool_),
        logprobs=maybe(st.floats(width=64), np.float64),
        weight_spans=tuple(draw(st.lists(spans, max_size=3))),
        start_inferred=draw(st.booleans()),
        **{n: draw(TEXTS) for n in ("sample_id", "group_id", "finish_reason")},
        **{
            n: draw(COUNTS)
            for n in ("prompt_length", "response_length", "cached_tokens", "retractions")
        },
    )


def check_same(mine, other):
    """Two samples are equal in every field, dtypes and missing rows included."""
    for field in dataclasses.fields(Sample):
        a, b = getattr(mine, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b)
        elif isinstance(a, Routes):
            assert a.ids_TLK.dtype == b.ids_TLK.dtype
            np.testing.assert_array_equal(a.ids_TLK, b.ids_TLK)
            assert (a.layers_L, a.num_experts, a.start) == (b.layers_L, b.num_experts, b.start)
            for name in ("missing_TL", "margin_TL", "group_margin_TL"):
                mine_TL, other_TL = getattr(a, name), getattr(b, name)
                assert (mine_TL is None) == (other_TL is None)
                if mine_TL is not None:
                    assert mine_TL.dtype == other_TL.dtype
                    np.testing.assert_array_equal(mine_TL, other_TL)
        elif isinstance(a, GateLogprobs):
            assert a.of == b.of
            assert b.logprobs_TLK.dtype == np.float32
            np.testing.assert_array_equal(a.logprobs_TLK, b.logprobs_TLK)
        else:
            assert a == b, field.name
