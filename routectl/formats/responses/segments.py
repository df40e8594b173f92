"""Calls that continue each other, merged: turns and resumed rollouts of one sample.

Two records of one file are segments of one sample when they have one explicit id and the tokens
of one are a prefix of the other's; with the same tokens, when their starts differ. Of a row that
several calls have, that of the earliest call stays: it is of the forward that sampled the tokens,
and the log-probs beside it are of that one too. verl (workers/rollout/llm_server.py, #6046) keeps
the same; slime (utils/types.py) and miles (rollout/session/samples/merge.py) keep the later one.
Shape suffixes: T tokens, L MoE layers, K top_k, R rows of an overlap, G response tokens.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import Keys, Sample, SampleKey, Segment, WeightSpan, key_of
from ...routes import Bools, Ids, Routes
from ..wire.sample import WireSample

__all__ = ["Chains", "find_chains", "merge_samples"]


@dataclass(frozen=True, slots=True)
class _Chain:
    """The places of the calls of one sample, earliest first, and the key of the whole."""

    places: tuple[int, ...]
    key: SampleKey


@dataclass(slots=True)
class _Open:
    places: list[int]
    prompt_length: int
    starts: set[int | None]
    tip: WireSample


def _tokens(wire: WireSample) -> NDArray[np.int32]:
    assert wire.prompt_ids is not None
    assert wire.response_ids is not None
    return np.concatenate([wire.prompt_ids, wire.response_ids])


def _digests(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Digests of the first ``lengths`` tokens, ascending, in one pass over the bytes."""
    running, end, found = hashlib.blake2b(digest_size=16), 0, []
    for length in lengths:
        running.update(data[4 * end : 4 * length])
        end = length
        found.append(running.copy().digest())
    return found


def _link(places: Sequence[int], wire_of: Callable[[int], WireSample]) -> list[_Open]:
    """The chains of the records of one id, whose tokens are known."""
    calls = [(place, wire_of(place)) for place in places]
    calls.sort(key=lambda call: call[1].num_tokens or 0)
    lengths = sorted({wire.num_tokens or 0 for _, wire in calls})
    chains: list[_Open] = []
    tips: dict[bytes, list[_Open]] = defaultdict(list)
    for place, wire in calls:
        size, start = wire.num_tokens or 0, wire.said_start
        data = _tokens(wire).astype("<i4").tobytes()
        *shorter, own = _digests(data, [n for n in lengths if n <= size])
        same = (c for c in tips[own] if None not in {start, *c.starts} and start not in c.starts)
        chain = next(same, None)
        if chain is not None:
            chain.starts.add(start)
        else:
            before = next((tips[d] for d in reversed(shorter) if tips.get(d)), None)
            if before:
                chain = before.pop(0)
            else:
                chain = _Open([], size, set(), wire)
                chains.append(chain)
            chain.starts, chain.tip = {start}, wire
            tips[own].append(chain)
        chain.places.append(place)
        chain.prompt_length = min(chain.prompt_length, wire.prompt_length or 0)
    return chains


@dataclass(frozen=True, slots=True)
class Chains:
    """The samples of a file in the order of their first records; most are one record.

    keys are the samples'; first_places where each begins; merged are those of several records, by
    their first place.
    """

    keys: Keys
    first_places: Sequence[int]
    merged: dict[int, tuple[int, ...]]

    def places(self, number: int) -> tuple[int, ...]:
        """The places of the records of a sample, earliest first."""
        first = self.first_places[number]
        return self.merged.get(first, (first,))


def _same_ids(keys: Keys) -> list[list[int]]:
    """The places of each id that is there more than once, where the tokens are known."""
    (digests, has_id), (_, has_tokens) = keys.digests("sample_id"), keys.digests("tokens")
    places = np.flatnonzero(has_id & has_tokens)
    digests = digests[places].view(f"S{digests.itemsize * digests.shape[1]}")[:, 0]
    order = np.argsort(digests, kind="stable")
    again = np.flatnonzero(digests[order[1:]] == digests[order[:-1]])
    by_id: dict[bytes, list[int]] = defaultdict(list)
    for i in np.union1d(order[again], order[again + 1]).tolist():
        by_id[bytes(digests[i])].append(int(places[i]))
    return list(by_id.values())


def find_chains(keys: Keys, wire_of: Callable[[int], WireSample]) -> Chains:
    """The samples that records make up.

    Records whose id is there once, or whose tokens are not known, are not read again.
    """
    merged: dict[int, _Chain] = {}
    later: set[int] = set()
    for places in _same_ids(keys):
        for chain in _link(places, wire_of):
            if len(chain.places) == 1:
                continue
            tokens, split = _tokens(chain.tip), chain.prompt_length
            key = key_of(keys[places[0]].sample_id, tokens[:split], tokens[split:])
            first = min(chain.places)
            merged[first] = _Chain(tuple(chain.places), key)
            later.update(place for place in chain.places if place != first)
    if not merged:
        return Chains(keys, range(len(keys)), {})
    first_places = array("q", (place for place in range(len(keys)) if place not in later))
    own = Keys(merged[p].key if p in merged else keys[p] for p in first_places)
    return Chains(own, first_places, {place: chain.places for place, chain in merged.items()})


