"""What samples say of themselves: counts, weight versions, groups that share a prompt."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import SampleColumns
from ...dump import Sample
from ...kernels.rows import diff_rows
from ...routes import Routes
from .book.bottom import Bottom, number_of
from .book.ledger import FindingTally, Ledger
from .book.results import Book, Place

__all__ = ["LEAST_ROWS", "Groups", "WeightVersions", "check_segments", "disagree"]

_PROMPT_ROWS = 256  # of a prompt that siblings are compared on
LEAST_ROWS = 32
_ROUNDING = 0.25  # of the rows that two calls have, more than any rounding flips
_UNLIKE = 0.5  # siblings' prompts differ in more rows than any rounding explains
_GROUPS = 1 << 16  # that are told apart
_VERSIONS = 4096


@dataclass(frozen=True, slots=True)
class _OfVersion:
    """Samples with cached tokens that begin with a version; "" for several versions."""

    version: str
    tally: FindingTally

    def __add__(self, other: "_OfVersion") -> "_OfVersion":
        version = self.version if self.version == other.version else ""
        return _OfVersion(version, self.tally + other.tally)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group: how many samples have routes, 2 for more, the first of these; those without."""

    named: bool
    routed: int
    first: int | None
    bare: FindingTally | None

    def __add__(self, other: "_Group") -> "_Group":
        firsts = [n for n in (self.first, other.first) if n is not None]
        bare = [t for t in (self.bare, other.bare) if t is not None]
        return _Group(
            self.named,
            min(self.routed + other.routed, 2),
            min(firsts, default=None),
            bare[0] + bare[1] if len(bare) > 1 else next(iter(bare), None),
        )

    @property
    def alone(self) -> bool:
        """Whether its first sample alone has routes."""
        return (
            self.named
            and self.routed == 1
            and self.first is not None
            and self.bare is not None
            and self.first < self.bare.first[0]
        )


def check_segments(sample: Sample, name: str, book: Book) -> None:
    """Rows that several calls of a sample have: whether they agree."""
    versions = {span.version for span in sample.weight_spans}
    versions |= {part.version for part in sample.segments if part.version is not None}
    for segment in sample.segments:
        if segment.first is None:
            continue
        rounding = segment.apart == 0 and segment.differing <= _ROUNDING * segment.shared
        several = len(versions) > 1
        book.add(
            "R404" if rounding and not several else "R403",
            Place(name, *segment.first),
            rows=segment.differing,
            layers=segment.layers,
            detail="under several weight versions" if several else "",
        )


@dataclass(slots=True)
class WeightVersions:
    """Weight versions of the samples; those of shards add up.

    first is the version of the first sample that has one, with its index; cached samples with
    cached tokens, by the version that they begin with.
    """

    first: tuple[int, str] | None = None
    cached: Bottom[_OfVersion] = field(default_factory=lambda: Bottom(_VERSIONS))

    def check(self, sample: Sample, place: tuple[int, str], book: Book) -> None:
        """Add what versions, retractions and cached tokens say of one sample."""
        own, (index, name) = [span.version for span in sample.weight_spans], place
        several = len(set(own)) > 1
        if several:
            book.add("R501", Place(name))
        if sample.retractions:
            book.add("R502" if several else "R504", Place(name))
        if not own:
            return
        if self.first is None or index < self.first[0]:
            self.first = index, own[0]
        if sample.cached_tokens:
            self.cached.add(
                number_of(own[0]), _OfVersion(own[0], FindingTally.of(index, Place(name, 0)))
            )

    def __add__(self, other: "WeightVersions") -> "WeightVersions":
        firsts = [one for one in (self.first, other.first) if one is not None]
        return WeightVersions(min(firsts, default=None), self.cached + other.cached)

    def close(self, ledger: Ledger) -> None:
        """Say which samples have cached tokens under later versions than the dump's first."""
        self.cached.trim()
        rest = [] if self.cached.rest is None else [self.cached.rest]
        for one in (*self.cached.held.values(), *rest):
            if self.first is not None and one.version != self.first[1]:
                ledger.put("R503", one.tally)


@dataclass(slots=True)
class Groups:
    """Samples of one group: those without routes, and how many have them; shards add up."""

    groups: Bottom[_Group] = field(default_factory=lambda: Bottom(_GROUPS))

    def check(self, sample: Sample, place: tuple[int, str]) -> None:
        """Count a sample of a group, with routes or without."""
        group = sample.group_id or (sample.sample_id or "").rpartition("/")[0]
        index, name = place
        if sample.routes is None:
            one = _Group(bool(group), 0, None, FindingTally.of(index, Place(name)))
        elif group:
            one = _Group(True, 1, index, None)
        else:
            return
        self.groups.add(number_of(group), one)

    def check_together(self, columns: SampleColumns, places_S: NDArray[np.int64]) -> None:
        """Count samples with routes, at some places of columns, as ``check`` does each."""
        named = columns.groups, columns.names
        of: dict[str, list[int]] = {}
        for at in places_S.tolist():
            group = named[0][at] or (named[1][at] or "").rpartition("/")[0]
            if group:
                of.setdefault(group, []).append(columns.first + at)
        for group, indices in of.items():
            self.groups.add(
                number_of(group), _Group(True, min(len(indices), 2), min(indices), None)
            )

    def __add__(self, other: "Groups") -> "Groups":
        return Groups(self.groups + other.groups)

    def close(self, ledger: Ledger) -> None:
        """Say of the samples without routes whether a sibling has them all.

        Those of groups beyond the index are counted with most of the others.
        """
        self.groups.trim()
        counts = {"R005": 0, "R007": 0}
        for group in self.groups.held.values():
            if group.bare is not None:
                code = "R007" if group.alone else "R005"
                counts[code] += group.bare.samples
                ledger.put(code, group.bare)
        if self.groups.rest is not None:
            ledger.put(max(counts, key=lambda code: counts[code]), self.groups.rest.bare)


def disagree(one: Routes, other: Routes, end: int) -> tuple[int, int]:
    """Where two siblings' prompts are first compared, and the rows that differ; 0 where few do."""
    lo = max(one.start, other.start)
    hi = min(end, one.stop, other.stop, lo + _PROMPT_ROWS)
    if hi <= lo or one.layers_L != other.layers_L:
        return lo, 0
    sides = [slice(lo - r.start, hi - r.start) for r in (one, other)]
    skip = None
    for routes, part in zip((one, other), sides, strict=True):
        if routes.missing_TL is not None:
            mask = routes.missing_TL[part]
            skip = mask if skip is None else skip | mask
    counts = diff_rows(
        one.ids_TLK[sides[0]], other.ids_TLK[sides[1]], one.num_experts, skip_TL=skip
    )
    rows = int(counts.swaps_LS.sum())
    wrong = int(counts.swaps_LS[:, 1:].sum())
    return lo, wrong if rows >= LEAST_ROWS and wrong > _UNLIKE * rows else 0
