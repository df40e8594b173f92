"""pack and unpack in memory, against the slow truth of tests/support/packs.py."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routectl import MicroBatch, Packing, Plan, Rank, Routes, TensorSpec, pack, unpack
from routectl.layouts.packing import FORMS, FRAMEWORKS
from routectl.layouts.rules import rule_of
from support.dumps import make_dump, make_sample
from support.packs import (
    KINDS,
    Batch,
    batches,
    check_rows,
    ranks_of,
    route_at,
    routes_like,
    sizes_of,
)

ODD = (3, 300, "int16")


def alike(one, other):
    """Two results are equal in layers, dtype, ids and mask."""
    assert one.layers_L == other.layers_L
    a, b = np.asarray(one.ids_LRK), np.asarray(other.ids_LRK)
    assert a.dtype == b.dtype
    assert np.array_equal(a, b)
    assert np.array_equal(one.mask, other.mask)


def one_batch(lens, kind=ODD, layers=(0, 1), seed=0, **options):
    """A batch in which every sample has N - 1 rows."""
    rng = random.Random(seed)
    routes = [routes_like(rng, n - 1, layers, kind) for n in lens]
    return Batch(Packing(lens, **options), routes, layers, kind[1], kind[0], kind[2])


@settings(max_examples=80)
@given(batches(), st.booleans(), st.sampled_from([1, 2]))
def test_every_rank_holds_its_rows(batch, split, threads):
    """Each rank's tensors hold what looking up every row says, split over tp or not."""
    spec = TensorSpec(dtype=batch.dtype, padding="zero")
    for rank in ranks_of(batch.packing, split):
        packed = pack(batch.dump, batch.packing, rank, spec=spec, threads=threads)
        holes = check_rows(packed, batch, rank)
        for ids_RK, gaps in zip(packed.ids_LRK, holes, strict=True):
            assert not ids_RK[np.array(gaps, np.bool_)].any()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_token(framework):
    """A sample of one token has a row, and a route only where the trainer gave the token one."""
    rng = random.Random(1)
    packing = Packing([1, 3, 1], framework, **sizes_of(framework, 2, 2))
    routes = [routes_like(rng, n, (0,), ODD) for n in packing.lens]
    batch = Batch(packing, routes, (0,), 300, 3, None)
    real = 0
    for rank in ranks_of(packing):
        packed = pack(routes, packing, rank)
        check_rows(packed, batch, rank)
        real += int(packed.mask.sum())
    assert real == (2 if packing.rule.last else 5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_every_rank_has_equally_many_rows(framework, form):
    """The tensors of all CP and TP ranks are of one size."""
    if rule_of(framework).form != "thd":
        return  # neither tp nor cp
    batch = one_batch([9, 17, 1], framework=framework, form=form, tp=2, cp=4)
    sizes = {pack(batch.routes, batch.packing, r).ids_LRK.shape for r in ranks_of(batch.packing)}
    assert len(sizes) == 1
    whole = pack(batch.routes, batch.packing, Rank(3)).ids_LRK.shape
    assert whole[1] == 2 * sizes.pop()[1]


class TestInputs:
    """Routes, Samples and Dumps are packed alike, and out is filled in place."""

    @given(batches())
    def test_forms_of_input(self, batch):
        """Routes, Samples and a Dump give the same tensors."""
        if all(held is None for held in batch.routes):
            return
        rank = ranks_of(batch.packing)[-1]
        spec = TensorSpec(dtype=batch.dtype, padding="spread")
        by_dump = pack(batch.dump, batch.packing, rank, spec=spec)
        for source in (batch.routes, tuple(batch.routes), batch.samples, batch.dump.held()):
            alike(pack(source, batch.packing, rank, spec=spec), by_dump)

    def test_some_layers(self):
        """Layers that the spec names are written alone, those of the stage, in their order."""
        batch = one_batch([9, 4], layers=(1, 3, 4), tp=2)
        whole = pack(batch.routes, batch.packing, Rank(0, 1))
        some = pack(batch.routes, batch.packing, Rank(0, 1), spec=TensorSpec(layers=(4, 1, 7)))
        assert some.layers_L == (1, 4)
        real = whole.mask
        assert np.array_equal(some.mask, real)
        assert np.array_equal(some.ids_LRK[:, real], whole.ids_LRK[[0, 2]][:, real])

    @given(batches(), st.sampled_from(["int16", "int32", "int64"]))
    def test_numpy_out(self, batch, dtype):
        """An array given as out is filled, whatever it held, and its dtype wins over the spec's."""
        for rank in ranks_of(batch.packing)[:2]:
            plain = pack(batch.dump, batch.packing, rank, spec=TensorSpec(dtype=dtype))
            out = np.full(plain.ids_LRK.shape, -7, dtype)
            packed = pack(batch.dump, batch.packing, rank, out=out, spec=TensorSpec(dtype="int32"))
            assert packed.ids_LRK is out
            alike(packed, plain)

    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16]
    )
    def test_torch_out(self, dtype):
        """A CPU tensor given as out is the one that comes back, filled in place."""
        kind = (4, 32, None)
        batch = one_batch([5, 8], kind, tp=2, cp=2)
        for rank in ranks_of(batch.packing):
            plain = pack(batch.routes, batch.packing, rank, spec=TensorSpec(dtype=str(dtype)[6:]))
            out = torch.full(plain.ids_LRK.shape, 99, dtype=dtype)
            before = out.data_ptr()
            packed = pack(batch.routes, batch.packing, rank, out=out)
            assert packed.ids_LRK is out
            assert out.data_ptr() == before
            alike(packed, plain)

    def test_out_in_a_larger_tensor(self):
        """A C-ordered part of a larger tensor is filled, and nothing beside it is touched."""
        batch = one_batch([5, 8], (4, 32, None))
        whole = torch.full((4, 13, 4), -9, dtype=torch.int64)
        pack(batch.routes, batch.packing, out=whole[1:3])
        assert bool((whole[0] == -9).all())
        assert bool((whole[3] == -9).all())
        assert not bool((whole[1:3] == -9).any())

    @pytest.mark.parametrize("form", FORMS)
    def test_many_tokens_on_many_threads(self, form):
        """Samples longer than a thread's share, read in several gulps, are the same on 1 and 2."""
        rng = np.random.default_rng(3)
        packing = Packing([40_000, 17_000, 33_000], "verl", tp=2, cp=2, form=form)
        layers = tuple(range(8))
        ids = [rng.integers(0, 300, (n, 8, 9)).astype(np.uint16) for n in packing.lens]
        samples = [make_sample(Routes(a, layers, 300)) for a in ids]
        dump = make_dump(samples, layers, 300, 9)
        spec = TensorSpec(dtype="int64")
        for rank in (Rank(0, 1), Rank(1, 0)):
            table = packing.local_rows(rank.cp, rank.tp)
            real = table[:, 0] >= 0
            expected = np.zeros((8, len(table), 9), np.int64)
            for s, array in enumerate(ids):
                mine = table[:, 0] == s
                expected[:, mine] = array[table[mine, 1]].transpose(1, 0, 2)
            for threads in (1, 2):
                packed = pack(dump, packing, rank, spec=spec, threads=threads)
                assert np.array_equal(packed.ids_LRK, expected)
                assert np.array_equal(packed.mask, real)


