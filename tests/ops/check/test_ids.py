"""check on one dump: narrow types, ids of one rank, and starts that nobody gave."""

import json

import numpy as np
import pytest

from routectl.formats import open_dump
from routectl.ops.check.check import check
from support.building import as_npy, as_raw, record, some_ids, write_lines
from support.checks import codes, only
from support.dumps import make_dump, make_routes, make_sample
from support.recordings import FIXTURES

TINY = FIXTURES / "tiny_rl" / "vllm.bf16" / "samples.jsonl"
WIDE = {
    "model_type": "wide",
    "num_hidden_layers": 4,
    "num_experts": 288,
    "num_experts_per_tok": 6,
}


def recorded(folder, change, encode=as_npy, count=8):
    """Responses of a real engine with their ids changed: ``change`` of int32 [T, 6, 4], E = 32."""
    dump, lines = open_dump(TINY), []
    meta = json.loads((TINY.parent / "meta.json").read_text("utf-8"))
    for index in range(count):
        sample = dump[index]
        lines.append(
            {
                "sample_id": sample.sample_id,
                "prompt_token_ids": sample.prompt_ids.tolist(),
                "token_ids": sample.response_ids.tolist(),
                "routed_experts": encode(change(sample.routes.ids_TLK.astype(np.int32))),
            }
        )
    return open_dump(write_lines(folder / "x.jsonl", lines, config=meta["hf_config"]))


def of_rank(low, high, filler):
    """Only experts of one rank, and a filler in the other slots."""
    return lambda ids: np.where((ids >= low) & (ids < high), ids, filler)


@pytest.mark.parametrize(
    ("low", "high", "filler", "encode"),
    [
        (0, 16, -1, as_npy),
        (0, 16, -1, as_raw),
        (16, 32, 32, as_raw),
        (8, 16, 255, lambda ids: as_npy(ids.astype(np.uint8))),
        (24, 32, -1, np.ndarray.tolist),
        (16, 32, 0, as_npy),
    ],
)
def test_ids_of_one_rank_are_one_finding(tmp_path, low, high, filler, encode):
    """Rows with one expert-parallel rank's experts and filler else are named, and that alone."""
    dump = recorded(tmp_path, of_rank(low, high, filler), encode)
    result = check(dump)
    (finding,) = result.findings
    assert (finding.code, finding.samples) == ("R106", 8)
    assert f"experts {low} to {high - 1}" in finding.detail
    assert f"{filler} in the other slots" in finding.detail


def test_one_bad_slot_is_no_rank(tmp_path):
    """A sentinel in a slot of some rows is out of range, whatever the other ids are."""

    def spoil(ids):
        ids[::3, :, 1] = -1
        return ids

    assert codes(check(recorded(tmp_path, spoil))) == {"R101"}


def test_ids_beyond_the_experts_are_one_finding(tmp_path):
    """Whatever each sample's greatest is: one finding, with the least and the greatest of all."""
    ids_of = iter([33, 39, 36, 35, 40, 34, 38, 37])

    def spoil(ids):
        ids[::3, :, 1] = next(ids_of)
        return ids

    (found,) = check(recorded(tmp_path, spoil)).findings
    assert (found.code, found.samples) == ("R101", 8)
    assert found.detail.startswith("ids 33 to 40: physical ones (EPLB), which PATH::expert_map=")
    assert dict(found.facts)["greatest_ids"] == 40


def test_a_layer_of_ids_out_of_range_is_not_constant_too(tmp_path):
    """Where nearly all rows of a layer are out of range the few others say nothing of it."""

    def spoil(ids):
        ids[1:, 3, 2] = 35
        return ids

    assert codes(check(recorded(tmp_path, spoil))) == {"R101"}


def wide_ids(rows, seed):
    """int64 [rows, 4, 6] of 288 experts."""
    return some_ids(rows, 4, 6, 288, seed)


NARROW = {
    "uint8": lambda ids: as_npy(ids.astype(np.uint8)),
    "raw int32": lambda ids: as_raw(ids % 256),
    "lists": lambda ids: (ids % 256).tolist(),
    "int8": lambda ids: as_npy(ids.astype(np.int8)),
    "lists of int8": lambda ids: ids.astype(np.int8).tolist(),
}


@pytest.mark.parametrize("form", NARROW)
def test_ids_kept_in_eight_bits(tmp_path, form):
    """288 experts in 8 bits are named from the dump alone, in every form, as that alone."""
    samples = [wide_ids(60, seed) for seed in range(4)]
    lines = [record(rows, routed_experts=NARROW[form](rows)) for rows in samples]
    result = check(open_dump(write_lines(tmp_path / "x.jsonl", lines, config=WIDE)))
    (finding,) = result.findings
    assert (finding.code, finding.samples) == ("R105", 4)
    assert "cannot hold 288 experts" in finding.detail
    said = "are negative" if form in ("int8", "lists of int8") else "never occur"
    assert said in finding.detail


