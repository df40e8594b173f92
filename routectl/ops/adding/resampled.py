"""Sums by bucket, so that intervals of rates merge: a bootstrap over samples without the samples.

A sample's bucket comes from a hash of its key, whatever part of a dump it is counted in. The
bootstrap then draws buckets, when intervals are asked for: any level, any number of replicates.
This is the bootstrap over samples as far as a bucket has one sample; where many fall together it is
one over random groups. In expectation its variance is that over samples, less a share of
1 / BUCKETS; it scatters around it by sqrt(2 / BUCKETS), so that an interval's width is known to
about 1.1 % (one sigma), well under what 2,000 replicates scatter by. A sample costs one addition a
column: weights drawn for each sample and replicate would cost 2,000.
Source: random groups, K. Wolter, Introduction to Variance Estimation, 2nd ed. (2007), chapter 2.

Shape suffixes: G buckets, C buckets that are not empty, X samples, M columns of integers, F of
floats.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...dump import Keys, SampleKey
from .exact import ExactSums

__all__ = ["BUCKETS", "Resampled", "bucket_of", "bucket_of_sample", "buckets_of_samples"]

Ints = NDArray[np.int64]
BUCKETS = 4096
_SIZE = 8


def bucket_of(cluster: bytes) -> int:
    """The bucket of a cluster of samples that are drawn together, such as a prompt's id."""
    return int.from_bytes(hashlib.blake2b(cluster, digest_size=_SIZE).digest(), "little") % BUCKETS


def bucket_of_sample(key: SampleKey, place: int) -> int:
    """The bucket of a sample: of its id and its tokens' digest, else its place in the dump."""
    name = None if key.sample_id is None else key.sample_id.encode("utf-8", "surrogatepass")
    return bucket_of(_cluster(name, key.tokens, place))


def buckets_of_samples(keys: Keys, places: Sequence[int], first: int) -> list[int]:
    """The buckets of samples by their places in ``keys``, of which ``first`` is the first's."""
    found = zip(places, keys.encoded(places), strict=True)
    return [bucket_of(_cluster(name, tokens, first + at)) for at, (name, tokens) in found]


def _cluster(name: bytes | None, tokens: bytes | None, place: int) -> bytes:
    """What a sample's bucket is the hash of."""
    if name is None and tokens is None:
        return b"#%d" % place
    return (name or b"") + b"\0" + (tokens or b"")


@dataclass(slots=True, eq=False)
class Resampled:
    """Sums over samples, by bucket: M columns of integers, then F of floats; both are exact.

    samples_G  int64, the samples of each bucket
    ints_GM    int64; floats has G * F sums
    """

    samples_G: Ints
    ints_GM: Ints
    floats: ExactSums

    @classmethod
    def empty(cls, ints: int, floats: int = 0) -> "Resampled":
        """All zero, for so many columns of each."""
        return cls(
            np.zeros(BUCKETS, np.int64),
            np.zeros((BUCKETS, ints), np.int64),
            ExactSums.zeros(BUCKETS * floats),
        )

    def add(
        self, buckets_X: ArrayLike, ints_XM: ArrayLike, floats_XF: ArrayLike | None = None
    ) -> None:
        """Count samples, in place; floats where there are such columns."""
        buckets = np.asarray(buckets_X, np.int64)
        self.samples_G += np.bincount(buckets, minlength=BUCKETS)
        np.add.at(self.ints_GM, buckets, np.asarray(ints_XM, np.int64))
        columns = len(self.floats) // BUCKETS
        if floats_XF is not None:
            values = np.asarray(floats_XF, np.float64).reshape(len(buckets), columns)
            rows = buckets[:, None] * columns + np.arange(columns)
            self.floats.add(values.ravel(), rows.ravel())

    def __add__(self, other: "Resampled") -> "Resampled":
        if self.ints_GM.shape != other.ints_GM.shape:
            raise ValueError("sums of other columns do not add up")
        return Resampled(
            self.samples_G + other.samples_G,
            self.ints_GM + other.ints_GM,
            self.floats + other.floats,
        )

    @property
    def sums_CM(self) -> NDArray[np.float64]:  # noqa: N802
        """float64 [C, M + F], what the buckets that are not empty add up to: see rate_intervals."""
        there = self.samples_G > 0
        columns = len(self.floats) // BUCKETS
        floats = [
            [self.floats[g * columns + f] for f in range(columns)]
            for g in np.flatnonzero(there).tolist()
        ]
        floats_CF = np.array(floats, np.float64).reshape(int(there.sum()), columns)
        return np.concatenate([self.ints_GM[there].astype(np.float64), floats_CF], axis=1)
