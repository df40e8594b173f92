"""Plans of micro-batches, what a rank has of them, and the sizes that are refused."""

import re
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.layouts.balancing import first_fit, karmarkar_karp
from routectl.layouts.packing import FORMS, FRAMEWORKS, Packing
from routectl.layouts.plan import MicroBatch, Plan, build_plan
from routectl.layouts.rules import rule_of
from support import foreign

verl = pytest.mark.skipif(not foreign.HAVE_VERL, reason="pip install --no-deps verl==0.9.1")
lengths = st.lists(st.integers(1, 40), max_size=24)
caps = st.integers(1, 90)


def weigh(bins, lens):
    """The tokens of each bin."""
    return [sum(lens[i] for i in b) for b in bins]


def slow_first_fit(lens, cap):
    """Each sample in turn goes to the first bin that stays within the cap."""
    bins = []
    for i, n in enumerate(lens):
        fitting = [b for b, held in zip(bins, weigh(bins, lens), strict=True) if held + n <= cap]
        if fitting:
            fitting[0].append(i)
        else:
            bins.append([i])
    return bins


def slow_schedule(lens, dp, cap):
    """slime's bins of each DP rank: pack, split the heaviest until dp divides, deal in turn."""
    bins = slow_first_fit(lens, cap)
    while not bins or len(bins) % dp:
        many = [k for k, b in enumerate(bins) if len(b) > 1]
        if not many:
            bins.append([])  # slime stops here: fewer samples than ranks
            continue
        held = weigh(bins, lens)
        heaviest = max(many, key=lambda k: (held[k], k))
        left, right = [], []
        for i in sorted(bins[heaviest], key=lambda i: (-lens[i], i)):
            lighter = left if sum(lens[j] for j in left) <= sum(lens[j] for j in right) else right
            lighter.append(i)
        bins[heaviest] = left
        bins.append(right)
    return [bins[rank::dp] for rank in range(dp)]


@given(lengths, caps)
def test_first_fit_is_the_slow_one(lens, cap):
    """first_fit gives the bins of the obvious search through all of them."""
    assert first_fit(lens, cap) == slow_first_fit(lens, cap)


@given(lengths, caps)
def test_first_fit_properties(lens, cap):
    """Each sample is in one bin, no two bins fit in one, and only lone samples pass the cap."""
    bins = first_fit(lens, cap)
    assert sorted(i for b in bins for i in b) == list(range(len(lens)))
    held = weigh(bins, lens)
    assert all(n <= cap or len(b) == 1 for b, n in zip(bins, held, strict=True))
    assert all(a + b > cap for k, a in enumerate(held) for b in held[k + 1 :])


@given(lengths, st.integers(1, 5), caps, st.integers(1, 3))
def test_build_plan_is_slimes_schedule(lens, dp, max_tokens, cp):
    """Every rank has the micro-batches that slime's pack, split and deal gives it, in order."""
    plan = build_plan(lens, dp, max_tokens_per_gpu=max_tokens, cp=cp)
    ranks = [[list(part.groups[r]) for part in plan.micro_batches] for r in range(dp)]
    assert ranks == slow_schedule(lens, dp, max_tokens * cp)


@pytest.mark.parametrize("balance", ["first-fit", "karmarkar-karp"])
@given(lens=lengths, dp=st.integers(1, 5), max_tokens=st.none() | caps, cp=st.integers(1, 3))
def test_build_plan_properties(balance, lens, dp, max_tokens, cp):
    """Ranks have equally many micro-batches, each within the cap or a lone sample's, all once."""
    plan = build_plan(lens, dp, max_tokens_per_gpu=max_tokens, cp=cp, balance=balance)
    plan.check(len(lens), cp)
    assert sorted(plan.samples()) == list(range(len(lens)))
    assert plan.micro_batches
    for part in plan.micro_batches:
        assert (len(part.groups), part.cp) == (dp, None)
        for group, held in zip(part.groups, weigh(part.groups, lens), strict=True):
            assert len(group) < 2 or max_tokens is None or held <= max_tokens * cp
    if max_tokens is None:
        assert len(plan.micro_batches) == 1
    if len(lens) >= dp and balance == "first-fit":
        full = [group for group in plan.micro_batches[0].groups if group]
        assert len(full) == dp, "no rank is without a sample when there are enough"
    assert plan == build_plan(lens, dp, max_tokens_per_gpu=max_tokens, cp=cp, balance=balance)


