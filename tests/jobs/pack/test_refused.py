"""What pack and unpack refuse: the exception and what it says."""

import random

import numpy as np
import pytest
import torch

from routectl import MicroBatch, Packed, Packing, Pipeline, Plan, Rank, TensorSpec, pack, unpack
from routectl.errors import MismatchError
from support.dumps import LAYERS, make_dump, make_routes, make_sample
from support.packs import routes_like

KIND = (3, 300, None)


def some(rows=4, layers=(0, 1), kind=KIND):
    """Random routes."""
    return routes_like(random.Random(rows), rows, layers, kind)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (some(3, (0, 2)), r"sample 1: got layers_L \(0, 2\), expected \(0, 1\)"),
        (some(3, (0, 1, 2)), r"sample 1: got layers_L \(0, 1, 2\), expected \(0, 1\)"),
        (some(3, kind=(3, 299, None)), "sample 1: got num_experts 299, expected 300"),
        (some(3, kind=(2, 300, None)), "sample 1: got top_k 2, expected 3"),
        (some(5), "sample 1: has a route at position 4, but 4 tokens"),
    ],
)
def test_samples_that_do_not_fit(other, said):
    """Samples of other layers, E or K, or with rows beyond their length, are refused by index."""
    with pytest.raises(MismatchError, match=said):
        pack([some(), other], Packing([5, 4]))
    with pytest.raises(MismatchError, match=said):
        pack([make_sample(some()), make_sample(other)], Packing([5, 4]))


def test_a_sample_that_no_row_of_the_rank_holds():
    """A rank refuses a sample that does not fit even where it has none of its rows."""
    packing = Packing([9, 1, 2], "prime-rl", cp=3)
    assert not (packing.local_rows(0)[:, 0] == 2).any()
    with pytest.raises(MismatchError, match="sample 2: got top_k 2, expected 3"):
        pack([some(8), None, some(1, kind=(2, 300, None))], packing, Rank(0))


def test_a_dump_says_what_its_samples_must_be():
    """A sample unlike its dump's meta is refused."""
    dump = make_dump([make_sample(make_routes([[[0, 1]] * 3] * 2))], LAYERS, experts=7)
    with pytest.raises(MismatchError, match="sample 0: got num_experts 6, expected 7"):
        pack(dump, Packing([3]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_number_of_samples(count):
    """As many samples as the packing has lengths, no fewer and no more."""
    said = f"got {count} samples, the packing has 2" if count else "no sample has routes"
    with pytest.raises(MismatchError, match=said):
        pack([some()] * count, Packing([5, 5]))


def test_nothing_to_pack():
    """Without any routes K and E are not known, so nothing is packed."""
    with pytest.raises(MismatchError, match="no sample has routes: nothing to pack"):
        pack([None, make_sample(None)], Packing([5, 5]))


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 5, 4), np.int64),
        np.zeros((2, 6, 3), np.int64),
        np.zeros((1, 5, 3), np.int64),
        np.zeros((2, 15), np.int64),
        torch.zeros((5, 2, 3), dtype=torch.int64),
    ],
)
def test_out_of_another_shape(out):
    """An out that is not [L, R, K] is refused with both shapes."""
    with pytest.raises(MismatchError, match=r"out must be C-ordered \(2, 5, 3\), got \("):
        pack([some()], Packing([5]), out=out)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 5, 3), np.int64, order="F"),
        np.zeros((5, 2, 3), np.int64).transpose(1, 0, 2),
        np.zeros((2, 5, 6), np.int64)[:, :, ::2],
        torch.zeros((5, 2, 3), dtype=torch.int64).transpose(0, 1),
    ],
)
def test_out_in_another_order(out):
    """An out of the right shape that is not C-ordered is refused, and not written to."""
    with pytest.raises(MismatchError, match="out must be C-ordered"):
        pack([some()], Packing([5]), out=out)
    assert not np.asarray(out).any()


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("uint8", "dtype uint8 cannot hold expert 299"),
        ("int8", "dtype int8 cannot hold expert 299"),
        ("float32", "dtype 'float32' is not known: int8, int16, "),
        ("bool", "dtype 'bool' is not known: int8, int16, "),
    ],
)
def test_dtypes_that_cannot_hold_the_ids(dtype, said):
    """A dtype too small for E - 1, or no integer, is refused, as spec and as out."""
    with pytest.raises(MismatchError, match=said):
        pack([some()], Packing([5]), spec=TensorSpec(dtype=dtype))
    with pytest.raises(MismatchError, match=said):
        pack([some()], Packing([5]), out=np.zeros((2, 5, 3), dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_the_last_id_that_a_dtype_holds(dtype):
    """E - 1 at a dtype's greatest value is packed; one more expert is refused."""
    greatest = min(int(np.iinfo(dtype).max), 65535)
    held = routes_like(random.Random(1), 2, (0,), (2, greatest + 1, None))
    held.ids_TLK[0, 0] = [greatest, 0]
    packed = pack([held], Packing([3]), spec=TensorSpec(dtype=dtype))
    assert packed.ids_LRK[0, 0].tolist() == [greatest, 0]
    if greatest < 65535:
        held = routes_like(random.Random(1), 2, (0,), (2, greatest + 2, None))
        with pytest.raises(MismatchError, match=f"cannot hold expert {greatest + 1}"):
            pack([held], Packing([3]), spec=TensorSpec(dtype=dtype))


@pytest.mark.parametrize("framework", ["prime-rl", "roll"])
def test_no_minus_one_in_unsigned_tensors(framework):
    """Minus-one padding in an unsigned tensor is refused, as dtype and as out."""
    held = some(kind=(3, 256, None))
    spec = TensorSpec(padding="minus-one")
    with pytest.raises(MismatchError, match="dtype uint8 has no -1, which padding minus-one"):
        pack([held], Packing([5], framework), spec=spec)
    with pytest.raises(MismatchError, match="dtype uint8 has no -1"):
        pack([held], Packing([5], "miles", pad_multiplier=5), out=np.zeros((2, 5, 3), np.uint8))


@pytest.mark.parametrize("ep", [7, 0, -1, 301])
def test_an_ep_that_does_not_divide(ep):
    """E that does not divide by ep is refused with both numbers."""
    with pytest.raises(ValueError, match=f"num_experts 300 does not divide by ep {ep}"):
        pack([some()], Packing([5]), spec=TensorSpec(padding="spread", ep=ep))


def test_a_padding_that_is_not_known():
    """Another padding is refused with the names that there are."""
    with pytest.raises(ValueError, match="'ones' is not known: zero, arange, spread, minus-one"):
        pack([some()], Packing([5]), spec=TensorSpec(padding="ones"))


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (Rank(2), "cp=2: cp is 2"),
        (Rank(0, 2), "tp=2: tp is 2"),
        (Rank(-1), "cp=-1: cp is 2"),
        (Rank(0, -1), "tp=-1: tp is 2"),
    ],
)
def test_ranks_that_are_not_there(rank, said):
    """A CP or TP rank outside the layout is refused."""
    with pytest.raises(ValueError, match=said):
        pack([some()], Packing([5], tp=2, cp=2), rank)


