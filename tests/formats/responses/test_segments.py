"""Calls of one sample: merged by position, held against each other, their gaps missing rows."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.dump import WeightSpan
from routectl.formats import open_dump
from routectl.ops.check.check import check
from routectl.ops.summary import summarize
from support.building import FACTS, as_npy, as_raw, record, some_ids, write_json, write_lines

TOKENS = list(range(100, 160))
WHOLE = some_ids(59, 3, 2)


def call(prompt, total, *, start=0, ids=WHOLE, **more):
    """A call with tokens up to ``total`` of which ``prompt`` were its prompt: rows start..N-2."""
    return {
        "sample_id": "s",
        "prompt_token_ids": TOKENS[:prompt],
        "token_ids": TOKENS[prompt:total],
        "routed_experts": as_npy(ids[start : total - 1]),
        "start": start,
        **more,
    }


def opened(tmp_path, lines, name="x.jsonl"):
    """The dump of these records."""
    return open_dump(write_lines(tmp_path / name, lines), model=FACTS)


def codes(dump):
    """The findings of a dump, by code, with what each says."""
    return {finding.code: finding for finding in check(dump).findings}


def test_turns_with_starts_are_one_sample(tmp_path):
    """Three calls whose rows begin where the last ones' ended are one sample of all rows."""
    spans = [{"version": "v1", "start": 0, "end": 8}]
    lines = [
        call(10, 18, logprobs=[-1.0] * 8, weight_versions=spans),
        call(25, 40, start=17, logprobs=[-2.0] * 15),
        call(50, 60, start=39, logprobs=[-3.0] * 10, finish_reason="stop"),
    ]
    dump = opened(tmp_path, lines)
    (sample,), (there,) = dump, pickle.loads(pickle.dumps(dump.elsewhere(range(1))))()
    np.testing.assert_array_equal(sample.routes.ids_TLK, WHOLE)
    np.testing.assert_array_equal(there.routes.ids_TLK, WHOLE)  # by another process
    assert (there.segments, there.token_ids.tolist()) == (sample.segments, TOKENS)
    assert (sample.routes.start, sample.routes.missing_TL) == (0, None)
    assert (sample.prompt_ids.tolist(), sample.response_ids.tolist()) == (TOKENS[:10], TOKENS[10:])
    assert sample.token_ids.tolist() == TOKENS
    own = np.zeros(60, bool)
    own[10:18], own[25:40], own[50:60] = True, True, True
    assert sample.loss_mask.tolist() == own.tolist()
    assert np.isnan(sample.logprobs).tolist() == (~own[10:]).tolist()
    assert sample.logprobs[[0, 15, 40]].tolist() == [-1, -2, -3]
    assert sample.weight_spans == (WeightSpan("v1", 0, 8),)
    assert sample.finish_reason == "stop"
    assert [(s.start, s.stop, s.shared) for s in sample.segments] == [
        (0, 17, 0),
        (17, 39, 0),
        (39, 59, 0),
    ]
    assert check(dump).count("error") == 0
    summary = summarize(dump)
    assert (summary.merged, summary.segments, summary.row_counts) == (1, 3, {"N-1": 1})
    (alone,) = opened(tmp_path, [call(10, 60)], "y.jsonl")
    assert dump.keys[0] == open_dump(tmp_path / "y.jsonl", model=FACTS).keys[0]
    np.testing.assert_array_equal(alone.routes.ids_TLK, sample.routes.ids_TLK)


def test_a_resumed_rollout_keeps_its_versions(tmp_path):
    """A call that goes on with the tokens of the last: spans are shifted, no mask is needed."""
    lines = [
        call(10, 30, weight_version="v1", finish_reason="abort"),
        call(30, 60, weight_version="v2", finish_reason="length"),
    ]
    (sample,) = opened(tmp_path, lines)
    assert sample.weight_spans == (WeightSpan("v1", 0, 20), WeightSpan("v2", 20, 50))
    assert (sample.loss_mask, sample.logprobs, sample.finish_reason) == (None, None, "length")
    assert [s.shared for s in sample.segments] == [0, 29 * 3]


def test_order_in_the_file_does_not_matter(tmp_path):
    """Whatever order the calls are logged in, the sample is the same, where the first one was."""
    lines = [call(10, 18), call(25, 40, start=17), call(50, 60, start=39)]
    other = record(some_ids(9), sample_id="other")
    for order in itertools.permutations(lines):
        dump = opened(tmp_path, [other, *order, other])
        assert [key.sample_id for key in dump.keys] == ["other", "s", "other"]
        np.testing.assert_array_equal(dump[1].routes.ids_TLK, WHOLE)


