"""Which weights made which row: the own version of every row of a dump.

Shape suffixes: T rows' tokens, L layers, G response tokens, Q tokens: entry q is about what made
token q, the row at position q - 1.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...routes import Bools, Routes

__all__ = [
    "GROUPS",
    "MODES",
    "Attribution",
    "BoundaryRule",
    "SpanCounts",
    "Version",
    "attribute",
    "only_rows",
    "places_of",
]

GROUPS = ("first", "switched", "boundary", "cached", "uncertain", "unlabelled")
MODES = ("free", "forced")
_FIRST, _SWITCHED, _BOUNDARY, _CACHED, _UNCERTAIN, _UNLABELLED = range(len(GROUPS))
_NONE = -1
_SPANS_ARE_EXACT = {"vllm": True, "sglang": False}
Keep = tuple[Bools | None, Bools | None]


@dataclass(frozen=True, slots=True)
class BoundaryRule:
    """Whether the first row of a span that follows another may be of the version before.

    Measured with weights that were changed while sampling: vLLM 0.33 starts a span at the first
    token that the new weights made. SGLang 0.5.23 starts it one token early under its overlap
    scheduler, the default: the forward under way still has the old weights. Of another engine, or
    where the dump does not say which, the row is taken for one of either: known is False then.
    """

    engine: str | None
    exact: bool
    known: bool

    @classmethod
    def of(cls, engine: str | None) -> "BoundaryRule":
        """The rule of an engine by its name in ``DumpMeta``."""
        exact = _SPANS_ARE_EXACT.get((engine or "").lower())
        return cls(engine, bool(exact), exact is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """Weights with a name, and the routes that they give for the dump's tokens.

    free: recomputed with the model's own routes; forced: every layer was given the dump's routes,
    and the file holds what the router itself would have taken. One of them at least.
    Raises ValueError when both are None.
    """

    name: str
    free: Dump | None = None
    forced: Dump | None = None

    def __post_init__(self) -> None:
        if self.free is None and self.forced is None:
            raise ValueError(f"version {self.name} has no routes")

    def routes(self, mode: str) -> Dump | None:
        """The dump of one of MODES."""
        return self.free if mode == "free" else self.forced


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
class _Labels:
    """One sample: the version's code and the group of what made token q, and the rows it has.

    Codes from the number of versions on are of names that no version has; -1 is no name. before
    has, by token, the code of the version before a boundary.
    """

    version_Q: NDArray[np.int16]
    group_Q: NDArray[np.uint8]
    before: Mapping[int, int]
    start: int
    stop: int
    missing_TL: Bools | None


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """The own version of every row of a dump, found in one pass over it.

    names are those of the versions; sizes, int64 [versions, groups], counts their rows. orders
    counts the samples that went from one version to another, by their places in names; said are
    the names of versions in the dump, each with its version's.
    """

    dump: Dump
    names: tuple[str, ...]
    counts: SpanCounts
    sizes: NDArray[np.int64]
    boundary: BoundaryRule
    orders: Mapping[tuple[int, int], int]
    said: Mapping[str, str]
    _labels: tuple[_Labels | None, ...]

    def rows_of(self, version: int, groups: Sequence[str]) -> Dump:
        """The dump with the rows, and log-probs, of one version and some of GROUPS alone."""
        wanted = [GROUPS.index(group) for group in groups]

        def keep(index: int, sample: Sample) -> Keep:
            labels, routes, scored = self._labels[index], sample.routes, None
            if labels is None or routes is None:
                return None, None
            keep_Q = (labels.version_Q == version) & np.isin(labels.group_Q, wanted)
            if sample.logprobs is not None and sample.prompt_length is not None:
                first = sample.prompt_length
                scored = keep_Q[first : first + len(sample.logprobs)]
            return keep_Q[routes.start + 1 : routes.stop + 1], scored

        return only_rows(self.dump, keep)

    def rows_after(self, version: int) -> Dump:
        """The dump with the rows alone that are at a boundary after a version."""

        def keep(index: int, sample: Sample) -> Keep:
            labels, routes = self._labels[index], sample.routes
            if labels is None or routes is None:
                return None, None
            keep_Q = np.zeros(len(labels.version_Q), np.bool_)
            for token, before in labels.before.items():
                keep_Q[token] = before == version and labels.group_Q[token] == _BOUNDARY
            scored = None if sample.logprobs is None else np.zeros(len(sample.logprobs), np.bool_)
            return keep_Q[routes.start + 1 : routes.stop + 1], scored

        return only_rows(self.dump, keep)

    def versions_of(self, index: int) -> set[int] | None:
        """The places in names of those that made rows of a sample; None where it has no routes."""
        labels = self._labels[index]
        if labels is None:
            return None
        made = labels.version_Q[labels.start + 1 : labels.stop + 1]
        return {code for code in np.unique(made).tolist() if 0 <= code < len(self.names)}

    def covered(self, index: int, sample: Sample) -> Keep:
        """Which rows of another dump's sample this dump's sample ``index`` has too, bool [T, L]."""
        labels, routes = self._labels[index], sample.routes
        if routes is None:
            return None, None
        keep = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        if labels is not None:
            first = max(labels.start, routes.start)
            last = max(min(labels.stop, routes.stop), first)
            there = slice(first - routes.start, last - routes.start)
            missing_TL = labels.missing_TL
            own = slice(first - labels.start, last - labels.start)
            keep[there] = True if missing_TL is None else ~missing_TL[own]
        return keep, None


def places_of(names: Sequence[str]) -> tuple[int, ...]:
    """Where versions stand: the numbers that end their names, else 0, 1, 2, ...

    The numbers count when every name ends in one and they ascend: v0, v2, v8 stand at 0, 2, 8.
    A lag is the difference of two places. Raises ValueError when a name is there twice.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a version is named twice: {', '.join(names)}")
    digits = [name[len(name.rstrip("0123456789")) :] for name in names]
    if all(digits):
        numbers = tuple(int(number) for number in digits)
        if all(a < b for a, b in pairwise(numbers)):
            return numbers
    return tuple(range(len(names)))