def test_few_rows_may_lack_the_last_experts(tmp_path):
    """uint8 by the greatest id, as some trainers write it, is no fault where rows are few."""
    ids = np.argsort(np.random.default_rng(0).random((3, 4, 200)), axis=2)[..., :6]
    path = write_lines(
        tmp_path / "x.jsonl",
        [record(ids, 2, routed_experts=as_npy(ids.astype(np.uint8)))],
        config=WIDE,
    )
    assert check(open_dump(path)).findings == ()


def test_a_wide_type_with_all_experts_is_clean(tmp_path):
    """The same ids in uint16 have no finding."""
    lines = [record(wide_ids(60, seed)) for seed in range(3)]
    path = write_lines(tmp_path / "x.jsonl", lines, config=WIDE)
    assert check(open_dump(path)).findings == ()


def started(name, tokens, prompt, start, **more):
    """A sample whose rows begin at ``start``, which nobody said."""
    rng = np.random.default_rng(start + tokens)
    rows = tokens - 1 - start
    ids = np.argsort(rng.random((rows, 3, 6)), axis=2)[..., :2]
    routes = make_routes(ids.tolist(), start=start)
    prompt_ids, response = list(range(prompt)), list(range(50, 50 + tokens - prompt))
    more = {"start_inferred": start > 0, **more}
    return make_sample(routes, name, prompt_ids, response, **more)


STARTS = {  # (tokens, prompt, start, cached): which samples are errors, which notes
    "all at 0": ([(20, 9, 0, None), (30, 9, 0, None)], "", ""),
    "all at the prompt's end": ([(20, 9, 9, None), (30, 12, 12, None)], "", "01"),
    "all at one place": ([(20, 9, 4, None), (30, 12, 4, None)], "", "01"),
    "all at the cached tokens": ([(20, 9, 4, 4), (30, 12, 8, 8), (30, 12, 0, 0)], "", "01"),
    "one elsewhere": ([(20, 9, 0, None), (30, 12, 0, None), (25, 9, 9, None)], "2", ""),
    "most elsewhere": ([(20, 9, 9, None), (30, 12, 12, None), (25, 9, 0, None)], "01", ""),
    "no common rule": ([(20, 9, 9, None), (30, 12, 12, None), (25, 9, 5, None)], "2", "01"),
    "other cached tokens": ([(20, 9, 4, 8), (30, 12, 4, 8)], "01", ""),
    "one row short": ([(20, 9, 1, None), (30, 12, 1, None)], "01", ""),
    "one row short in one": ([(20, 9, 0, None), (30, 12, 1, None)], "1", ""),
    "a prompt of one": ([(20, 1, 1, None), (30, 1, 1, None)], "", "01"),
}


@pytest.mark.parametrize(("samples", "errors", "notes"), STARTS.values(), ids=STARTS)
def test_starts_that_nobody_gave(samples, errors, notes):
    """Starts out of row counts are a note where one rule gives them all, errors where none does."""
    made = [
        started(str(i), tokens, prompt, start, cached_tokens=cached)
        for i, (tokens, prompt, start, cached) in enumerate(samples)
    ]
    result = check(make_dump(made))
    for code, names in (("R013", errors), ("R006", notes)):
        found = [f for f in result.findings if f.code == code]
        assert {place.sample for f in found for place in f.places} == set(names)
    assert codes(result) <= {"R013", "R006"}


@pytest.mark.parametrize("engine", ["tensorrt_llm", "TensorRT-LLM", "trtllm"])
def test_a_declared_engine_counts_one_row_less(tmp_path, engine):
    """Where the dump says TensorRT-LLM, N - 2 rows in every sample are its count: a note."""
    lines = [{**record(some_ids(9, seed=i)), "engine": engine} for i in range(3)]
    for line in lines:
        line["token_ids"].append(7)
    dump = open_dump(write_lines(tmp_path / "x.jsonl", lines))
    assert [(f.code, f.samples) for f in check(dump).findings] == [("R009", 3)]
    assert not dump[0].start_inferred
    lines = [{name: value for name, value in line.items() if name != "engine"} for line in lines]
    dump = open_dump(write_lines(tmp_path / "x.jsonl", lines))
    assert only(check(dump), "R013").samples == 3
    given = open_dump(tmp_path / "x.jsonl", start=0)
    assert [f.code for f in check(given).findings] == ["R009"]
