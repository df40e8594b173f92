"""The recorded numbers, exactly: real engines against transformers, and against each other.

The expected figures come from fixtures/*/compare_hf.json and truth.json, computed by programs that
share no code with routectl.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import oracles
from routectl.dump import Dump, Sample
from routectl.formats import open_dump
from routectl.ops.diff.diff import diff
from routectl.ops.diff.measures import layer_measures, rate, total_measures
from routectl.ops.summary import summarize
from routectl.reports.diff.document import diff_document
from routectl.routes import Routes
from support.dumps import part_of
from support.tiny_rl import COMPARISONS, TINY, TRUTH, assert_recorded

FIXTURES = Path(__file__).parent.parent.parent.parent / "fixtures"
RECORDINGS = FIXTURES / "recordings"
ENGINES = {"vllm": "vllm-0.32.0", "sglang": "sglang-0.5.23"}
PAIRS = sorted(path.stem for path in (FIXTURES / "hf").glob("*.npz"))
# rows and row mismatch of the bf16 engine against float32 transformers, as the data README has them
README = {
    "vllm.qwen3_moe.bf16": (35_424, 0.1016),
    "vllm.qwen3_moe_soft.bf16": (45_120, 0.0732),
    "vllm.deepseek_v3.bf16": (22_444, 0.1786),
    "sglang.qwen3_moe.bf16": (33_570, 0.1317),
    "sglang.qwen3_moe_soft.bf16": (45_144, 0.0658),
}


def folder(name):
    """The recording of ``engine.model.dtype`` in GRPO mode, or of a folder's own name."""
    engine, _, rest = name.partition(".")
    place = RECORDINGS / ENGINES[engine] / rest
    return place if place.exists() else place.with_name(f"{rest}.grpo")


@functools.cache
def recording(name):
    """A recorded dump."""
    return open_dump(next(folder(name).glob("samples.jsonl*")))


@functools.cache
def reference(name):
    """transformers' float32 routes and log-probs of the same tokens."""
    return open_dump(FIXTURES / "hf" / f"{name}.npz")


@functools.cache
def compared(name):
    """The comparison of a recording with transformers."""
    return diff(recording(name), reference(name))


def truth_of(name):
    """What the independent script found."""
    return json.loads((folder(name) / "compare_hf.json").read_text("utf-8"))["hf_float32"]


def test_all_references_are_compared():
    """Both engines have a float32 reference, and every bf16 recording of the README has one."""
    assert set(README) <= set(PAIRS)
    single = [name for name in PAIRS if name.endswith(".fp32")]
    assert {name.split(".")[0] for name in single} == set(ENGINES)
    assert set(PAIRS) == {*README, *single}


@pytest.mark.parametrize("name", PAIRS)
def test_engine_against_transformers(name):
    """Rows, mismatched rows, per layer too, and log-probs are those that were recorded."""
    result, truth = compared(name), truth_of(name)
    assert result.rows == truth["rows"]
    assert result.rows_mismatched == round(truth["row_mismatch"] * truth["rows"])
    assert rate(result.rows_mismatched, result.rows) == truth["row_mismatch"]
    by_layer = {str(m.layer): m.mismatch_rate for m in layer_measures(result.counts, result.layers)}
    expected = truth["per_layer_row_mismatch"]
    assert {layer: round(value, 5) for layer, value in by_layer.items()} == expected
    assert 1 - total_measures(result).overlap_rate == pytest.approx(truth["slot_mismatch"])
    sums = result.logprobs
    assert sums.max_abs == pytest.approx(truth["logprob_abs_diff_max"], abs=1e-4)
    assert sums.sum_of("abs") / sums.tokens == pytest.approx(
        truth["logprob_abs_diff_mean"], abs=1e-5
    )
    samples = result.samples
    assert samples.compared == samples.old == samples.new == 46
    assert result.counts.only_old == result.counts.missing_L.sum() == 0
    assert result.counts.only_new == 46 * len(result.layers)  # the trainer feeds the last token too


@pytest.mark.parametrize("name", [name for name in PAIRS if name.endswith(".fp32")])
def test_float32_engine_takes_the_same_experts(name):
    """A float32 engine takes the sets that float32 transformers takes, in every row."""
    assert compared(name).rows > 20_000
    assert compared(name).rows_mismatched == compared(name).tokens_mismatched == 0


