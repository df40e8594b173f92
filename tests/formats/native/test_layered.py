"""Ids of long samples as they lie in a native file, a layer after the other: the same ids."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from routectl.dump import Dump, DumpMeta, Sample
from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.ops.diff.diff import diff_as
from routectl.ops.diff.options import DiffOptions
from routectl.routes import Routes, by_layer, by_token

LAYERS = (0, 2, 3)


def a_sample(name, rows, *, experts=64, seed=0, missing=False, margins=False):
    """A sample of random rows of four distinct ids."""
    rng = np.random.default_rng(seed)
    ids = rng.random((rows, len(LAYERS), experts)).argpartition(4, axis=2)[..., :4]
    ids = ids.astype(np.uint8 if experts <= 256 else np.uint16)
    gone = rng.random(ids.shape[:2]) < 0.1 if missing else None
    near = np.full(ids.shape[:2], 0.5, np.float16) if margins else None
    if gone is not None:
        ids[gone] = 0
        near = None if near is None else np.where(gone, np.float16(np.nan), near)
    routes = Routes(ids, LAYERS, experts, 1, gone, near)
    return Sample(routes, name, prompt_length=2, response_length=rows)


def written(path, samples, experts=64, *, margins=False):
    """A native file of samples."""
    meta = DumpMeta("", "", LAYERS, experts, 4, margins=margins)
    write_native(samples, meta, path, force=True)
    return path


def assert_same(one, other):
    """Two samples have the same routes."""
    a, b = one.routes, other.routes
    np.testing.assert_array_equal(a.ids_TLK, b.ids_TLK)
    assert (a.start, a.layers_L, a.num_experts) == (b.start, b.layers_L, b.num_experts)
    for x, y in ((a.missing_TL, b.missing_TL), (a.margin_TL, b.margin_TL)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("experts", [64, 300])
@pytest.mark.parametrize("more", [{}, {"missing": True}, {"margins": True}])
def test_layer_by_layer_are_the_same_ids(tmp_path, experts, more):
    """Long samples read by layer have the routes that they have token by token, and lie so."""
    rows = (256, 700, 300, 2000, 257, 258, 259, 260, 261, 262)  # both kinds of runs of levels
    samples = [a_sample(f"s{i}", n, experts=experts, seed=i, **more) for i, n in enumerate(rows)]
    margins = "margins" in more
    dump = open_dump(written(tmp_path / "x.parquet", samples, experts, margins=margins))
    layered = dump.layered()
    for i in (*range(len(rows)), 3, 0):
        assert by_layer(layered[i].routes.ids_TLK)
        assert dump[i].routes.ids_TLK.flags.c_contiguous
        assert_same(layered[i], dump[i])
        np.testing.assert_array_equal(by_token(layered[i].routes.ids_TLK), dump[i].routes.ids_TLK)
    some = dump.select(layers=LAYERS[1:])
    assert_same(some.layered()[1], some[1])


@pytest.mark.parametrize("other", [a_sample("short", 255), Sample(None, "none")])
def test_groups_of_anything_else_stay_token_by_token(tmp_path, other):
    """A row group with a short sample, or one without routes, is read as ever."""
    dump = open_dump(written(tmp_path / "x.parquet", [a_sample("s", 300), other]))
    sample = dump.layered()[0]
    assert sample.routes.ids_TLK.flags.c_contiguous
    assert_same(sample, dump[0])
    assert dump.layered()[1].sample_id == other.sample_id


@pytest.mark.parametrize(
    "form",
    [
        {"data_page_size": 100, "compression": "zstd"},
        {"compression": "snappy"},
        {"compression": "none"},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "zstd", "use_dictionary": True},
        {"compression": "zstd", "use_byte_stream_split": False},
    ],
)
def test_pages_of_other_writers_are_read_by_pyarrow(tmp_path, form):
    """Several pages, other compressions and encodings give the same ids."""
    rows = [a_sample(f"s{i}", 300 + i, seed=i) for i in range(3)]
    path = written(tmp_path / "x.parquet", rows)
    expected = list(open_dump(path))
    pq.write_table(pq.read_table(path), path, **{"use_dictionary": False, **form})
    for one, other in zip(open_dump(path).layered(), expected, strict=True):
        assert_same(one, other)


def test_damage_is_told_as_ever(tmp_path):
    """Whatever bit is flipped, reading by layer says or gives what reading by token does."""
    path = written(tmp_path / "x.parquet", [a_sample("a", 400), a_sample("b", 300, seed=1)])
    whole = path.read_bytes()
    rng, refused = np.random.default_rng(4), 0

    def outcome(layered):
        try:
            dump = open_dump(path)
            sample = (dump.layered() if layered else dump)[1]
        except FormatError as error:
            return str(error)
        return sample.routes.ids_TLK.tolist()

    first = whole.index(b"\x28\xb5\x2f\xfd")  # the first frame of zstd
    for place in rng.integers(first - 40, len(whole) - 5000, 80).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found = outcome(True)
        assert found == outcome(False)
        refused += isinstance(found, str)
    assert refused > 30


def test_a_diff_by_layer_is_that_by_token(tmp_path):
    """Every figure of a comparison is the same, whether ids lie layer by layer or not."""
    old = [a_sample(f"s{i}", 300 + 50 * i, seed=i, missing=i == 1) for i in range(4)]
    new = [a_sample(f"s{i}", 290 + 50 * i, seed=i % 3, missing=i == 2) for i in range(4)]
    sides = [open_dump(written(tmp_path / f"{i}.parquet", one)) for i, one in enumerate((old, new))]
    bare = [Dump(side.meta, side.keys, side.__getitem__) for side in sides]
    options = DiffOptions(match="id", detail=True)
    one, other = diff_as(*sides, options), diff_as(*bare, options)
    for name in one.counts.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one.counts, name), getattr(other.counts, name))
    assert one.first.items == other.first.items
    assert one.samples == other.samples
    np.testing.assert_array_equal(one.detail.swaps_PLS, other.detail.swaps_PLS)


def test_long_samples_compared_together_are_those_compared_alone(tmp_path):
    """Figures and shown rows of a row group's samples at once are those of one after the other."""
    old = [a_sample(f"s{i}", 300 + 50 * i, seed=i) for i in range(6)]
    new = [a_sample(f"s{i}", 300 + 50 * i, seed=i) for i in range(6)]
    for i, t, layer in ((1, 3, 0), (1, 299, 2), (2, 7, 1), (4, 0, 0), (5, 549, 1)):
        ids = new[i].routes.ids_TLK[t, layer]
        ids[:] = ids[::-1] if i == 2 else np.arange(60, 64)
    sides = [open_dump(written(tmp_path / f"{i}.parquet", one)) for i, one in enumerate((old, new))]
    bare = [Dump(side.meta, side.keys, side.__getitem__) for side in sides]
    one, other = (diff_as(*dumps, DiffOptions(examples=3)) for dumps in (sides, bare))
    for name in one.counts.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one.counts, name), getattr(other.counts, name))
    assert one.first.items == other.first.items
    assert [(e.index, e.layer) for e in one.first.items] == [(1, 0), (1, 3), (4, 0)]
    assert one.samples == other.samples
    assert one.sequences.worst.items == other.sequences.worst.items
