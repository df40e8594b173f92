"""Which weights made which row: the own version of every row of a sample.

Shape suffixes: T rows' tokens, L layers, G response tokens, Q tokens: entry q is about what made
token q, the row at position q - 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...routes import Bools, Routes

__all__ = [
    "GROUPS",
    "MODES",
    "R2",
    "Attributor",
    "BoundaryRule",
    "Labels",
    "Version",
    "only_rows",
    "own_routes",
    "places_of",
    "rows_per_token",
]

GROUPS = ("first", "switched", "boundary", "cached", "uncertain", "unlabelled")
MODES = ("free", "forced")
R2 = "R2"  # routes of a version that were given other ones than the dump's: see Version
_FIRST, _SWITCHED, _BOUNDARY, _CACHED, _UNCERTAIN, _UNLABELLED = range(len(GROUPS))
_NONE = -1
_SPANS_ARE_EXACT = {"vllm": True, "sglang": False}


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
    and the file holds what the router itself would have taken. One of them at least. replayed:
    every layer was given the routes that the trainer's own router takes at the weights that sampled
    (R2); of it the log-probs alone are read, for what replay gains.
    Raises ValueError when free and forced are None.
    """

    name: str
    free: Dump | None = None
    forced: Dump | None = None
    replayed: Dump | None = None

    def __post_init__(self) -> None:
        if self.free is None and self.forced is None:
            raise ValueError(f"version {self.name} has no routes")

    def routes(self, mode: str) -> Dump | None:
        """The dump of one of MODES, or of R2."""
        return {"free": self.free, "forced": self.forced, R2: self.replayed}[mode]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
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

    def rows_of(self, sample: Sample, version: int, groups: Iterable[str]) -> Sample:
        """Its sample with the rows, and log-probs, of one version and some of GROUPS alone."""
        wanted = [GROUPS.index(group) for group in groups]
        keep_Q = (self.version_Q == version) & np.isin(self.group_Q, wanted)
        scored = None
        if sample.logprobs is not None and sample.prompt_length is not None:
            first = sample.prompt_length
            scored = keep_Q[first : first + len(sample.logprobs)]
        return only_rows(sample, keep_Q[self.start + 1 : self.stop + 1], scored)

    def rows_after(self, sample: Sample, version: int) -> Sample:
        """Its sample with the rows alone that are at a boundary after a version."""
        keep_Q = np.zeros(len(self.version_Q), np.bool_)
        for token, before in self.before.items():
            keep_Q[token] = before == version and self.group_Q[token] == _BOUNDARY
        scored = None if sample.logprobs is None else np.zeros(len(sample.logprobs), np.bool_)
        return only_rows(sample, keep_Q[self.start + 1 : self.stop + 1], scored)

    def covered(self, sample: Sample) -> Sample:
        """Another dump's sample with the rows alone that this one has too."""
        routes = sample.routes
        if routes is None:
            return sample
        keep_TL = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        first = max(self.start, routes.start)
        last = max(min(self.stop, routes.stop), first)
        there = slice(first - routes.start, last - routes.start)
        own = slice(first - self.start, last - self.start)
        keep_TL[there] = True if self.missing_TL is None else ~self.missing_TL[own]
        return only_rows(sample, keep_TL, None)

    def groups_of(self, num_versions: int) -> dict[int, tuple[str, ...]]:
        """Per version that made tokens, by its code, their groups, in the order of GROUPS."""
        version_Q, group_Q = self.version_Q, self.group_Q
        known_Q = group_Q != _UNLABELLED
        pairs = np.unique(version_Q[known_Q].astype(np.int64) * len(GROUPS) + group_Q[known_Q])
        found: dict[int, tuple[str, ...]] = {}
        for version, group in (divmod(pair, len(GROUPS)) for pair in pairs.tolist()):
            if version < num_versions:
                found[version] = (*found.get(version, ()), GROUPS[group])
        return found

    def versions(self, num_versions: int) -> set[int]:
        """The codes of those of the first so many versions that made its rows."""
        made = self.version_Q[self.start + 1 : self.stop + 1]
        return {code for code in np.unique(made).tolist() if 0 <= code < num_versions}


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