@pytest.mark.parametrize("name", README)
def test_bf16_engine_differs_as_in_the_readme(name):
    """The rows and the mismatch rate of each bf16 recording are the data README's."""
    result = compared(name)
    assert (result.rows, round(result.rows_mismatched / result.rows, 4)) == README[name]


@pytest.mark.parametrize("name", PAIRS)
def test_places(name):
    """Rows of the prompt, of its cached part and of the response are those that were recorded."""
    found = {
        place: tuple(row[2:])
        for place, row in zip(
            ("prompt", "cached", "gen"), compared(name).counts.places_P4.tolist(), strict=True
        )
    }
    expected = truth_of(name)["by_place_row_mismatch"]
    wrong = {place: round(rows * share) for place, (rows, share) in expected.items()}
    assert found["cached"] == (expected["cached"][0], wrong["cached"])
    assert found["gen"] == (expected["gen"][0], wrong["gen"])
    whole = expected["prompt"][0] + expected["cached"][0]
    assert found["prompt"] == (whole, wrong["prompt"] + wrong["cached"])


@pytest.mark.parametrize("place", sorted(RECORDINGS.glob("*/*/")), ids=lambda p: p.name)
def test_rows_of_every_recording(place):
    """Every recording, whatever its mode, holds the rows that the independent script compared."""
    truth = json.loads((place / "compare_hf.json").read_text("utf-8"))["hf_float32"]
    summary = summarize(open_dump(next(place.glob("samples.jsonl*"))))
    assert (summary.rows, summary.rows_missing_L.sum()) == (truth["rows"], 0)
    layers = [int(layer) for layer in truth["per_layer_row_mismatch"]]
    assert list(summary.meta.layers_L) == layers
    assert {summary.meta.num_experts, summary.meta.top_k} in ({32, 4}, {64, 8})


def shifted(dump, by):
    """The dump with its routes moved by some positions; rows that leave the sequence are cut."""

    def load(index):
        sample = dump[index]
        routes = sample.routes
        ids = routes.ids_TLK[max(0, -by - routes.start) :]
        start = max(0, routes.start + by)
        moved = Routes(np.ascontiguousarray(ids), routes.layers_L, routes.num_experts, start)
        return Sample(moved, sample.sample_id, None, sample.prompt_ids, sample.response_ids)

    return Dump(dump.meta, dump.keys, load)


