"""Packed layouts: against the frameworks' own functions, and against themselves."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from routectl import Rank, Routes, pack
from routectl.layouts.packing import FORMS, FRAMEWORKS, Packing
from routectl.layouts.plan import MicroBatch, Plan
from routectl.layouts.rules import replay_dtype, rule_of
from routectl.layouts.runs import Run
from support.packs import form_of, sizes_of

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
CASES = json.loads((FIXTURES / "layouts.json").read_text("utf-8"))
REPLAYED = json.loads((FIXTURES / "replayed_rows.json").read_text("utf-8"))
MEGATRON = json.loads((FIXTURES / "megatron_layouts.json").read_text("utf-8"))
MEGATRON_LENS = [5, 12, 1, 9]  # the samples of the recorded THD runs


def named(case):
    """A case's name."""
    fp8 = case.get("fp8", "plain")
    return f"{case['layout']}-tp{case['tp']}-cp{case['cp']}-{fp8}-{len(case['lens'])}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_local_rows_are_the_frameworks_own(case):
    """Every rank's rows are those that the framework's own function gives, row for row."""
    options = {name: case[name] for name in ("pad_multiplier", "fp8") if name in case}
    packing = Packing(case["lens"], case["layout"], case["tp"], case["cp"], **options)
    for cp_rank, rows in enumerate(case["ranks"]):
        expected = [[-1, -1] if row is None else row for row in rows]
        assert packing.local_rows(cp_rank).tolist() == expected


@pytest.mark.parametrize("case", REPLAYED, ids=named)
def test_rows_that_are_replayed_are_the_frameworks_own(case):
    """Every rank's rows hold the routes that the framework's own function puts there, AReaL's
    padding too, which repeats a route; null is filler of another kind.
    """
    sizes = ("pad_multiplier", "min_local_rows", "seq_len")
    options = {name: case[name] for name in sizes if name in case}
    packing = Packing(case["lens"], case["layout"], case["tp"], case["cp"], **options)
    ids = [np.arange(n - 1)[:, None, None] + 100 * i for i, n in enumerate(case["lens"])]
    if not packing.rule.last and packing.rule.padding != "repeat":  # a token has a row there
        ids = [np.arange(n)[:, None, None] + 100 * i for i, n in enumerate(case["lens"])]
    routes = [Routes(held.astype(np.uint16), (0,), 400) for held in ids]
    repeats = packing.rule.padding == "repeat"
    for cp_rank, rows in enumerate(case["ranks"]):
        packed = pack(routes, packing, Rank(cp_rank))
        real = np.array([row is not None for row in rows])
        assert (packed.mask <= real).all()
        assert repeats or packed.mask.tolist() == real.tolist()
        expected = [100 * row[0] + row[1] for row in rows if row is not None]
        assert packed.ids_LRK[0, real, 0].tolist() == expected


@pytest.mark.parametrize("case", MEGATRON["layout"], ids=lambda c: f"tp{c['tp']}-cp{c['cp']}")
def test_stream_positions_are_megatrons(case):
    """In real Megatron runs each rank holds the places of the stream that the layout says."""
    packing = Packing(MEGATRON_LENS, "verl", case["tp"], case["cp"])
    assert packing.cu_seqlens_padded.tolist() == case["thd_cu_seqlens_padded"]
    tp_rank = case["tp_rank"] if case["tp"] > 1 else None
    found = packing.stream_positions(case["cp_rank"], tp_rank)
    assert found.tolist() == case["thd_stream_positions"]


