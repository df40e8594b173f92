"""How many clusters of samples a comparison is over: sequences, or prompts with their samples.

Shape suffix: K kept hashes.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...dump import SampleKey
from ..adding.resampled import bucket_of, bucket_of_sample

__all__ = ["KEPT", "Clusters", "SampleCluster", "cluster_of"]

KEPT = 4096  # hashes of prompts: up to so many are counted exactly
_BITS = 64


@dataclass(frozen=True, slots=True)
class SampleCluster:
    """That of a sample: its bucket, and the hash of its prompt; None: one sample is a cluster."""

    bucket: int
    prompt: int | None = None


def cluster_of(key: SampleKey, index: int, clusters: str) -> SampleCluster:
    """The cluster of a sample of the dump; ``clusters`` is sequence or prompt."""
    if clusters == "sequence" or not key.prompt:
        return SampleCluster(bucket_of_sample(key, index))
    digest = hashlib.blake2b(key.prompt, digest_size=_BITS // 8).digest()
    return SampleCluster(bucket_of(key.prompt), int.from_bytes(digest, "little"))


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Sequences, a number, and different prompts: exact up to KEPT of these, else estimated.

    least_K are the least hashes of prompts, uint64, ascending; of KEPT, the k-th least tells how
    dense hashes are, so that their number is known to 1 / sqrt(KEPT), 1.6 % (one sigma).
    Source: Z. Bar-Yossef et al., Counting Distinct Elements in a Data Stream (RANDOM 2002).
    """

    sequences: int = 0
    least_K: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    @classmethod
    def of(cls, clusters: list[SampleCluster]) -> "Clusters":
        """Those of some samples."""
        prompts = [one.prompt for one in clusters if one.prompt is not None]
        least_K = np.unique(np.array(prompts, np.uint64))[:KEPT]
        return cls(len(clusters) - len(prompts), least_K)

    def __add__(self, other: "Clusters") -> "Clusters":
        least_K = np.union1d(self.least_K, other.least_K)[:KEPT]
        return Clusters(self.sequences + other.sequences, least_K)

    @property
    def number(self) -> int:
        """How many there are."""
        prompts = len(self.least_K)
        if prompts == KEPT:
            prompts = round((KEPT - 1) * 2.0**_BITS / (float(self.least_K[-1]) + 1))
        return self.sequences + prompts
