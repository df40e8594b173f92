"""The rows that a dump is learnt from: some of its samples, evenly spaced, in bounded memory.

Shape suffixes: T rows, N tokens, L MoE layers, K top_k.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ....columns.samples import SampleColumns
from ....dump import Keys, Sample, digest_tokens
from ....kernels.digests import hashing_of
from ....keys import run_places
from ....routes import Bools, Ids
from ...pairs.align import name_of

__all__ = ["FOLDS", "SAMPLES", "Keeper", "Kept", "PromptGroups", "Tokens", "kept_of"]

FOLDS = 4  # parts of the samples; a row is scored by what the other parts taught
_BYTES = 1 << 25  # of ids kept
SAMPLES = 1024  # kept
_ROWS = 1 << 14  # kept of one sample
_BLOCK = 128  # positions in one fold, where prompts are too few to make folds of
_CONTEXT = 8  # tokens after which a row counts once
Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A sample's rows and tokens; versions are of weights, each with its first position."""

    name: str
    index: int
    group: int
    tokens_N: Tokens
    start: int
    ids_TLK: Ids
    missing_TL: Bools | None
    versions: tuple[tuple[str, int], ...] = ()

    @property
    def rows(self) -> int:
        """T."""
        return len(self.ids_TLK)

    def tokens_at(self, lag: int, tokens_N: Tokens | None = None) -> Tokens:
        """The token whose route each row would be at a lag, int32 [T]; -1 where there is none."""
        own_N = self.tokens_N if tokens_N is None else tokens_N
        shift = self.start - lag  # from a row to its token
        first = min(max(-shift, 0), self.rows)
        end = max(min(len(own_N) - shift, self.rows), first)
        found_T = np.full(self.rows, -1, np.int32)
        found_T[first:end] = own_N[first + shift : end + shift]
        return found_T


@dataclass(slots=True)
class PromptGroups:
    """Numbers of prompts. Samples of one prompt are one group, and never teach each other."""

    known: dict[bytes, int] = field(default_factory=dict)

    def take(self, sample: Sample, index: int) -> int:
        """The number of a sample's prompt, a new one for one that was not seen."""
        return self.known.setdefault(_prompt_key(sample, index), len(self.known))

    def find(self, sample: Sample, index: int) -> int:
        """The number of a sample's prompt, that of its digest where nothing was learnt from it."""
        key = _prompt_key(sample, index)
        return self.known.get(key, int.from_bytes(key[:4], "little"))

    def folds(self, one: Kept) -> Tokens:
        """The fold of each row, int32 [T]: of its prompt, or of its position where they are few."""
        if len(self.known) >= 2 * FOLDS:
            return np.full(one.rows, one.group % FOLDS, np.int32)
        place_T = (np.arange(one.rows) + one.start) // _BLOCK
        return ((place_T + one.group) % FOLDS).astype(np.int32)

    def folds_of(self, columns: SampleColumns) -> Tokens:
        """``folds`` of all samples of columns, end to end."""
        hashing = hashing_of(len(columns.prompt.known_S))
        keys = Keys.of_columns(None, columns.prompt, hashing=hashing)
        digests_SW, known_S = keys.digests("prompt")
        known_S = known_S & (columns.prompt.sizes_S > 0)
        data, groups = digests_SW.tobytes(), []
        for at, known in enumerate(known_S.tolist()):
            key = data[16 * at : 16 * at + 16] if known else _place_key(columns.first + at)
            groups.append(self.known.get(key, int.from_bytes(key[:4], "little")))
        size_S = columns.num_rows_S
        group_R = np.repeat(np.array(groups, np.int64), size_S)
        if len(self.known) >= 2 * FOLDS:
            return (group_R % FOLDS).astype(np.int32)
        place_R = run_places(columns.start_S, size_S) // _BLOCK
        return ((place_R + group_R) % FOLDS).astype(np.int32)


def _place_key(index: int) -> bytes:
    """What stands for the prompt of a sample without one."""
    return index.to_bytes(8, "little")


