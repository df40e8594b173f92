"""Which samples of two dumps are the same sequence, and at which positions they can be compared."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ...dump import SampleKey
from ...errors import MismatchError

__all__ = ["MATCHES", "Join", "join_keys"]

MATCHES = ("auto", "id", "tokens", "prefix", "order")
Keys = Sequence[SampleKey]


@dataclass(frozen=True, slots=True)
class Join:
    """Pairs of indices (old, new), in the order of old, and the indices left without a partner.

    by counts the pairs per rule; conflicts counts ids that are on both sides with other token ids.
    """

    pairs: tuple[tuple[int, int], ...]
    only_old: tuple[int, ...]
    only_new: tuple[int, ...]
    by: dict[str, int]
    conflicts: int = 0


def _agree(old: SampleKey, new: SampleKey) -> bool:
    """Token ids are equal, or one side does not know them."""
    return old.tokens is None or new.tokens is None or old.tokens == new.tokens


def _by_id(old: Keys, new: Keys) -> list[tuple[int, int]]:
    """Pairs with one id, where that id is there once on each side."""
    counts = [Counter(k.sample_id for k in keys) for keys in (old, new)]
    places = {k.sample_id: j for j, k in enumerate(new) if counts[1][k.sample_id] == 1}
    return [
        (i, places[k.sample_id])
        for i, k in enumerate(old)
        if k.sample_id is not None and counts[0][k.sample_id] == 1 and k.sample_id in places
    ]


def _by_digest(
    old: Keys,
    new: Keys,
    digest: Callable[[SampleKey], bytes | None],
    taken: Sequence[tuple[int, int]] = (),
) -> list[tuple[int, int]]:
    """Pairs with one digest, repeats matched in order, leaving out what is taken."""
    taken_old, taken_new = {i for i, _ in taken}, {j for _, j in taken}
    waiting: dict[bytes, deque[int]] = defaultdict(deque)
    for j, key in enumerate(new):
        found = digest(key)
        if found is not None and j not in taken_new:
            waiting[found].append(j)
    pairs = []
    for i, key in enumerate(old):
        found = digest(key)
        if found is not None and i not in taken_old and waiting.get(found):
            pairs.append((i, waiting[found].popleft()))
    return pairs


def _checked(pairs: list[tuple[int, int]], old: Keys, new: Keys, how: str) -> None:
    """Refuse pairs whose token ids differ: their rows are of other tokens."""
    bad = [(i, j) for i, j in pairs if not _agree(old[i], new[j])]
    if bad:
        i, j = bad[0]
        raise MismatchError(
            f"{len(bad)} of {len(pairs)} samples matched by {how} have other token ids on the two "
            f"sides, first: OLD sample {i} and NEW sample {j}",
            hint="--match prefix compares the positions before the tokens part",
        )


def join_keys(old: Keys, new: Keys, match: str = "auto") -> Join:
    """Join the samples of two dumps.

    auto    by sample id where the token ids agree (or are not known), the rest by token ids
    id      by sample id; other token ids are an error
    tokens  by equal token ids, repeats in order
    prefix  by equal prompts, repeats in order; the caller compares positions up to where the
            tokens part (a row depends on the tokens up to its own only)
    order   first with first, and so on; other token ids are an error

    Raises MismatchError when no pair is found or a rule is broken, ValueError for another rule.
    """
    if match not in MATCHES:
        raise ValueError(f"match must be one of {MATCHES}, got {match!r}")
    by: dict[str, int] = {}
    if match in ("auto", "id"):
        pairs = _by_id(old, new)
        if match == "id":
            _checked(pairs, old, new, "id")
        conflicts = [(i, j) for i, j in pairs if not _agree(old[i], new[j])]
        pairs = [(i, j) for i, j in pairs if _agree(old[i], new[j])]
        by["id"] = len(pairs)
        if match == "auto":
            more = _by_digest(old, new, lambda k: k.tokens, pairs)
            by["tokens"] = len(more)
            pairs = sorted([*pairs, *more])
    elif match == "order":
        pairs = [(i, i) for i in range(min(len(old), len(new)))]
        _checked(pairs, old, new, "order")
    else:
        pairs = _by_digest(old, new, lambda k: k.prompt if match == "prefix" else k.tokens)
    if match not in ("auto", "id"):
        conflicts = []
        by[match] = len(pairs)
    if not pairs:
        raise _nothing(old, new, match)
    paired_old, paired_new = {i for i, _ in pairs}, {j for _, j in pairs}
    left = [(i, j) for i, j in conflicts if i not in paired_old or j not in paired_new]
    return Join(
        tuple(pairs),
        tuple(i for i in range(len(old)) if i not in paired_old),
        tuple(j for j in range(len(new)) if j not in paired_new),
        {rule: count for rule, count in by.items() if count},
        len(left),
    )


def _nothing(old: Keys, new: Keys, match: str) -> MismatchError:
    """Say why no two samples belong together, and which rule might find pairs."""
    prompts = {k.prompt for k in old if k.prompt} & {k.prompt for k in new if k.prompt}
    rule = {"auto": "id or token ids", "prefix": "prompt"}.get(match, match)
    known = all(k.tokens is not None for pair in zip_longest(old, new) for k in pair if k)
    hint = None
    if prompts and match != "prefix":
        hint = f"{len(prompts)} prompts are on both sides: --match prefix"
    elif not known and match != "order":
        hint = "not every sample has token ids: --match order pairs first with first"
    return MismatchError(
        f"nothing to compare: none of {len(old)} samples of OLD and {len(new)} of NEW match by "
        f"{rule}",
        hint=hint,
    )