def back(batch, **options):
    """All ranks' tensors of a batch, unpacked."""
    spec = TensorSpec(dtype=batch.dtype, padding="zero")
    parts = [(r, pack(batch.dump, batch.packing, r, spec=spec)) for r in ranks_of(batch.packing)]
    random.Random(len(parts)).shuffle(parts)
    return unpack(iter(parts), batch.packing, batch.layers, batch.experts, **options)


class TestUnpack:
    """unpack(pack(x)) is x, less the rows that a framework has no place for."""

    @settings(max_examples=60)
    @given(batches())
    def test_with_extents(self, batch):
        """Given start and stop of every sample, its routes and missing rows come back."""
        extents = [None if held is None else (held.start, held.stop) for held in batch.routes]
        found = back(batch, extents=extents)
        for i, (held, was) in enumerate(zip(found, batch.routes, strict=True)):
            if was is None:
                assert held is None
                continue
            assert (held.start, held.stop) == (was.start, was.stop)
            assert (held.layers_L, held.num_experts) == (was.layers_L, was.num_experts)
            assert held.ids_TLK.dtype == was.ids_TLK.dtype
            last = batch.packing.num_routes(i)
            for position in range(was.start, was.stop):
                for n in range(len(batch.layers)):
                    wanted = route_at(was, position, n) if position < last else None
                    assert route_at(held, position, n) == wanted

    @given(batches())
    def test_without_extents(self, batch):
        """Without them, rows go from 0 to the last real one; a sample with none is None."""
        found = back(batch)
        for i, (held, was) in enumerate(zip(found, batch.routes, strict=True)):
            last = batch.packing.num_routes(i)
            real = {
                (p, n): route_at(was, p, n)
                for p in range(last)
                for n in range(len(batch.layers))
                if route_at(was, p, n) is not None
            }
            if not real:
                assert held is None
                continue
            assert (held.start, held.stop) == (0, max(p for p, _ in real) + 1)
            for p in range(held.stop):
                for n in range(len(batch.layers)):
                    assert route_at(held, p, n) == real.get((p, n))

    def test_the_last_row_that_slime_has_no_place_for(self):
        """Of a trainer's N rows the last comes back missing from slime, and whole from verl."""
        rng = random.Random(2)
        routes = [routes_like(rng, 6, (0, 1), ODD)]
        for framework, missing in (("slime", [5]), ("verl", [])):
            batch = Batch(Packing([6], framework, cp=2), routes, (0, 1), 300, 3, None)
            held = back(batch, extents=[(0, 6)])[0]
            gaps = [] if held.missing_TL is None else np.flatnonzero(held.missing_TL[:, 0]).tolist()
            assert gaps == missing