def only_rows(dump: Dump, keep: Callable[[int, Sample], Keep]) -> Dump:
    """The same dump in which other rows are missing, and other tokens' log-probs are left out.

    keep gives, for a sample and its index, the rows to keep, bool [T] or [T, L], and the response
    tokens whose log-probs to keep, bool [G]; None for all. Margins of missing rows are NaN.
    """

    def load(index: int) -> Sample:
        sample = dump[index]
        rows, scored = keep(index, sample)
        if sample.routes is not None and rows is not None:
            sample = replace(sample, routes=sample.routes.only(rows))
        if sample.logprobs is not None and scored is not None:
            before = True if sample.scored is None else sample.scored
            sample = replace(sample, scored=scored & before)
        return sample

    return Dump(dump.meta, dump.keys, load)


def _labels(
    sample: Sample, codes: Mapping[str, int], known: int, own: int, exact: bool
) -> _Labels | None:
    """Version and group of what made each token; None without routes.

    codes has every name of the spans, those of versions with routes below ``known``; own is the
    code of samples without spans. exact tells that spans begin where their version does.
    """
    routes, spans, prompt = sample.routes, sample.weight_spans, sample.prompt_length
    if routes is None:
        return None
    response = max([sample.response_length or 0, *(span.end for span in spans)])
    size = 1 + max((prompt or 0) + response, routes.stop, sample.cached_tokens or 0)
    version_Q = np.full(size, _NONE if spans else own, np.int16)
    group_Q = np.full(size, _FIRST, np.uint8)
    before: dict[int, int] = {}
    several = len({codes[span.version] for span in spans}) > 1
    if spans and not several and (prompt is None or all(s.start >= s.end for s in spans)):
        version_Q[:] = codes[spans[0].version]
    elif spans and prompt is not None and response:
        version_G = np.full(response, _NONE, np.int16)
        for span in spans:
            version_G[max(span.start, 0) : max(span.end, 0)] = codes[span.version]
        version_Q[:prompt] = version_G[0]  # the prefill makes the first response token
        version_Q[prompt:] = version_G[-1]
        version_Q[prompt : prompt + response] = version_G
        named = version_Q >= 0
        other = named & (version_Q != version_Q[named][:1]) if named.any() else named
        group_Q[np.maximum.accumulate(other)] = _SWITCHED
        before = {} if exact else _boundaries(version_G, prompt)
    if several and (sample.retractions or prompt is None):
        group_Q[:], before = _UNCERTAIN, {}
    group_Q[1 : (sample.cached_tokens or 0) + 1] = _CACHED
    group_Q[list(before)] = _BOUNDARY
    group_Q[(version_Q < 0) | (version_Q >= known)] = _UNLABELLED
    return _Labels(version_Q, group_Q, before, routes.start, routes.stop, routes.missing_TL)