@st.composite
def packings(draw):
    """Any layout of up to 6 samples, 1 token included."""
    framework = draw(st.sampled_from(FRAMEWORKS))
    lens = draw(st.lists(st.integers(1, 40), max_size=6))
    sizes = sizes_of(framework, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    tp, cp = sizes["tp"], sizes["cp"]
    multiplier = draw(st.integers(1, 9)) if "mult" in rule_of(framework, cp).total else None
    form = form_of(framework, draw(st.sampled_from(FORMS)))
    padded = rule_of(framework).fp8 == "verl" or (rule_of(framework).fp8 and form == "thd")
    fp8 = draw(st.sampled_from([None, "mxfp8"])) if padded else None
    try:
        return Packing(lens, framework, tp, cp, multiplier, fp8, form=form)
    except ValueError:
        assert framework == "ms-swift"  # its padding after the samples need not divide by 2 cp
        reject()


@given(packings())
def test_every_route_lands_once(packing):
    """Over all ranks each (sample, position) with a route is there exactly once."""
    rows = [tuple(r) for c in range(packing.cp) for r in packing.local_rows(c).tolist()]
    real = [row for row in rows if row != (-1, -1)]
    last = packing.rule.last
    assert sorted(real) == [(i, p) for i, n in enumerate(packing.lens) for p in range(n - last)]
    assert len(rows) == packing.cp * packing.num_local_rows == packing.cu_seqlens_padded[-1]


@given(packings())
def test_places_that_a_trainer_says(packing):
    """Padded lengths that are given lay rows out as the framework's rule that gives the same."""
    if packing.form != "thd":
        reject()
    places = np.diff(packing.cu_seqlens_padded).tolist()
    sizes = packing.framework, packing.tp, packing.cp
    try:
        said = Packing(packing.lens, *sizes, padded_lens=places)
    except ValueError:
        assert "mult" in packing.rule.total  # padding after the samples that CP cannot cut
        reject()
    for cp_rank, tp_rank in itertools.product(range(packing.cp), (None, *range(packing.tp))):
        rows = packing.local_rows(cp_rank, tp_rank)
        np.testing.assert_array_equal(said.local_rows(cp_rank, tp_rank), rows)


@given(packings(), st.booleans())
def test_unpack_inverts_pack(packing, split):
    """unpack(pack(x)) = x in every token that has a row, with and without the SP split."""
    rng = np.random.default_rng(3)
    samples = [rng.integers(0, 99, (n, 2, 3), dtype=np.int16) for n in packing.lens]
    tp_ranks = range(packing.tp) if split and packing.tp > 1 else (None,)
    ranks = [(c, t) for c in range(packing.cp) for t in tp_ranks]
    if not samples:
        assert packing.local_rows(0).shape == (0, 2)
        return
    parts = [packing.pack(samples, c, t, fill=-7) for c, t in ranks]
    last = packing.rule.last
    for found, sample in zip(packing.unpack(parts, fill=-7), samples, strict=True):
        np.testing.assert_array_equal(found[: len(sample) - last], sample[: len(sample) - last])
        assert (found[len(sample) - last :] == -7).all()


@given(packings())
def test_sp_ranks_split_a_cp_ranks_rows(packing):
    """The TP ranks' rows, end to end, are the CP rank's rows, unless samples stay together."""
    if packing.form == "bshd-b-major":
        packing = dataclasses.replace(packing, form="bshd")
    for cp_rank in range(packing.cp):
        parts = [packing.local_rows(cp_rank, t) for t in range(packing.tp)]
        np.testing.assert_array_equal(np.concatenate(parts), packing.local_rows(cp_rank))


@given(packings())
def test_runs_are_the_rows(packing):
    """The slices of a rank spell its rows, padding left out; none is empty."""
    for cp_rank in range(packing.cp):
        rows = packing.local_rows(cp_rank)
        spelled = np.full_like(rows, -1)
        for row, step, sample, at, size in packing.runs(cp_rank):
            assert size > 0
            place = slice(row, row + step * size, step)
            spelled[place, 0] = sample
            spelled[place, 1] = np.arange(at, at + size)
        np.testing.assert_array_equal(spelled, rows)


@pytest.mark.parametrize(
    ("framework", "options", "edges"),
    [
        ("verl", {"bucket": 16}, [0, 3, 16]),
        ("verl-contiguous", {"min_local_rows": 16}, [0, 3, 16]),
        ("slime", {"pad_multiplier": 16}, [0, 3, 8, 16]),
        ("miles-allgather", {"pad_multiplier": 16}, [0, 3, 8, 16]),
        ("ms-swift", {"tp": 16}, [0, 3, 8, 16]),
        ("ms-swift-contiguous", {"tp": 8, "cp": 2}, [0, 4, 12, 16]),
        ("areal", {"tp": 3}, [0, 3, 9, 768]),
        ("prime-rl", {"tp": 3}, [0, 3, 8, 9]),
        ("ulysses", {"cp": 3}, [0, 3, 8, 9]),
        ("ulysses", {"cp": 4}, [0, 3, 8]),
    ],
)
def test_whose_total_padding_is(framework, options, edges):
    """What pads the stream belongs to the last sample, or is a sequence of its own where any is."""
    packing = Packing([3, 5], framework, **options)
    assert packing.cu_seqlens_padded.tolist() == edges
    assert packing.cu_seqlens.tolist() == [0, 3, 8]


def test_a_framework_with_one_form_has_it_unasked():
    """NeMo-RL's Automodel flattens its batch sample by sample, on neither tp nor cp."""
    packing = Packing([2, 3], "nemo-rl-automodel")
    assert (packing.form, packing.padded_seq_len) == ("bshd-b-major", 3)
    assert packing.local_rows().tolist() == [[0, 0], [0, 1], [-1, -1], [1, 0], [1, 1], [1, 2]]
    with pytest.raises(ValueError, match="nemo-rl-automodel has form bshd-b-major, got bshd"):
        Packing([2, 3], "nemo-rl-automodel", form="bshd")
    with pytest.raises(ValueError, match="nemo-rl-automodel has no cp, got 2"):
        Packing([2, 3], "nemo-rl-automodel", cp=2)


def test_xtuner_feeds_no_last_token():
    """xtuner's model is fed N - 1 tokens: samples of 3, 1 and 5 take 2, 0 and 4 places."""
    packing = Packing([3, 1, 5], "xtuner", cp=2, min_local_rows=5)
    assert packing.cu_seqlens.tolist() == [0, 2, 2, 6]
    assert packing.cu_seqlens_padded.tolist() == [0, 2, 2, 6, 10]
    assert packing.local_rows(0).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]
    assert packing.local_rows(1).tolist() == [[2, 3], *[[-1, -1]] * 4]