def only_rows(sample: Sample, keep: Bools, scored: Bools | None) -> Sample:
    """A sample in which other rows are missing, and other tokens' log-probs are left out.

    keep, bool [T] or [T, L], are the rows to keep; scored, bool [G], the response tokens whose
    log-probs to keep, None for all. Margins of missing rows are NaN.
    """
    if sample.routes is not None and not keep.all():
        sample = replace(sample, routes=sample.routes.only(keep))
    if sample.logprobs is not None and scored is not None and not scored.all():
        before = True if sample.scored is None else sample.scored
        sample = replace(sample, scored=scored & before)
    return sample


def own_routes(labels: Labels, routes: Mapping[int, Routes]) -> Routes:
    """The routes that the trainer's own router takes at the weights that made each row: R2's.

    routes are of all of a sample's tokens, by the code of a version; a row of another version, or
    that its version lacks, is missing.
    """
    codes = list(routes)
    first = routes[codes[0]]
    if len(codes) == 1 and (labels.version_Q == codes[0]).all():
        return first
    shape = max((one.ids_TLK.shape for one in routes.values()), key=lambda shape: shape[0])
    ids_TLK, missing_TL = np.zeros(shape, first.ids_TLK.dtype), np.ones(shape[:2], np.bool_)
    code_T = np.full(shape[0], labels.version_Q[-1])
    told = labels.version_Q[1 : shape[0] + 1]
    code_T[: len(told)] = told
    for code, one in routes.items():
        own_T = code_T[: one.num_tokens] == code
        there_TL = np.broadcast_to(own_T[:, None], one.ids_TLK.shape[:2])
        if one.missing_TL is not None:
            there_TL = there_TL & ~one.missing_TL
        ids_TLK[: one.num_tokens][there_TL] = one.ids_TLK[there_TL]
        missing_TL[: one.num_tokens][there_TL] = False
    return Routes(ids_TLK, first.layers_L, first.num_experts, 0, missing_TL)


@dataclass(frozen=True, slots=True, eq=False)
class Attributor:
    """Finds the own version of every row, one sample at a time.

    The row at position p is the forward that made token p + 1: of response token g it has the
    version, prompt rows that of the first response token (the prefill), a last token's row that of
    the last. Where the engine's spans may begin early, the first row of a later span is apart from
    both. version_map turns names in the dump into names of versions; own is the version of samples
    without spans. Where the prompt's length is not known, a sample of one version is all
    of it, another one uncertain.
    """

    names: tuple[str, ...]
    version_map: Mapping[str, str]
    own: str | None
    exact: bool

    def codes(self, sample: Sample) -> dict[str, int]:
        """Every name of its spans, as mapped, by its number: those of versions first."""
        codes = {name: code for code, name in enumerate(self.names)}
        for span in sample.weight_spans:
            codes.setdefault(self.version_map.get(span.version, span.version), len(codes))
        return codes

    def labels(self, sample: Sample) -> Labels | None:
        """Version and group of what made each token; None without routes."""
        codes = self.codes(sample)
        by_span = {
            s.version: codes[self.version_map.get(s.version, s.version)]
            for s in sample.weight_spans
        }
        own = _NONE if self.own is None else self.names.index(self.own)
        return _labels(sample, by_span, len(self.names), own, self.exact)


def _labels(
    sample: Sample, codes: Mapping[str, int], known: int, own: int, exact: bool
) -> Labels | None:
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
    return Labels(version_Q, group_Q, before, routes.start, routes.stop, routes.missing_TL)


def _boundaries(version_G: NDArray[np.int16], prompt: int) -> dict[int, int]:
    """Tokens whose version is another than the last one named, each with the code of that."""
    named = np.flatnonzero(version_G != _NONE)
    codes = version_G[named]
    changed = np.flatnonzero(codes[1:] != codes[:-1])
    return dict(zip((prompt + named[changed + 1]).tolist(), codes[changed].tolist(), strict=True))


def rows_per_token(routes: Routes) -> NDArray[np.int64]:
    """How many rows each token has, int64 [T]."""
    layers = len(routes.layers_L)
    if routes.missing_TL is None:
        return np.full(routes.num_tokens, layers, np.int64)
    missing_T: NDArray[np.int64] = routes.missing_TL.sum(axis=1, dtype=np.int64)
    return layers - missing_T