def _compared(
    old_RLK: Ids, new_RLK: Ids, both_RL: Bools, routes: Routes
) -> tuple[int, int, tuple[int, ...], tuple[int, int] | None]:
    """Of rows that two calls have: how many differ as sets, how many mostly, layers, the first."""
    unlike_RL = both_RL & (old_RLK != new_RLK).any(axis=2)
    rows, columns = np.nonzero(unlike_RL)
    if not len(rows):
        return 0, 0, (), None
    old, new = old_RLK[rows, columns], new_RLK[rows, columns]
    common = (old[:, :, None] == new[:, None, :]).any(axis=2).sum(axis=1)
    differ = common < old.shape[1]
    apart = int((2 * common < old.shape[1]).sum())
    if not differ.any():
        return 0, 0, (), None
    at = int(np.flatnonzero(differ)[0])
    layers = tuple(routes.layers_L[i] for i in np.unique(columns[differ]).tolist())
    first = routes.start + int(rows[at]), routes.layers_L[columns[at]]
    return int(differ.sum()), apart, layers, first


class _Merged:
    """Rows of all calls by position, those of earlier calls first."""

    def __init__(self, first: Routes) -> None:
        self.first, self.start = first, first.start
        self.ids_TLK = first.ids_TLK[:0]
        self.there_TL = np.zeros(self.ids_TLK.shape[:2], np.bool_)

    @property
    def stop(self) -> int:
        """Position after the last row."""
        return self.start + len(self.ids_TLK)

    def reach(self, start: int, stop: int) -> None:
        """Make room for rows from ``start`` up to ``stop``, missing so far."""
        widths = (max(0, self.start - start), max(0, stop - self.stop))
        if any(widths):
            self.ids_TLK = np.pad(self.ids_TLK, (widths, (0, 0), (0, 0)))
            self.there_TL = np.pad(self.there_TL, (widths, (0, 0)))
            self.start -= widths[0]

    def add(self, routes: Routes) -> Segment:
        """Fill in what is not there yet; say how the rest agrees."""
        self.reach(routes.start, routes.stop)
        part = slice(routes.start - self.start, routes.stop - self.start)
        new_TL: Any = np.ones(routes.ids_TLK.shape[:2], np.bool_)
        if routes.missing_TL is not None:
            new_TL = ~routes.missing_TL
        both_TL = new_TL & self.there_TL[part]
        found = _compared(self.ids_TLK[part], routes.ids_TLK, both_TL, routes)
        fresh_TL = new_TL & ~both_TL
        self.ids_TLK[part][fresh_TL] = routes.ids_TLK[fresh_TL]
        self.there_TL[part] |= new_TL
        return Segment(routes.start, routes.stop, int(both_TL.sum()), *found)

    def routes(self) -> Routes:
        """All rows; those that no call has are missing."""
        missing_TL = None if self.there_TL.all() else ~self.there_TL
        first = self.first
        return Routes(self.ids_TLK, first.layers_L, first.num_experts, self.start, missing_TL)


def _merge_routes(
    parts: Iterable[Sample],
) -> tuple[Routes | None, tuple[Segment, ...], list[Sample]]:
    """One Routes over all calls, the calls' segments, and the calls without their routes."""
    merged: _Merged | None = None
    segments: list[Segment] = []
    rest: list[Sample] = []
    for part in parts:
        rest.append(replace(part, routes=None))
        if part.routes is not None:
            merged = merged or _Merged(part.routes)
            segment = merged.add(part.routes)
            versions = dict.fromkeys(span.version for span in part.weight_spans)
            segments.append(replace(segment, version="+".join(versions) or None))
    if merged is None:
        return None, (), rest
    if len(segments) < len(rest):  # a call without routes left its rows out
        merged.reach(merged.start, (rest[-1].num_tokens or 0) - 1)
    return merged.routes(), tuple(segments), rest


def _spread(parts: Sequence[Sample], prompt: int, total: int) -> dict[str, Any]:
    """Log-probs, mask and versions of the calls' own response tokens, over the whole response."""
    logprobs_G = np.full(total - prompt, np.nan)
    mask_T = np.zeros(total, np.bool_)
    spans: list[WeightSpan] = []
    for part in parts:
        at, size = part.prompt_length or 0, part.response_length or 0
        if part.logprobs is not None:
            logprobs_G[at - prompt : at - prompt + size] = part.logprobs
        own = True if part.loss_mask is None else part.loss_mask[at : at + size]
        mask_T[at : at + size] = own
        if at == prompt:
            spans = []  # all response tokens so far, said again
        spans += [
            replace(s, start=s.start + at - prompt, end=s.end + at - prompt)
            for s in part.weight_spans
        ]
    whole = bool(mask_T[prompt:].all()) and all(part.loss_mask is None for part in parts)
    return {
        "logprobs": None if all(part.logprobs is None for part in parts) else logprobs_G,
        "loss_mask": None if whole else mask_T,
        "weight_spans": tuple(spans),
    }


def merge_samples(calls: Iterable[Sample]) -> Sample:
    """One sample of the calls of a chain, earliest first; one call's rows are in memory at a time.

    Its prompt is the first call's (the shortest); what is neither prompt nor sampled by a call (a
    tool's answer, the next user turn) is response with a false loss mask and nan for log-probs.
    """
    routes, segments, parts = _merge_routes(calls)
    first, last = parts[0], parts[-1]
    tokens, prompt = last.token_ids, min(part.prompt_length or 0 for part in parts)
    assert tokens is not None
    retractions = [part.retractions for part in parts if part.retractions is not None]
    return Sample(
        routes=routes,
        sample_id=first.sample_id,
        group_id=next((part.group_id for part in parts if part.group_id is not None), None),
        prompt_ids=tokens[:prompt],
        response_ids=tokens[prompt:],
        prompt_length=prompt,
        response_length=len(tokens) - prompt,
        finish_reason=last.finish_reason,
        cached_tokens=first.cached_tokens,
        retractions=sum(retractions) if retractions else None,
        start_inferred=any(part.start_inferred for part in parts),
        row_form=last.row_form,
        segments=segments,
        **_spread(parts, prompt, len(tokens)),
    )