@pytest.mark.parametrize(
    ("framework", "dtypes"),
    [
        ("vime", ["uint8", "uint8", "uint8", "int32", "int32", "int32"]),
        ("roll", ["uint8", "uint8", "uint8", "int16", "int16", "int16"]),
        ("prime-rl", ["uint8", "uint8", "uint8", "uint16", "uint16", "uint16"]),
        ("nemo-rl", ["int8", "int16", "int16", "int16", "int16", "int32"]),
        ("verl", ["int16"] * 6),
        ("skyrl", ["int32"] * 6),
        ("megatron", ["int64"] * 6),
    ],
)
def test_dtypes_of_replay_tensors(framework, dtypes):
    """A replay tensor is of the framework's dtype, or of the narrowest that holds E experts."""
    sizes = (128, 129, 256, 257, 32768, 32769)
    assert [replay_dtype(rule_of(framework), size).name for size in sizes] == dtypes


@pytest.mark.parametrize(
    ("greatest", "dtype"), [(0, "uint8"), (255, "uint8"), (256, "int16"), (32767, "int16")]
)
def test_roll_goes_by_the_greatest_id_of_the_batch(greatest, dtype):
    """ROLL's get_routed_experts_dtype asks what ids the batch holds, and not how many there are."""
    assert replay_dtype(rule_of("roll"), 512, greatest) == dtype
    assert replay_dtype(rule_of("verl"), 512, greatest) == "int16"