def _prompt_key(sample: Sample, index: int) -> bytes:
    prompt = sample.prompt_ids
    if prompt is None or not len(prompt):
        return _place_key(index)
    return digest_tokens(np.asarray(prompt))


def kept_of(sample: Sample, index: int, group: int) -> Kept | None:
    """A sample as rows and tokens; None where it lacks either. Negative ids are no tokens."""
    tokens, routes = sample.token_ids, sample.routes
    if tokens is None or routes is None or not routes.num_tokens or not len(tokens):
        return None
    return Kept(
        name_of(sample, index),
        index,
        group,
        np.where(tokens >= 0, tokens, -1).astype(np.int32),
        routes.start,
        routes.ids_TLK,
        routes.missing_TL,
        _versions(sample),
    )


@dataclass(slots=True)
class Keeper:
    """Takes samples in order; keeps every n-th, n doubling whenever memory is full."""

    budget: int = _BYTES
    kept: list[Kept] = field(default_factory=list)
    samples: int = 0
    rows: int = 0
    longest: int = 0
    without: int = 0
    groups: PromptGroups = field(default_factory=PromptGroups)
    _seen: int = 0
    _step: int = 1
    _held: int = 0

    def add(self, sample: Sample, index: int) -> None:
        """Keep the sample, or pass it over."""
        one = self.view(sample, index)
        if one is None:
            self.without += 1
            return
        self.samples += 1
        self.rows += one.rows
        self.longest = max(self.longest, one.rows)
        place, self._seen = self._seen, self._seen + 1
        if place % self._step:
            return
        self.kept.append(_cut(one))
        self._held += self.kept[-1].ids_TLK.nbytes
        while len(self.kept) > 1 and (self._held > self.budget or len(self.kept) > SAMPLES):
            self._step *= 2
            self.kept = self.kept[::2]
            self._held = sum(k.ids_TLK.nbytes for k in self.kept)

    def view(self, sample: Sample, index: int) -> Kept | None:
        """A sample as rows and tokens; None where it lacks either. Negative ids are no tokens."""
        return kept_of(sample, index, self.groups.take(sample, index))

    def folds(self, one: Kept) -> Tokens:
        """The fold of each row, int32 [T]."""
        return self.groups.folds(one)

    def fresh(self) -> list[Bools]:
        """Of each kept sample, the rows whose last tokens were not there before: bool [T].

        Shared prompts, loops and repeated requests have the same rows again, which teach nothing.
        """
        hashes = [_contexts(one) for one in self.kept]
        sizes = [len(h) for h in hashes]
        _, first = np.unique(np.concatenate(hashes), return_index=True)
        fresh = np.zeros(sum(sizes), np.bool_)
        fresh[first] = True
        return np.split(fresh, np.cumsum(sizes)[:-1])


def _cut(one: Kept) -> Kept:
    """A copy of the first rows of a sample that is long."""
    size = min(one.rows, _ROWS)
    missing = None if one.missing_TL is None else one.missing_TL[:size].copy()
    return replace(one, ids_TLK=one.ids_TLK[:size].copy(), missing_TL=missing)


def _versions(sample: Sample) -> tuple[tuple[str, int], ...]:
    """Weight versions and the positions of their first rows: a token is sampled by the row before.

    The prompt is of the first version.
    """
    prompt = sample.prompt_length or 0
    spans = sample.weight_spans
    return tuple(
        (span.version, max(prompt + span.start - 1, 0) if n else 0) for n, span in enumerate(spans)
    )


def _contexts(one: Kept) -> NDArray[np.uint64]:
    """A number of the last tokens up to each row's own, uint64 [T]."""
    mixed_T = np.zeros(one.rows, np.uint64)
    for back in range(_CONTEXT):
        tokens_T = one.tokens_at(back).astype(np.int64).astype(np.uint64)
        mixed_T = (mixed_T ^ tokens_T) * np.uint64(0x9E3779B97F4A7C15)
        mixed_T ^= mixed_T >> np.uint64(29)
    return mixed_T
