"""summarize: what one dump holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl.dump import WeightSpan
from routectl.ops.summary import summarize
from support.dumps import (
    EXPERTS,
    LAYERS,
    all_alike,
    from_plain,
    make_dump,
    make_routes,
    make_sample,
    plain_routes,
)


def test_counts_of_a_dump():
    """Samples, tokens, starts, versions and finish reasons are counted as the samples say."""
    spans = (WeightSpan("v2", 0, 2), WeightSpan("v1", 2, 3))
    samples = [
        make_sample(
            make_routes(all_alike(4)),
            "a",
            [1, 2],
            [3, 4, 5],
            cached_tokens=1,
            logprobs=np.zeros(3),
            weight_spans=spans,
            finish_reason="stop",
        ),
        make_sample(
            make_routes(all_alike(2), start=1, missing=[(0, 1)]),
            "b",
            [1, 2],
            [3, 4],
            cached_tokens=0,
            retractions=2,
            finish_reason="length",
            weight_spans=spans[:1],
        ),
        make_sample(make_routes(all_alike(1), start=2), "c", [1, 2], [3, 4], start_inferred=True),
        make_sample(None, "d", [1], None, retractions=0),
    ]
    found = summarize(make_dump(samples))
    assert (found.samples, found.without_routes, found.lengths_unknown) == (4, 1, 1)
    assert (found.prompt_tokens, found.response_tokens, found.cached_tokens) == (7, 7, 1)
    assert (found.positions, found.rows, found.rows_missing_L.tolist()) == (7, 20, [0, 1, 0])
    assert found.starts == {"zero": 1, "given": 1, "inferred": 1}
    assert found.weight_versions == {"v2": 4, "v1": 1}
    assert list(found.weight_versions) == ["v2", "v1"]
    assert found.finish_reasons == {"stop": 1, "length": 1, "unknown": 2}
    assert (found.with_logprobs, found.with_cached, found.retracted) == (1, 2, 1)
    assert found.load_LE.tolist() == [[7, 7, 0, 0, 0, 0], [6, 6, 0, 0, 0, 0], [7, 7, 0, 0, 0, 0]]


@pytest.mark.parametrize(("experts", "size"), [(256, 1), (257, 2)])
def test_bytes_of_a_token(experts, size):
    """A token takes L x K ids of one byte up to 256 experts, of two above."""
    dump = make_dump([], LAYERS, experts, 8)
    assert summarize(dump).id_bytes_per_token == 3 * 8 * size
    assert (summarize(dump).samples, summarize(dump).rows) == (0, 0)


@settings(max_examples=25)
@given(st.lists(plain_routes(LAYERS, 5), max_size=3))
def test_load_is_the_oracle(plain):
    """Load, rows and missing rows are what loops over the rows that are there count."""
    empty = {"prompt": None, "response": None, "prompt_length": None, "cached": 0}
    found = summarize(make_dump([from_plain({**p, **empty}) for p in plain]))
    load = [[0] * EXPERTS for _ in LAYERS]
    missing = [0] * len(LAYERS)
    for p in plain:
        for t, token in enumerate(p["ids"] or []):
            for index, row in enumerate(token):
                missing[index] += (t, index) in p["missing"]
                for expert in row if (t, index) not in p["missing"] else ():
                    load[index][expert] += 1
    assert found.load_LE.tolist() == load
    assert found.rows_missing_L.tolist() == missing
    assert found.rows == sum(map(sum, load)) // 2
    assert found.without_routes == sum(p["ids"] is None for p in plain)


def test_many_samples_add_up_to_each_alone():
    """Samples with missing rows, margins, group margins or none count as each does alone."""
    near, none = [[0.0, 0.5, None]] * 2, [[None] * 3] * 2
    routes = [
        make_routes(all_alike(2)),
        make_routes(all_alike(2), missing=[(0, 1)]),
        make_routes(all_alike(2), start=1, margins=near),
        make_routes(all_alike(2), margins=none, group_margins=near),
        None,
    ]
    samples = [make_sample(one, f"s{i}", [1], [2, 3]) for i, one in enumerate(routes)]
    whole = summarize(make_dump(samples))
    alone = [summarize(make_dump([sample])) for sample in samples]
    for name in ("rows_with_margin", "ties", "positions", "rows", "without_routes", "samples"):
        assert getattr(whole, name) == sum(getattr(one, name) for one in alone), name
    assert (whole.rows_with_margin, whole.ties) == (8, 4)
    assert whole.row_counts == {"N-1": 3, "N": 1}
    for name in ("rows_missing_L", "load_LE"):
        assert getattr(whole, name).tolist() == sum(getattr(one, name) for one in alone).tolist()
