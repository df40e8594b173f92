"""What a dump's weight-version spans say, counted sample by sample; counts of parts add up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from .attribution import GROUPS, Attributor, Labels, rows_per_token

__all__ = ["Census", "SpanCounts", "census_of"]

_FIRST, _SWITCHED, _BOUNDARY = range(3)
_UNLABELLED = GROUPS.index("unlabelled")
_NO_NAME = -1
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """The rows and samples of a dump by what its weight-version spans say.

    rows       by group, one of GROUPS each: first, of the version that the sample began with;
               switched, of a later one (keys and values of earlier tokens may be of older weights);
               boundary, the first row of a later one where it may be of the one before: see
               BoundaryRule; it is of neither in any other figure;
               cached, of a reused prefix (may be of older weights); uncertain, of a sample that
               was retracted and has several versions; unlabelled, of no version, or of one that
               has no routes
    by_version rows that are of a version that has routes, those of first and switched
    unknown    rows by the names, as mapped, that are of no version
    samples    those with routes: of one version, of several, without spans, retracted
    boundaries tokens whose rows are at a boundary
    """

    rows: dict[str, int]
    by_version: dict[str, int]
    unknown: dict[str, int]
    samples: int = 0
    one_version: int = 0
    several_versions: int = 0
    without_spans: int = 0
    retracted: int = 0
    boundaries: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """Rows and samples of a part of a dump.

    sizes    int64 [versions, groups], rows that are of a version
    orders   samples that went from one version to another, by their places among the versions
    said     names of versions in the dump, each with its version's
    unknown  by name, as mapped, that is no version's: its first place, and rows
    unnamed  rows of no name
    samples  fields of SpanCounts from samples on
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    orders: Mapping[Place, int]
    said: Mapping[str, str]
    unknown: Mapping[str, tuple[Place, int]]
    unnamed: int
    samples: Mapping[str, int]

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> "Census":
        """That of no sample."""
        return cls(names, np.zeros((len(names), len(GROUPS)), np.int64), {}, {}, {}, 0, {})

    @classmethod
    def of(cls, index: int, sample: Sample, labels: Labels | None, by: Attributor) -> "Census":
        """That of one sample."""
        names, codes = by.names, by.codes(sample)
        mapped = {s.version: by.version_map.get(s.version, s.version) for s in sample.weight_spans}
        order = [
            codes[mapped[s.version]] for s in sorted(sample.weight_spans, key=lambda s: s.start)
        ]
        found = replace(
            cls.empty(names),
            orders={(a, b): 1 for a, b in pairwise(order) if a != b and max(a, b) < len(names)},
            said={name: as_ for name, as_ in mapped.items() if as_ in names},
            unknown={
                name: ((index, code), 0) for name, code in codes.items() if code >= len(names)
            },
        )
        if labels is None or sample.routes is None:
            return found
        several = len(set(mapped.values())) > 1
        made = slice(labels.start + 1, labels.stop + 1)
        version_T, group_T = labels.version_Q[made], labels.group_Q[made]
        rows_T = rows_per_token(sample.routes)
        known_T = group_T != _UNLABELLED
        np.add.at(found.sizes, (version_T[known_T], group_T[known_T]), rows_T[known_T])
        rows_of = {
            code: int(rows_T[(version_T == code) & ~known_T].sum())
            for code in np.unique(version_T[~known_T]).tolist()
        }
        return replace(
            found,
            unknown={
                name: (place, rows_of.get(codes[name], 0))
                for name, (place, _) in found.unknown.items()
            },
            unnamed=rows_of.get(_NO_NAME, 0),
            samples={
                "samples": 1,
                "one_version": int(bool(mapped) and not several),
                "several_versions": int(several),
                "without_spans": int(not mapped),
                "retracted": int(bool(sample.retractions)),
                "boundaries": int(((group_T == _BOUNDARY) & (rows_T > 0)).sum()),
            },
        )

    def __add__(self, other: "Census") -> "Census":
        unknown = dict(self.unknown)
        for name, (place, rows) in other.unknown.items():
            first, before = unknown.get(name, (place, 0))
            unknown[name] = min(first, place), before + rows
        return Census(
            self.names,
            self.sizes + other.sizes,
            Counter(self.orders) + Counter(other.orders),
            {**self.said, **other.said},
            unknown,
            self.unnamed + other.unnamed,
            dict(Counter(self.samples) + Counter(other.samples)),
        )

    @property
    def several(self) -> bool:
        """Whether rows are of more than one version, one that nobody gave among them."""
        rows = (*self.sizes.sum(axis=1).tolist(), *(rows for _, rows in self.unknown.values()))
        return bool(sum(number > 0 for number in rows) > 1)

    @property
    def counts(self) -> SpanCounts:
        """The figures."""
        rows = dict(zip(GROUPS, self.sizes.sum(axis=0).tolist(), strict=True))
        rows["unlabelled"] = self.unnamed + sum(number for _, number in self.unknown.values())
        sure = self.sizes[:, [_FIRST, _SWITCHED]].sum(axis=1)
        by_version = dict(zip(self.names, sure.tolist(), strict=True))
        ordered = sorted(self.unknown.items(), key=lambda item: item[1][0])
        unknown = {name: number for name, (_, number) in ordered}
        return SpanCounts(rows, by_version, unknown, **self.samples)


def census_of(dump: Dump, by: Attributor) -> Census:
    """That of a whole dump, from one pass over it."""
    found = Census.empty(by.names)
    for index, sample in enumerate(dump):
        found += Census.of(index, sample, by.labels(sample), by)
    return found