def _boundaries(version_G: NDArray[np.int16], prompt: int) -> dict[int, int]:
    """Tokens whose version is another than the last one named, each with the code of that."""
    named = np.flatnonzero(version_G != _NONE)
    codes = version_G[named]
    changed = np.flatnonzero(codes[1:] != codes[:-1])
    return dict(zip((prompt + named[changed + 1]).tolist(), codes[changed].tolist(), strict=True))


def _rows_per_token(routes: Routes) -> NDArray[np.int64]:
    layers = len(routes.layers_L)
    if routes.missing_TL is None:
        return np.full(routes.num_tokens, layers, np.int64)
    missing_T: NDArray[np.int64] = routes.missing_TL.sum(axis=1, dtype=np.int64)
    return layers - missing_T


class _Census:
    """Adds up sample after sample; codes number the versions, then other names as they come."""

    def __init__(self, names: Sequence[str], version_map: Mapping[str, str], exact: bool) -> None:
        self.names, self.exact = names, exact
        self.orders: Counter[tuple[int, int]] = Counter()
        self.said: dict[str, str] = {}
        self.version_map = version_map
        self.codes = {name: code for code, name in enumerate(names)}
        self.sizes = np.zeros((len(names), len(GROUPS)), np.int64)
        self.others: Counter[int] = Counter()
        self.samples: Counter[str] = Counter()

    def add(self, sample: Sample, own: int) -> _Labels | None:
        """Label one sample and count its rows."""
        mapped = {
            s.version: self.version_map.get(s.version, s.version) for s in sample.weight_spans
        }
        codes = {name: self.codes.setdefault(as_, len(self.codes)) for name, as_ in mapped.items()}
        labels = _labels(sample, codes, len(self.names), own, self.exact)
        self.said |= {name: as_ for name, as_ in mapped.items() if as_ in self.names}
        order = [codes[s.version] for s in sorted(sample.weight_spans, key=lambda s: s.start)]
        self.orders.update({(a, b) for a, b in pairwise(order) if a != b})
        if labels is None or sample.routes is None:
            return None
        several = len(set(codes.values())) > 1
        self.samples.update(
            samples=1,
            one_version=int(bool(codes) and not several),
            several_versions=int(several),
            without_spans=int(not codes),
            retracted=int(bool(sample.retractions)),
        )
        made = slice(sample.routes.start + 1, sample.routes.stop + 1)
        version_T, group_T = labels.version_Q[made], labels.group_Q[made]
        rows_T = _rows_per_token(sample.routes)
        known_T = group_T != _UNLABELLED
        self.samples["boundaries"] += int(((group_T == _BOUNDARY) & (rows_T > 0)).sum())
        np.add.at(self.sizes, (version_T[known_T], group_T[known_T]), rows_T[known_T])
        for code in np.unique(version_T[~known_T]).tolist():
            self.others[code] += int(rows_T[version_T == code].sum())
        return labels

    def counts(self) -> SpanCounts:
        """What was counted."""
        rows = dict(zip(GROUPS, self.sizes.sum(axis=0).tolist(), strict=True))
        rows["unlabelled"] = self.others.total()
        sure = self.sizes[:, [_FIRST, _SWITCHED]].sum(axis=1)
        by_version = dict(zip(self.names, sure.tolist(), strict=True))
        unknown = {
            name: self.others[code] for name, code in self.codes.items() if code >= len(self.names)
        }
        return SpanCounts(rows, by_version, unknown, **self.samples)


def attribute(
    dump: Dump, names: Sequence[str], version_map: Mapping[str, str], own: str | None = None
) -> Attribution:
    """Find the own version of every row, in one pass.

    The row at position p is the forward that made token p + 1: of response token g it has the
    version, prompt rows that of the first response token (the prefill), a last token's row that of
    the last. Where the engine's spans may begin early, the first row of a later span is apart from
    both. version_map turns names in the dump into names of versions; own is the version of samples
    without spans. Where the prompt's length is not known, a sample of one version is all
    of it, another one uncertain.
    """
    rule = BoundaryRule.of(dump.meta.engine)
    census = _Census(names, version_map, rule.exact)
    code = _NONE if own is None else names.index(own)
    labels = tuple(census.add(sample, code) for sample in dump)
    found = census.counts(), census.sizes, rule, census.orders, census.said
    return Attribution(dump, tuple(names), *found, labels)
