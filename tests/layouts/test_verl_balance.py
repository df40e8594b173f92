"""Micro-batches as verl's rearrange_micro_batches forms them, as many on every rank."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl import open_dump
from routectl.layouts.balancing import karmarkar_karp
from routectl.layouts.plan import build_plan, verl_plan
from routectl.layouts.verl_balance import verl_micro_batches, verl_ranks
from support import foreign
from support.recordings import FIXTURES

verl = [
    pytest.mark.trainers,
    pytest.mark.skipif(not foreign.HAVE_VERL, reason="pip install --no-deps verl==0.9.1"),
]
LENS = [18, 40, 37, 11, 26, 41, 33, 43, 40, 7, 41, 3, 56, 33, 19, 38, 17, 15]
KEPT = [  # of dp, max_tokens and multiple: each rank's, as verl 0.9.1's own functions gave them
    (1, 128, 1, [[[0, 3, 10, 13], [1, 5, 11, 14], [7, 9, 15, 16], [6, 12, 17], [2, 4, 8]]]),
    (
        2,
        100,
        1,
        [[[5, 11, 15], [6, 12], [0, 1, 3, 14]], [[2, 9, 10], [8, 13, 17], [4, 7, 16]]],
    ),
    (
        2,
        100,
        2,
        [
            [[1, 11, 14], [6, 15], [3, 12], [0, 5]],
            [[9, 10, 17], [2, 13], [4, 8], [7, 16]],
        ],
    ),
    (
        3,
        64,
        3,
        [
            [[17], [15], [7], [1], [4], [3]],
            [[0], [13], [10], [5], [6], [9]],
            [[16], [2], [12], [8], [14], [11]],
        ],
    ),
]


def ranks_of(plan):
    """The micro-batches of each rank."""
    steps = [part.groups for part in plan.micro_batches]
    return [[list(group) for group in rank] for rank in zip(*steps, strict=True)]


@pytest.mark.parametrize(("dp", "cap", "multiple", "ranks"), KEPT)
def test_what_verl_gave(dp, cap, multiple, ranks):
    """Which samples, in which order, in how many micro-batches: as kept of verl's functions."""
    assert ranks_of(verl_plan(LENS, dp, cap, multiple)) == ranks
    if multiple == 1:
        plan = build_plan(LENS, dp, max_tokens_per_gpu=cap // 2, cp=2, balance="verl")
        assert ranks_of(plan) == ranks


def test_fewer_than_by_tokens():
    """verl begins with the fewest that could do: 48 of 400 tokens where even tokens make 56."""
    lens = [sample.num_tokens for sample in open_dump(FIXTURES / "tiny_rl" / "vllm.bf16")]
    options = {"max_tokens_per_gpu": 400}
    assert len(build_plan(lens, balance="verl", **options).micro_batches) == 48
    assert len(build_plan(lens, balance="karmarkar-karp", **options).micro_batches) == 56


def test_without_a_limit():
    """Without a limit every rank has one micro-batch, of samples of nearly as much work."""
    assert ranks_of(build_plan(LENS, 2, balance="verl")) == [[r] for r in verl_ranks(LENS, 2)]
    assert ranks_of(build_plan([], 2, balance="verl")) == [[[]], [[]]]


@pytest.mark.parametrize(
    ("lens", "dp", "cap", "said"),
    [
        ([5, 6, 7], 2, 9, "3 samples do not divide over dp 2: verl adds samples of its own"),
        (
            [5, 60],
            1,
            50,
            "a sample of 60 tokens is over the 50 of a micro-batch, which verl refuses",
        ),
    ],
)
def test_refused_as_verl_does(lens, dp, cap, said):
    """What verl asserts away is refused with both numbers."""
    with pytest.raises(ValueError, match=re.escape(said)):
        build_plan(lens, dp, max_tokens_per_gpu=cap, balance="verl")


def test_more_than_a_rank_has():
    """A number of micro-batches that a rank cannot fill is refused, with the number."""
    with pytest.raises(ValueError, match="need 4 micro-batches, and a rank has 3 samples"):
        verl_micro_batches([5, 6, 7], [[0, 1, 2]], 20, multiple=4)


def test_equal_sizes_divide():
    """Sets of equal size hold as many items each; items that do not divide are refused."""
    assert sorted(map(len, karmarkar_karp(LENS, 3, equal_size=True))) == [6, 6, 6]
    with pytest.raises(ValueError, match="18 items do not divide into 4 sets of equal size"):
        karmarkar_karp(LENS, 4, equal_size=True)


@st.composite
def batches(draw):
    """Lengths that divide over dp ranks, a limit, and what the number must be a multiple of."""
    dp = draw(st.integers(1, 4))
    most = draw(st.sampled_from([3, 40, 5000]))
    each = draw(st.integers(1, 24))
    lens = draw(st.lists(st.integers(1, most), min_size=each * dp, max_size=each * dp))
    cap = max(lens) + draw(st.integers(0, 4 * max(lens)))
    return lens, dp, cap, draw(st.sampled_from([None, None, 2, 3]))


class TestAgainstVerl:
    """verl 0.9.1's own functions, each rank a thread."""

    pytestmark = verl

    @pytest.mark.skipif(not foreign.HAVE_VERL_0_9_1, reason="verl 0.9.0 refuses other batches")
    @given(batches())
    def test_rearrange_micro_batches(self, batch):
        """Ranks, number, members and order of micro-batches are verl's, and so is a refusal."""
        lens, dp, cap, multiple = batch
        work = foreign.workload(lens)
        ranks = foreign.balanced_partitions(work, dp, equal_size=True)
        assert verl_ranks(lens, dp) == ranks
        try:
            found = foreign.micro_batches([[lens[i] for i in r] for r in ranks], cap, multiple)
        except ValueError:
            with pytest.raises(ValueError, match="verl refuses that"):
                verl_plan(lens, dp, cap, multiple or 1)
            return
        theirs = [
            [[rank[k] for k in part] for part in parts]
            for rank, parts in zip(ranks, found, strict=True)
        ]
        assert ranks_of(verl_plan(lens, dp, cap, multiple or 1)) == theirs