def test_the_same_tokens_in_two_parts(tmp_path):
    """Two records of the same tokens are parts of one where their starts differ, else two."""
    lines = [call(10, 60, routed_experts=as_npy(WHOLE)), call(10, 60, start=30)]
    (sample,) = opened(tmp_path, lines)
    assert [(s.start, s.shared, s.differing) for s in sample.segments] == [(0, 0, 0), (30, 87, 0)]
    assert len(opened(tmp_path, [call(10, 60), call(10, 60)])) == 2


@pytest.mark.parametrize(
    "change",
    [{"sample_id": "t"}, {"sample_id": None}, {"prompt_token_ids": [1, *TOKENS[1:25]]}],
    ids=["another id", "no id", "other tokens"],
)
def test_separate_requests_stay_separate(tmp_path, change):
    """Without one id, or where the tokens do not go on, two requests are two samples."""
    dump = opened(tmp_path, [call(10, 18), call(25, 40) | change])
    assert len(dump) == 2
    assert [sample.segments for sample in dump] == [(), ()]


def test_siblings_that_go_on_from_one_call(tmp_path):
    """Of two calls that continue one, the first is merged and the second stays by itself."""
    fork = call(25, 40, start=17)
    fork["token_ids"] = [1, *fork["token_ids"][1:]]
    dump = opened(tmp_path, [call(10, 18), call(25, 40, start=17), fork])
    assert [len(sample.segments) for sample in dump] == [2, 0]
    assert [sample.routes.start for sample in dump] == [0, 17]


def test_a_gap_is_missing_rows_and_said(tmp_path):
    """A call whose rows begin late leaves rows missing, which check names as between two calls."""
    dump = opened(tmp_path, [call(10, 18), call(25, 40, start=25)])
    (sample,) = dump
    assert np.flatnonzero(sample.routes.missing_TL.all(axis=1)).tolist() == list(range(17, 25))
    found = codes(dump)
    assert set(found) == {"R205"}
    assert (found["R205"].rows, found["R205"].detail) == (24, "between the rows of two calls")
    assert found["R205"].places[0].position == 17


def test_a_missing_boundary_row_is_said(tmp_path):
    """A turn's last token has no row where the next call begins one too late."""
    (finding,) = check(opened(tmp_path, [call(10, 18), call(25, 40, start=18)])).findings
    assert (finding.code, finding.detail) == ("R204", "between the rows of two calls")


def test_rows_that_disagree_are_a_finding(tmp_path):
    """Where two calls have other experts for a token, the earlier stays and R403 says where."""
    changed = WHOLE.copy()
    changed[5, 1] = (changed[5, 1] + 1 + np.arange(2)) % 8
    dump = opened(tmp_path, [call(10, 18), call(25, 40, ids=changed)])
    (sample,) = dump
    np.testing.assert_array_equal(sample.routes.ids_TLK, WHOLE[:39])
    swapped = np.isin(changed[5, 1], WHOLE[5, 1]).sum()
    finding = codes(dump)["R403" if swapped == 0 else "R404"]
    assert (finding.rows, finding.layers) == (1, (1,))
    place = finding.places[0]
    assert (place.sample, place.position, place.layer) == ("s", 5, 1)
    assert summarize(dump).segment_rows_differing == 1


def test_rounding_between_calls_is_a_note(tmp_path):
    """Single experts that differ in few rows are a note; most rows, or a whole row, are errors."""
    ids = some_ids(59, 3, 4, 32)
    flipped = ids.copy()
    flipped[3, 0, 0] = next(e for e in range(32) if e not in ids[3, 0])
    stale = some_ids(59, 3, 4, 32, seed=9)
    one = ids.copy()
    one[4, 2] = next(r for r in stale[:, 2] if not set(r) & set(ids[4, 2]))
    order = ids[:, :, ::-1]
    facts = type(FACTS)(3, (0, 1, 2), 32, 4, None)
    for other, code in ((flipped, "R404"), (stale, "R403"), (one, "R403"), (order, None)):
        lines = [call(10, 30, ids=ids), call(35, 60, ids=other)]
        dump = open_dump(write_lines(tmp_path / "x.jsonl", lines), model=facts)
        found = {c for c in codes(dump) if c in ("R403", "R404")}
        assert found == ({code} if code else set())
        np.testing.assert_array_equal(dump[0].routes.ids_TLK[:29], ids[:29])


@pytest.mark.parametrize("prompt", [35, 10])
def test_calls_of_two_weight_versions_do_not_round(tmp_path, prompt):
    """Under two weight versions rows that differ are an error, however few; under one, a note."""
    ids = some_ids(59, 3, 4, 32)
    flipped = ids.copy()
    flipped[3, 0, 0] = next(e for e in range(32) if e not in ids[3, 0])
    facts = type(FACTS)(3, (0, 1, 2), 32, 4, None)
    for versions, code in ((("v0", "v0"), "R404"), (("v0", "v1"), "R403"), ((None, None), "R404")):
        said = [{} if v is None else {"weight_version": v} for v in versions]
        lines = [call(10, 30, ids=ids, **said[0]), call(prompt, 60, ids=flipped, **said[1])]
        dump = open_dump(write_lines(tmp_path / "x.jsonl", lines), model=facts)
        found = codes(dump)
        assert {c for c in found if c in ("R403", "R404")} == {code}
        assert found[code].rows == 1
        assert ("several weight versions" in found[code].detail) == (code == "R403")