@st.composite
def planned(draw):
    """A batch with a plan: several dp ranks, CP sizes of a micro-batch's own, empty groups."""
    dp, cp = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (2, 4)]))
    kind = draw(st.sampled_from(KINDS))
    rng = random.Random(draw(st.integers(0, 2**32)))
    lens = [rng.randint(1, 12) for _ in range(rng.randint(1, 7))]
    own = [c for c in (1, 2, 4, 8) if dp * cp % c == 0]
    sizes = draw(st.lists(st.one_of(st.none(), st.sampled_from(own)), min_size=1, max_size=3))
    steps = [[[] for _ in range(dp * cp // (size or cp))] for size in sizes]
    for i in rng.sample(range(len(lens)), rng.randint(0, len(lens))):
        rng.choice(rng.choice(steps)).append(i)
    groups = [tuple(map(tuple, step)) for step in steps]
    plan = Plan(dp, tuple(map(MicroBatch, groups, sizes)))
    packing = Packing(
        lens,
        draw(st.sampled_from(["verl", "slime", "megatron", "prime-rl"])),
        cp=cp,
        tp=draw(st.sampled_from([1, 2])),
        plan=plan,
    )
    routes = [routes_like(rng, n, (0, 3), kind, missing=rng.choice([0, 0.4])) for n in lens]
    return Batch(packing, routes, (0, 3), kind[1], kind[0], kind[2])


@given(planned())
def test_every_route_is_on_one_rank(batch):
    """Over all micro-batches and ranks of a plan, each route of its samples is there once."""
    packing, dump = batch.packing, batch.dump
    spec = TensorSpec(dtype=batch.dtype)
    found, ids = Counter(), {}
    for m in range(packing.num_micro_batches):
        for dp_rank in range(packing.dp):
            for cp_rank in range(packing.cp):
                share = packing.share(m, dp_rank, cp_rank)
                part = dump.select(samples=share.samples)
                for tp_rank in range(packing.tp):
                    rank = Rank(share.cp_rank, tp_rank)
                    packed = pack(part, share.packing, rank, spec=spec)
                    table = share.packing.local_rows(rank.cp, rank.tp)
                    for i, layer in enumerate(packed.layers_L):
                        for r in np.flatnonzero(packed.mask_of(i)).tolist():
                            place = share.samples[table[r, 0]], int(table[r, 1]), layer
                            found[place] += 1
                            ids[place] = packed.ids_LRK[i, r].tolist()
    expected = {
        (s, p, layer): route_at(batch.routes[s], p, n)
        for s in packing.plan.samples()
        for p in range(packing.num_routes(s))
        for n, layer in enumerate(batch.layers)
        if route_at(batch.routes[s], p, n) is not None
    }
    assert ids == expected
    assert set(found.values()) <= {1}