@pytest.mark.parametrize(
    ("framework", "fp8", "tp", "cp", "multiple"),
    [
        ("skyrl", None, 2, 2, 8),
        ("skyrl", "mxfp8", 2, 2, 128),
        ("skyrl", "blockwise", 2, 2, 512),
        ("skyrl", "tensorwise", 2, 2, 512),
        ("skyrl", "mxfp8", 1, 1, 32),
        ("skyrl", "blockwise", 1, 1, 16),
        ("skyrl", "blockwise", 1, 2, 32),
        ("skyrl", "blockwise", 2, 1, 256),
        ("skyrl", "mxfp8", 3, 1, 96),
        ("skyrl", None, 3, 1, 3),
        ("skyrl-0.3", "mxfp8", 2, 2, 32),
        ("skyrl-0.3", "blockwise", 2, 2, 32),
        ("skyrl-0.3", "blockwise", 3, 1, 48),
    ],
)
def test_what_skyrl_pads_a_sample_for(framework, fp8, tp, cp, multiple):
    """SkyRL 0.4 pads for whole fp8 tiles on each rank, 0.3 for 16 rows on each CP rank."""
    assert Packing([9, 5], framework, tp, cp, fp8=fp8).alignment == multiple


@pytest.mark.parametrize(
    ("framework", "tp", "fp8", "lens", "seq_len"),
    [
        ("skyrl", 2, None, [9, 5], 10),
        ("skyrl", 2, "mxfp8", [9, 5], 64),
        ("skyrl", 2, "blockwise", [9, 5], 256),
        ("skyrl", 4, "mxfp8", [33, 5], 128),
        ("skyrl", 4, "blockwise", [33, 5], 512),
        ("skyrl-0.3", 4, "blockwise", [33, 5], 48),
    ],
)
def test_skyrls_unpacked_batches(framework, tp, fp8, lens, seq_len):
    """Without packing SkyRL pads to what get_unpacked_seq_align_size says; it has no CP there."""
    packing = Packing(lens, framework, tp, form="bshd", fp8=fp8)
    assert packing.padded_seq_len == seq_len


def test_relax_pads_for_its_vl_bridge_under_cp_alone():
    """Relax VL without CP is Relax: one tail to tp x 128 rows, and a multiplier may be given."""
    alone = Packing([9, 5], "relax-vl", tp=2)
    assert alone.cu_seqlens_padded.tolist() == [0, 9, 14, 256]
    assert alone.local_rows().tolist() == Packing([9, 5], "relax", tp=2).local_rows().tolist()
    assert Packing([9, 5], "relax-vl", tp=2, pad_multiplier=4).num_local_rows == 16
    assert Packing([9, 5], "relax-vl", tp=2, cp=2).cu_seqlens_padded.tolist() == [0, 16, 24]


@given(st.integers(0, 9), st.integers(1, 3), st.integers(0, 5), st.integers(1, 6), st.data())
def test_part_of_a_run(row, step, position, size, data):
    """The part of a run within positions holds those of its rows, or there is none."""
    start, stop = (data.draw(st.integers(0, 14)) for _ in range(2))
    run = Run(row, step, 2, position, size)
    rows = dict(zip(range(position, position + size), range(row, 99, step), strict=False))
    wanted = {at: row for at, row in rows.items() if start <= at < stop}
    part = run.within(start, stop)
    if not wanted:
        assert part is None
        return
    assert (part.sample, part.step, part.position, part.size) == (2, step, min(wanted), len(wanted))
    assert list(range(99))[part.rows] == list(wanted.values())


@pytest.mark.parametrize(
    ("framework", "tp", "cp", "seq_len"),
    [
        ("verl", 1, 1, 5),
        ("verl", 1, 2, 8),
        ("slime", 2, 2, 8),
        ("slime", 3, 1, 6),
        ("prime-rl", 1, 2, 6),
        ("prime-rl", 2, 2, 8),
        ("ulysses", 1, 5, 5),
    ],
)
@pytest.mark.parametrize("form", ["bshd", "bshd-b-major"])
def test_bshd_takes_the_least_that_divides(form, framework, tp, cp, seq_len):
    """S is the longest sample rounded up to tp x cp, or to tp x 2 cp where CP zigzags."""
    packing = Packing([3, 5], framework, tp, cp, form=form)
    assert packing.padded_seq_len == seq_len
    assert packing.cu_seqlens_padded.tolist() == [0, seq_len, 2 * seq_len]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([3], "deepspeed"), "'deepspeed' is not known: verl"),
        (([3, 0],), r"lens\[1\] must be at least 1, got 0"),
        (([3], "verl", 0), "tp must be at least 1, got 0"),
        (([3], "verl", 1, 1, 4), "verl has no pad_multiplier"),
    ],
)
def test_bad_arguments(arguments, said):
    """Sizes below 1, unknown frameworks and unused multipliers are refused."""
    with pytest.raises(ValueError, match=said):
        Packing(*arguments)