@pytest.mark.parametrize("by", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("name", PAIRS)
def test_shifts(name, by):
    """Routes moved by a position differ nearly everywhere, by the rate that was recorded."""
    result = diff(shifted(recording(name), by), reference(name))
    left = 46 * len(result.layers) * max(-by, by - 1, 0)  # transformers has one row more a sample
    assert result.rows == truth_of(name)["rows"] - left
    found = round(result.rows_mismatched / result.rows, 4)
    assert found == truth_of(name)["shift_row_mismatch"][str(by)]


@pytest.mark.parametrize("by", [-1, 1])
def test_start_moves_rows_back(by):
    """A start that tells of the shift puts every row back in its place."""
    moved = shifted(recording("vllm.qwen3_moe.fp32"), by)
    result = diff(shifted(moved, -by), reference("vllm.qwen3_moe.fp32"))
    assert result.rows_mismatched == 0


def test_batch_noise_of_one_engine():
    """Chunked against async scheduling: no set differs; 5 of 33,420 rows are in another order."""
    sides = recording("vllm.qwen3_moe.bf16.chunked"), recording("vllm.qwen3_moe.bf16.grpo.async")
    result = diff(*sides)
    assert (result.rows, result.rows_mismatched, int(result.counts.order_L.sum())) == (33_420, 0, 5)
    by_hand = [
        (index, t, layer)
        for index, (a, b) in enumerate(zip(*sides, strict=True))
        for t, (old, new) in enumerate(
            zip(a.routes.ids_TLK.tolist(), b.routes.ids_TLK.tolist(), strict=True)
        )
        for layer in range(6)
        if old[layer] != new[layer] and not oracles.swap_count(old[layer], new[layer])
    ]
    assert len(by_hand) == 5
    assert len({index for index, _, _ in by_hand}) == 3
    layers = [layer for _, _, layer in by_hand]
    assert result.counts.order_L.tolist() == [layers.count(n) for n in range(6)]


def test_two_engines_by_prefix():
    """float32 vLLM and SGLang take the same sets wherever the tokens before are the same."""
    sides = recording("vllm.qwen3_moe.fp32"), recording("sglang.qwen3_moe.fp32")
    result = diff(*sides, match="prefix")
    assert result.match == {"prefix": 46}
    assert result.rows > 25_000
    assert result.rows_mismatched == 0
    assert result.counts.only_old > 0  # what was sampled after the sides parted


# mismatched rows, rate, tokens with a mismatch, rows by swaps, as the data README has them
TABLE = {
    ("engine", "v0"): (2_055, 0.0202, 1_534, [2_049, 6, 0]),
    ("v0", "v1"): (8_536, 0.0840, 6_186, [8_443, 84, 9]),
    ("v0", "v2"): (12_565, 0.1237, 8_393, [12_344, 213, 8]),
    ("engine", "v1"): (8_749, 0.0861, 6_327, [8_650, 91, 8]),
    ("engine", "v2"): (12_780, 0.1258, 8_512, [12_580, 192, 8]),
}


@functools.cache
def tiny(side):
    """One side of the comparisons of the trained model."""
    if side == "engine":
        return open_dump(TINY / "vllm.bf16" / "samples.jsonl")
    return open_dump(TINY / f"routes_{side}.fp32.npz", model=TINY / "config.json")


@functools.cache
def tiny_diff(old, new):
    """One comparison of the trained model."""
    return diff(tiny(old), tiny(new))


def test_every_float32_comparison_is_named():
    """Every comparison of truth.json that is not of transformers in bf16 is reproduced here."""
    routes = {name for name, found in TRUTH.items() if "rows" in found}
    assert set(COMPARISONS) == {n for n in routes if "bf16" not in n.replace("engine bf16", "")}


@pytest.mark.parametrize("name", COMPARISONS)
def test_trained_model(name):
    """Mismatch, staleness and their total of the trained model are those that were recorded."""
    result, truth = tiny_diff(*COMPARISONS[name]), TRUTH[name]
    assert_recorded(result, truth)
    assert round(result.rows_mismatched / result.rows, 6) == truth["rate"]


@pytest.mark.parametrize("sides", TABLE)
def test_table_of_the_readme(sides):
    """The data README's table: 96 samples, 16,936 tokens, 101,616 rows, and each line's counts."""
    result = tiny_diff(*sides)
    assert (result.samples.compared, result.num_tokens, result.rows) == (96, 16_936, 101_616)
    mismatched, share, tokens, swaps = TABLE[sides]
    assert (result.rows_mismatched, result.tokens_mismatched) == (mismatched, tokens)
    assert round(result.rows_mismatched / result.rows, 4) == share
    assert result.counts.swaps_LS.sum(axis=0)[1:4].tolist() == swaps


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_logprobs_of_the_trained_model(version):
    """k1, k3, mean |d| and F(2) against transformers are those that were recorded."""
    # The script ran transformers 5.19.0, the fixture 5.23.0: float32 rounding differs, no count.
    result = diff(tiny("engine"), open_dump(TINY / f"transformers_{version}.fp32.npz"))
    assert result.rows_mismatched == TABLE["engine", version][0]
    sums, truth = result.logprobs, TRUTH[f"logprob fp32 {version}"]
    assert (sums.tokens, sums.over_tau / sums.tokens) == (truth["tokens"], truth["F2"])
    assert sums.sum_of("k3") / sums.tokens == pytest.approx(truth["k3"], rel=1e-5)
    assert -sums.sum_of("d") / sums.tokens == pytest.approx(truth["k1"], rel=1e-5)
    assert sums.sum_of("abs") / sums.tokens == pytest.approx(truth["mean_abs"], rel=1e-5)


def test_parts_of_a_recording_add_up():
    """The results of two halves of the samples add up to the result of the whole."""
    whole = tiny_diff("engine", "v0")
    halves = (range(0, 96, 2), range(1, 96, 2))
    parts = [diff(*(part_of(tiny(side), half) for side in ("engine", "v0"))) for half in halves]
    total = parts[0] + parts[1]
    assert (total.rows, total.rows_mismatched) == (whole.rows, whole.rows_mismatched)
    assert total.samples == whole.samples
    for name in ("swaps_LS", "order_L", "depth_N", "first_L", "places_P4", "bins_B4"):
        assert np.array_equal(getattr(total.counts, name), getattr(whole.counts, name))
    assert diff_document(total) == diff_document(whole)