def test_a_stage_that_is_not_there():
    """A pipeline rank is refused without a pipeline, and outside of one."""
    with pytest.raises(ValueError, match="no stage 2 among 2"):
        pack([some()], Packing([5], pipeline=Pipeline(2, 2)), Rank(pp=2))
    with pytest.raises(ValueError, match=r"pp=1|stage 1"):
        pack([some()], Packing([5]), Rank(pp=1))


def test_a_plan_is_packed_by_its_shares():
    """A packing with a plan has many micro-batches, so it is refused and share is named."""
    plan = Plan(1, (MicroBatch(((0,),)),))
    with pytest.raises(ValueError, match=r"many micro-batches: ask share\(...\).packing"):
        pack([some()], Packing([5], plan=plan))


class TestUnpack:
    """Tensors that cannot be a packing's."""

    def test_no_parts(self):
        """No tensors at all are refused."""
        with pytest.raises(MismatchError, match="no rank's tensors: nothing to unpack"):
            unpack([], Packing([5]), (0, 1), 300)

    def test_row_count(self):
        """A tensor of another row count is refused with both and the rank."""
        packed = pack([some()], Packing([5]))
        with pytest.raises(MismatchError, match="cp=0, tp=None: got 5 rows, expected 6"):
            unpack([(Rank(), packed)], Packing([6]), (0, 1), 300)

    @pytest.mark.parametrize("expert", [-1, 300])
    def test_real_rows_outside(self, expert):
        """A real row with an id outside 0..E-1 is refused; a filler row may hold anything."""
        packed = pack([some()], Packing([5]))
        packed.ids_LRK[1, 4] = expert
        assert unpack([(Rank(), packed)], Packing([5]), (0, 1), 300)[0].stop == 4
        packed.ids_LRK[1, 3, 2] = expert
        with pytest.raises(MismatchError, match=r"calls real has an id outside 0\.\.299"):
            unpack([(Rank(), packed)], Packing([5]), (0, 1), 300)

    def test_stages_without_layers(self):
        """A stage that holds no MoE layer gives nothing, whatever K its empty tensor has."""
        packed = pack([some()], Packing([5]))
        empty = Packed(np.zeros((0, 5, 1), np.int16), packed.mask, ())
        for parts in ([empty, packed], [packed, empty]):
            found = unpack([(Rank(), part) for part in parts], Packing([5]), (0, 1), 300)[0]
            assert found.ids_TLK.tolist() == some().ids_TLK.tolist()

    def test_tensors_of_another_k(self):
        """Tensors of two ranks with different K are refused."""
        packing = Packing([8], cp=2)
        parts = [
            pack([some(7, kind=(k, 300, None))], packing, Rank(c)) for c, k in ((0, 3), (1, 2))
        ]
        with pytest.raises(MismatchError):
            unpack([(Rank(c), part) for c, part in enumerate(parts)], packing, (0, 1), 300)