def test_later_calls_fill_rows_that_are_missing(tmp_path):
    """A row that the earlier call lacks is taken from the later one, and nothing is compared."""
    holed = WHOLE.copy()
    holed[3:6] = -1
    (sample,) = opened(tmp_path, [call(10, 18, ids=holed), call(25, 40)])
    np.testing.assert_array_equal(sample.routes.ids_TLK, WHOLE[:39])
    assert sample.routes.missing_TL is None
    assert sample.segments[1].shared == (17 - 3) * 3


def test_a_call_without_routes(tmp_path):
    """A call whose payload is null leaves its rows missing, to the end of the tokens."""
    dump = opened(tmp_path, [call(10, 18), call(25, 40, routed_experts=None)])
    (sample,) = dump
    assert sample.routes.stop == 39
    assert np.flatnonzero(sample.routes.missing_TL[:, 0]).tolist() == list(range(17, 39))
    assert set(codes(dump)) == {"R202"}
    (sample,) = opened(tmp_path, [call(10, 18, routed_experts=None), call(25, 40, start=17)])
    assert (sample.routes.start, len(sample.segments)) == (17, 1)


def session(ids=WHOLE):
    """miles 31f1ca96, GET /sessions/<id>: SGLang chat responses with meta_info a choice."""

    def one(prompt, total, start):
        scored = [[-0.5, token, None] for token in TOKENS[prompt:total]]
        meta = {
            "id": f"call{prompt}",
            "prompt_tokens": prompt,
            "completion_tokens": total - prompt,
            "output_token_logprobs": scored,
            "routed_experts": as_raw(ids[start : total - 1]),
            "routed_experts_start_len": start,
            "weight_version": "3",
        }
        choice = {"index": 0, "message": {}, "finish_reason": "stop", "meta_info": meta}
        response = {"object": "chat.completion", "id": f"call{prompt}", "choices": [choice]}
        return {"request": {"input_ids": TOKENS[:prompt]}, "response": response}

    calls = [one(10, 18, 0), one(25, 40, 17), one(50, 60, 39)]
    return {"session_id": "abc", "records": calls, "metadata": {}}


def test_a_session_is_one_sample(tmp_path):
    """The records of a session of miles are calls of one sample, by the start in meta_info."""
    doc = session()
    lines = [{"session_id": "abc", **r} for r in doc["records"]]
    for path in (write_json(tmp_path / "a.json", doc), write_lines(tmp_path / "b.jsonl", lines)):
        dump = open_dump(path, model=FACTS)
        assert [key.sample_id for key in dump.keys] == ["abc"]
        np.testing.assert_array_equal(dump[0].routes.ids_TLK, WHOLE)
        assert (dump[0].prompt_length, dump[0].response_length) == (10, 50)
        assert [(s.start, s.end) for s in dump[0].weight_spans] == [(0, 8), (15, 30), (40, 50)]
        assert np.isfinite(dump[0].logprobs).sum() == 8 + 15 + 10
    lines = [{k: v for k, v in r.items() if k != "session_id"} for r in lines]
    assert len(opened(tmp_path, lines)) == 3  # each call has an id of its own


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_cut_merges_back(tmp_path_factory, data):
    """However a sample is cut into calls and starts, the rows that some call has come back."""
    totals = sorted(data.draw(st.sets(st.integers(6, 60), min_size=2, max_size=5)))
    lines, there = [], np.zeros(totals[-1] - 1, bool)
    for i, total in enumerate(totals):
        prompt = data.draw(st.integers(totals[i - 1] if i else 4, total)) if i else 4
        start = data.draw(st.integers(0, prompt if total > prompt else min(prompt, total - 1)))
        there[start : total - 1] = True
        lines.append(call(prompt, total, start=start))
    place = tmp_path_factory.getbasetemp() / "cuts"
    place.mkdir(exist_ok=True)
    (sample,) = opened(place, data.draw(st.permutations(lines)))
    routes = sample.routes
    assert routes.start == int(np.flatnonzero(there)[0]) if there.any() else True
    if there.any():
        got = np.zeros_like(there)
        missing = np.zeros(len(routes.ids_TLK), bool)
        if routes.missing_TL is not None:
            missing = routes.missing_TL.all(axis=1)
            assert (routes.missing_TL.any(axis=1) == missing).all()
        got[routes.start : routes.stop] = ~missing
        assert got.tolist() == there.tolist()
        np.testing.assert_array_equal(routes.ids_TLK[~missing], WHOLE[: len(there)][there])
    assert sum(s.differing for s in sample.segments) == 0
