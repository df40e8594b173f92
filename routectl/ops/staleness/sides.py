"""A dump and the recomputes of its tokens, joined once: which of their samples are the same.

Shape suffixes: S samples of the dump, or of a run of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump
from ...errors import MismatchError
from ..pairs.join import join_keys, read_once, repeated_ids
from .attribution import Version
from .options import StalenessOptions
from .plan import Side, StalenessPlan, plan_of, routes_of

__all__ = ["JoinedVersions", "SampleRun", "lay_out"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SampleRun:
    """Samples of the dump one after another, from ``start`` on.

    partners_S  int64, by side: the index of each sample in it, -1 where it lacks the sample
    repeated_S  whether a sample before it has its id
    """

    start: int
    partners_S: Mapping[Side, Ints]
    repeated_S: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.repeated_S)

    def part(self, start: int, stop: int) -> "SampleRun":
        """Some of its samples, by their places in the dump."""
        here = slice(start - self.start, stop - self.start)
        partners = {side: found_S[here] for side, found_S in self.partners_S.items()}
        return SampleRun(start, partners, self.repeated_S[here])


@dataclass(frozen=True, slots=True, eq=False)
class JoinedVersions:
    """The dump, the recompute of each version and mode, and which samples are the same."""

    plan: StalenessPlan
    dump: Dump
    routes: Mapping[Side, Dump]
    whole: SampleRun


def lay_out(dump: Dump, versions: Sequence[Version], options: StalenessOptions) -> JoinedVersions:
    """Join the samples of a dump and of the recomputes of versions.

    Raises MismatchError where a version cannot be of this dump, or has none of its samples;
    ValueError without a version or for a name twice.
    """
    plan, routes = plan_of(dump, versions, options), routes_of(versions)
    keys, partners = read_once(dump.keys), {}
    for side, recompute in routes.items():
        try:
            pairs = join_keys(keys, recompute.keys, options.match).pairs
        except MismatchError as error:
            raise MismatchError(
                f"version {plan.names[side[0]]} ({recompute.meta.path}): OLD is the dump, NEW the "
                f"version: {error}",
                hint=error.hint,
            ) from error
        partners[side] = np.full(len(dump), -1)
        partners[side][pairs.old_P] = pairs.new_P
    return JoinedVersions(plan, dump, routes, SampleRun(0, partners, repeated_ids(keys)))