def test_bad_ranks_and_parts():
    """A rank that is not there, and parts of other sizes or number, are refused."""
    packing = Packing([5, 3], "verl", tp=2, cp=2)
    with pytest.raises(ValueError, match="no rank cp=2: cp is 2"):
        packing.local_rows(2)
    with pytest.raises(ValueError, match="no rank tp=2: tp is 2"):
        packing.local_rows(0, 2)
    with pytest.raises(ValueError, match="got 3 parts, expected 2 or 4"):
        packing.unpack([np.zeros((8, 1))] * 3)
    with pytest.raises(ValueError, match="got 7 rows, expected 8"):
        packing.unpack([np.zeros((7, 1))] * 2)
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"got {number} samples, expected 2"):
            packing.pack([np.zeros((5, 1))] * number)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "bshd", "bucket": 8}, "form bshd has no bucket: give seq_len"),
        ({"form": "bshd", "min_local_rows": 8}, "form bshd has no min_local_rows"),
        ({"form": "bshd", "sample_multiple": 8}, "form bshd has no sample_multiple"),
        ({"seq_len": 8}, "form thd has no seq_len, got 8"),
        ({"framework": "nemo-rl", "form": "bshd", "fp8": "mxfp8"}, "no fp8 padding in bshd: give"),
        (
            {"framework": "skyrl", "form": "bshd", "fp8": "mxfp8", "cp": 2},
            "skyrl has no fp8 padding in bshd with CP: give seq_len",
        ),
        ({"framework": "relax-vl", "pad_multiplier": 4, "cp": 2}, "no pad_multiplier with CP"),
        ({"framework": "verl", "pad_multiplier": 4}, "verl has no pad_multiplier"),
        ({"framework": "ms-swift", "tp": 3, "cp": 2}, "padding after the samples takes 2 places"),
        ({"form": "bshd", "padded_lens": [4]}, "form bshd has no padded_lens: give seq_len"),
        ({"padded_lens": [4], "bucket": 4}, "padded_lens says the padding: bucket has no effect"),
        ({"padded_lens": []}, "padded_lens has 0 places for 1 samples"),
        ({"padded_lens": [0, 4]}, "sample 0: 1 tokens in 0 places"),
        ({"padded_lens": [3], "tp": 2}, "padded_lens are 3 places in all, not divisible by tp 2"),
        ({"padded_lens": [6], "cp": 2}, "sample 0 takes 6 places, not divisible by 2 x cp = 4"),
    ],
)
def test_options_without_effect_are_refused(options, said):
    """An option that the form does not use, or a tail that CP cannot cut, is a ValueError."""
    with pytest.raises(ValueError, match=said):
        Packing([1], **options)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((2, 0, 0), "no rank micro_batch=2: micro_batch is 1"),
        ((0, 2, 0), "no rank dp=2: dp is 2"),
        ((0, -1, 0), "no rank dp=-1: dp is 2"),
        ((0, 0, 2), "no rank cp=2: cp is 2"),
    ],
)
def test_a_share_of_a_rank_that_is_not_there(place, said):
    """share() refuses micro-batches and ranks that the plan does not have."""
    plan = Plan(2, (MicroBatch(((0,), (1,))),))
    with pytest.raises(ValueError, match=said):
        Packing([5, 3], cp=2, plan=plan).share(*place)