@given(lens=lengths, dp=st.integers(1, 5), size=st.integers(1, 6))
def test_so_many_samples_each(lens, dp, size):
    """Samples in order, so many in each micro-batch, rank after rank; the last ones may be less."""
    plan = build_plan(lens, dp, micro_batch_size=size)
    plan.check(len(lens), 1)
    assert plan.samples() == list(range(len(lens)))
    sizes = [len(group) for part in plan.micro_batches for group in part.groups]
    whole, rest = divmod(len(lens), size)
    assert sizes == [size] * whole + [rest] * (rest > 0) + [0] * (len(sizes) - whole - (rest > 0))
    assert len(plan.micro_batches) == max(-(-len(lens) // (size * dp)), 1)


def test_karmarkar_karp_plans_grow_until_the_cap_holds():
    """Where an even cut passes the cap, every rank gets one more micro-batch."""
    lens, sizes = [3, 3, 2, 2, 2], {"dp": 2, "max_tokens_per_gpu": 6}
    assert sorted(weigh(karmarkar_karp(lens, 2), lens)) == [5, 7]
    assert len(build_plan(lens, **sizes).micro_batches) == 1
    plan = build_plan(lens, **sizes, balance="karmarkar-karp")
    assert [len(part.groups) for part in plan.micro_batches] == [2, 2]
    assert sorted(plan.samples()) == [0, 1, 2, 3, 4]


@pytest.mark.trainers
@verl
@given(
    st.integers(1, 3000).flatmap(
        lambda most: st.lists(st.integers(0, min(most, 12)) | st.integers(0, most), min_size=1)
    ),
    st.integers(1, 8) | st.integers(9, 70),
)
def test_karmarkar_karp_is_verls(weights, parts):
    """The sets are verl's own: ties, items without weight and more sets than items included."""
    theirs = [sorted(part) for part in foreign.karmarkar_karp(weights, parts)]
    assert karmarkar_karp(weights, parts) == theirs


@pytest.mark.parametrize(
    ("weights", "parts", "sets"),
    [
        ([], 3, [[], [], []]),
        ([7], 1, [[0]]),
        ([7, 2], 4, [[], [], [0], [1]]),
        ([4, 4, 4], 3, [[0], [1], [2]]),
        ([8, 7, 6, 5, 4], 2, [[0, 2], [1, 3, 4]]),  # 8 - 7, 6 - 5; 4 - 1; 3 - 1: 14 and 16
        ([2**70, 2**70 - 1, 3, 2], 2, [[0, 3], [1, 2]]),  # no machine word holds these
    ],
)
def test_karmarkar_karp_by_hand(weights, parts, sets):
    """No items, fewer items than parts, equal items, and the method worked by hand."""
    assert sorted(karmarkar_karp(weights, parts)) == sets


@st.composite
def planned(draw):
    """A layout with a plan: some samples left out, some groups empty, some CP sizes their own."""
    lens = draw(st.lists(st.integers(1, 30), max_size=8))
    tp, cp, dp = (draw(st.integers(1, 3)) for _ in range(3))
    divisors = [None, *(n for n in range(1, dp * cp + 1) if dp * cp % n == 0)]
    own = draw(st.lists(st.sampled_from(divisors), min_size=1, max_size=3))
    groups = [[[] for _ in range(dp * cp // (c or cp))] for c in own]
    everywhere = [group for part in groups for group in part]
    for i in draw(st.permutations(range(len(lens)))):
        k = draw(st.integers(0, len(everywhere)))
        if k:
            everywhere[k - 1].append(i)
    parts = [MicroBatch(tuple(map(tuple, part)), c) for part, c in zip(groups, own, strict=True)]
    several = [name for name in FRAMEWORKS if rule_of(name).form == "thd"]
    framework, form = draw(st.sampled_from(several)), draw(st.sampled_from(FORMS))
    return Packing(lens, framework, tp, cp, form=form, plan=Plan(dp, tuple(parts)))


@given(planned())
def test_every_planned_route_lands_once(packing):
    """Over dp x cp ranks and micro-batches each route of each planned sample is there once."""
    found = Counter()
    ranks = product(range(packing.num_micro_batches), range(packing.dp), range(packing.cp))
    for micro_batch, dp_rank, cp_rank in ranks:
        share = packing.share(micro_batch, dp_rank, cp_rank)
        assert share.packing.lens == tuple(packing.lens[i] for i in share.samples)
        rows = share.packing.local_rows(share.cp_rank).tolist()
        assert rows == [] or share.samples
        found.update((share.samples[i], p) for i, p in rows if i >= 0)
    used = packing.plan.samples()
    assert found == Counter((i, p) for i in used for p in range(packing.num_routes(i)))


def test_a_layout_without_a_plan_is_its_own_share():
    """Without a plan the one micro-batch is the layout, with all samples."""
    packing = Packing([5, 3], "verl", cp=2)
    assert packing.share(cp_rank=1) == (packing, (0, 1), 1)
    assert (packing.dp, packing.num_micro_batches) == (1, 1)
    with pytest.raises(ValueError, match="a plan has many micro-batches"):
        Packing([5, 3], "verl", cp=2, plan=build_plan([5, 3])).local_rows()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cp": 0}, "cp must be at least 1, got 0"),
        ({"framework": "slime", "pad_multiplier": 0}, "pad_multiplier must be at least 1, got 0"),
        ({"sample_multiple": -4}, "sample_multiple must be at least 1, got -4"),
        ({"min_local_rows": 0}, "min_local_rows must be at least 1, got 0"),
        ({"bucket": 0}, "bucket must be at least 1, got 0"),
        ({"form": "bshd", "seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"form": "sbhd"}, "form 'sbhd' is not known: did you mean bshd?"),
        ({"fp8": "int4"}, "fp8 'int4' is not known: blockwise, mxfp8, tensorwise"),
        ({"framework": "slime", "fp8": "mxfp8"}, "slime has no fp8 padding"),
        (
            {"framework": "nemo-rl", "tp": 2, "cp": 2, "sample_multiple": 12},
            "sample_multiple 12 is not a multiple of 8, which nemo-rl needs for tp 2, cp 2",
        ),
        ({"cp": 2, "min_local_rows": 9}, "sample 1 takes 14 places, not divisible by 2 x cp = 4"),
        ({"tp": 2, "min_local_rows": 13}, "13 rows of a CP rank do not divide by tp 2"),
        ({"form": "bshd", "seq_len": 4}, "a sample of 5 tokens is longer than seq_len 4"),
        (
            {"form": "bshd", "cp": 2, "seq_len": 10},
            "seq_len 10 does not divide into 4 CP pieces and tp 1 runs",
        ),
        (
            {"form": "bshd", "tp": 4, "seq_len": 6},
            "seq_len 6 does not divide into 1 CP pieces and tp 4 runs",
        ),
    ],
)
def test_sizes_that_do_not_fit(options, said):
    """Sizes and options that do not fit together are refused with both numbers."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Packing([3, 5], **{"framework": "verl", **options})


@pytest.mark.parametrize(
    ("dp", "cp", "parts", "said"),
    [
        (2, 1, [MicroBatch(((0,),))], "0 has 1 groups, expected dp 2 x cp 1 / 1 = 2"),
        (2, 2, [MicroBatch(((0,), (1,)), 1)], "0 has 2 groups, expected dp 2 x cp 2 / 1 = 4"),
        (1, 2, [MicroBatch(((0,),), 4)], "0 has 1 groups, expected dp 1 x cp 2 / 4 = 1/2"),
        (1, 1, [MicroBatch(((0,),)), MicroBatch(((1, 0),))], "sample 0 is in 2 micro-batches"),
        (1, 1, [MicroBatch(((0, 2),))], "no sample 2 among 2"),
        (1, 1, [MicroBatch(((-1,),))], "no sample -1 among 2"),
    ],
)
def test_plans_that_do_not_fit(dp, cp, parts, said):
    """A plan of other groups, of samples that are not there, or of one twice, is refused."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Packing([3, 5], "verl", cp=cp, plan=Plan(dp, tuple(parts)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"balance": "greedy"}, "balance 'greedy' is not known: first-fit, karmarkar-karp, verl"),
        ({"dp": 0}, "dp must be at least 1, got 0"),
        ({"cp": -1}, "cp must be at least 1, got -1"),
        ({"max_tokens_per_gpu": 0}, "max_tokens_per_gpu must be at least 1, got 0"),
    ],
)
def test_bad_schedules(options, said):
    """Another balance, and sizes below 1, are refused."""
    with pytest.raises(ValueError, match=said):
        build_plan([3, 5], **options)
