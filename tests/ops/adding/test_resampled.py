"""Sums by bucket, and their intervals against the bootstrap over samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.dump import SampleKey
from routectl.ops.adding.intervals import Bootstrap, rate_intervals
from routectl.ops.adding.resampled import BUCKETS, Resampled, bucket_of, bucket_of_sample
from support.cuts import added_in_some_tree


def test_a_bucket_is_of_the_key():
    """A sample is in the bucket of its id and tokens wherever it stands; else of its place."""
    digest = bytes(range(16))
    key = SampleKey("a", digest, None)
    assert bucket_of_sample(key, 3) == bucket_of_sample(key, 9) == bucket_of(b"a\0" + digest)
    bare = SampleKey(None, None, None)
    assert bucket_of_sample(bare, 3) == bucket_of(b"#3") != bucket_of_sample(bare, 4)
    found = np.bincount([bucket_of(b"%d" % n) for n in range(40_960)], minlength=BUCKETS)
    assert abs(found.var() - 10) < 1  # even: Poisson of mean 10


@given(st.lists(st.tuples(st.integers(0, BUCKETS - 1), st.integers(-9, 9), st.floats(-9, 9))))
def test_sums_are_of_the_buckets(rows):
    """Each bucket has the sum of its samples."""
    found = Resampled.empty(2, 1)
    if rows:
        buckets, ints, floats = zip(*rows, strict=True)
        found.add(buckets, [(n, 1) for n in ints], [[x] for x in floats])
    there = sorted({row[0] for row in rows})
    sums = found.sums_CM
    assert sums.shape == (len(there), 3)
    for bucket, one in zip(there, sums, strict=True):
        own = [row for row in rows if row[0] == bucket]
        assert one[:2].tolist() == [sum(row[1] for row in own), len(own)]
        assert one[2] == pytest.approx(sum(row[2] for row in own), abs=1e-12)


@given(st.data())
def test_no_cut_or_tree_changes_a_sum(data):
    """Parts of any cut, added in any tree, have the sums of the whole, bit for bit."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    size = data.draw(st.integers(0, 50))
    buckets, ints = rng.integers(0, 20, size), rng.integers(0, 1000, (size, 2))
    floats = rng.standard_normal((size, 2)) * 10.0 ** rng.integers(-20, 20, (size, 2))
    part = rng.integers(0, 4, size)
    parts = [Resampled.empty(2, 2) for _ in range(4)]
    for n, found in enumerate(parts):
        found.add(buckets[part == n], ints[part == n], floats[part == n])
    whole = Resampled.empty(2, 2)
    whole.add(buckets, ints, floats)
    assert np.array_equal(added_in_some_tree(parts, data).sums_CM, whole.sums_CM)


@pytest.mark.parametrize("samples", [40, 400, 20_000])
def test_intervals_are_those_of_the_samples(samples):
    """Over buckets an interval is that over samples: ends within a tenth of its width."""
    rng = np.random.default_rng(samples)
    rows = rng.integers(200, 4000, samples)
    differ = rng.binomial(rows, rng.beta(1, 30, samples))
    found = Resampled.empty(2)
    keys = [SampleKey(f"s{n}", None, None) for n in range(samples)]
    found.add([bucket_of_sample(k, 0) for k in keys], np.stack([differ, rows], axis=1))
    plan = Bootstrap(replicates=4000)
    sums = found.sums_CM
    (ours,) = rate_intervals(sums[:, :1], sums[:, 1:], plan)
    (theirs,) = rate_intervals(differ[:, None], rows[:, None], plan)
    assert ours.level == theirs.level
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < width / 10
    assert abs(ours.high - theirs.high) < width / 10
