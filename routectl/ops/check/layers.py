"""Hypotheses about layers and experts, on rows gathered from many samples; the one that is undone.

Shape suffixes: T, N tokens, L compared layers, K top_k, E experts.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample
from ...errors import MismatchError
from ...kernels.check import hash_sets
from ...margins import EPS
from ...routes import Ids
from .orders import wins
from .results import Book, Explanation, Score
from .token_runs import TokenRuns

__all__ = ["Maps", "at_margins", "judge_layers", "judge_tokens", "renumbered_dump"]

Map = NDArray[np.int64]
Maps = dict[int, tuple[int, ...]]
_SHIFTS = (-3, -2, -1, 1, 2, 3)
_HELD = 0.5  # share of equal sets from which a layer is called another's
_LIKE_CHANCE = 1.3  # times the overlap of unrelated tokens
_NOBODYS = 0.85  # mismatch of every layer in rows that are nobody's
_ENOUGH = 64  # tokens from which wrong routes are called so without an explanation
_WHOLE = 0.8  # of a layer's rows that differ, from which all of them are taken to be renumbered
_WRONG_FROM = 0.12  # mismatch of a layer from which rounding does not explain it


def _expert_map(dump_NK: Ids, reference_NK: Ids, num_experts: int) -> Map:
    """Which expert of the reference each of the dump's is, by how often both are in a token's row.

    int64 [E], a permutation; experts that were not seen keep their own number where it is free.
    """
    cells = dump_NK.astype(np.int64)[:, :, None] * num_experts + reference_NK[:, None, :]
    joint_EE = np.bincount(cells.ravel(), minlength=num_experts**2).reshape(num_experts, -1)
    ours_E = np.bincount(dump_NK.ravel(), minlength=num_experts)
    theirs_E = np.bincount(reference_NK.ravel(), minlength=num_experts)
    like_EE = joint_EE / np.maximum(ours_E[:, None] + theirs_E[None, :] - joint_EE, 1)
    found = np.full(num_experts, -1, np.int64)
    taken = np.zeros(num_experts, np.bool_)
    rows, columns = np.unravel_index(np.argsort(-like_EE, axis=None, kind="stable"), like_EE.shape)
    for ours, theirs in zip(rows.tolist(), columns.tolist(), strict=True):
        if like_EE[ours, theirs] <= 0:
            break
        if found[ours] < 0 and not taken[theirs]:
            found[ours], taken[theirs] = theirs, True
    for ours in np.flatnonzero(found < 0).tolist():
        theirs = ours if not taken[ours] else int(np.flatnonzero(~taken)[0])
        found[ours], taken[theirs] = theirs, True
    return found


def _renumbered(ours_NK: Ids, theirs_NK: Ids, num_experts: int) -> tuple[Map, float]:
    """The map of all tokens, and the mismatch that the map of one half leaves in the other."""
    to_E = _expert_map(ours_NK[::2], theirs_NK[::2], num_experts)
    mapped_NK = np.sort(to_E[ours_NK[1::2]], axis=1)
    left = (mapped_NK != np.sort(theirs_NK[1::2], axis=1)).any(axis=1)
    return _expert_map(ours_NK, theirs_NK, num_experts), float(left.mean()) if len(left) else 1.0


def _matches(ours_NLK: Ids, theirs_NLK: Ids, num_experts: int) -> NDArray[np.float64]:
    """The share of equal sets of each layer of the dump with each of the reference, [L, L]."""
    ours_NL, theirs_NL = hash_sets(ours_NLK, num_experts), hash_sets(theirs_NLK, num_experts)
    return np.stack([(ours_NL[:, [i]] == theirs_NL).mean(axis=0) for i in range(ours_NL.shape[1])])


def _like_chance(ours_NLK: Ids, theirs_NLK: Ids) -> bool:
    """Whether tokens share no more ids with their own row than with those of other tokens."""
    turned = np.roll(theirs_NLK, len(theirs_NLK) // 2, axis=0)
    shared = [
        (ours_NLK[..., :, None] == other[..., None, :]).any(axis=-1).mean()
        for other in (theirs_NLK, turned)
    ]
    return bool(shared[0] < _LIKE_CHANCE * shared[1] + 0.02)


def at_margins(known: int, clear: int) -> str:
    """How large the margins of mismatched rows are, in words; nothing where none is known."""
    if not known:
        return ""
    size = "large" if clear > known / 2 else "small"
    return f", at {size} margins: {100 * clear / known:.1f} % of these rows above {EPS:g}"


def judge_tokens(
    pending: TokenRuns, layers: tuple[int, ...], num_experts: int, book: Book, maps: Maps
) -> tuple[list[Score], int]:
    """Name what explains runs that differ in all layers: scores tried, and rows explained."""
    if not pending.kept:
        return [], 0
    ours, theirs = pending.sides()
    match_LL = _matches(ours, theirs, num_experts)
    before = float(1 - np.diag(match_LL).mean())

    def score(code: str, name: str, left: float, share: float = 1.0) -> Score:
        rows = round(len(ours) * len(layers) * share)
        return Score(code, name, rows, round(rows * left), round(rows * before))

    tried = []
    for shift in _SHIFTS:
        if len(layers) - abs(shift) >= 2:
            left = float(1 - np.diagonal(match_LL, shift).mean())
            size = len(layers) - abs(shift)
            tried.append(score("R702", _shift_name(shift), left, size / len(layers)))
    best_L = match_LL.argmax(axis=1)
    if len(set(best_L.tolist())) == len(layers) and (best_L != np.arange(len(layers))).any():
        order = ", ".join(str(layers[i]) for i in best_L)
        tried.append(
            score("R703", f"layers in the order {order}", float(1 - match_LL.max(1).mean()))
        )
    found = [_renumbered(ours[:, i], theirs[:, i], num_experts) for i in range(len(layers))]
    left = float(np.mean([remains for _, remains in found]))
    tried.append(score("R706", "experts renumbered", left))
    best = wins([s for s in tried if s.code != "R703"]) or wins(tried)
    if best is not None:
        pending.name(book, best.code, best.name)
        if best.code == "R706":
            maps |= {n: tuple(to.tolist()) for n, (to, _) in zip(layers, found, strict=True)}
        return tried, pending.wrong
    wrong_L = 1 - np.diag(match_LL)
    if wrong_L.min() > _NOBODYS and _like_chance(ours, theirs):
        pending.name(book, "R713")
    elif len(ours) >= _ENOUGH:
        first = layers[int(np.flatnonzero(wrong_L > _WRONG_FROM)[0])]
        pending.name(book, "R711", f"wrong from layer {first} on{at_margins(*pending.margins)}")
    return tried, 0


def _shift_name(shift: int) -> str:
    words = ("", "one", "two", "three")[abs(shift)]
    return f"routes of the MoE layer {words} {'further on' if shift > 0 else 'before'}"


def judge_layers(
    single: list[TokenRuns], layers: tuple[int, ...], num_experts: int, book: Book, maps: Maps
) -> tuple[list[Score], int]:
    """Name what explains runs that differ in one layer: scores tried, and rows explained."""
    tried: list[Score] = []
    explained = 0
    held: dict[int, int] = {}
    lefts: dict[int, float] = {}
    for column, pending in enumerate(single):
        if not pending.runs:
            continue
        ours, theirs = pending.sides()
        match_L = _matches(ours[:, [column]], theirs, num_experts)[0]
        own, other = float(match_L[column]), int(np.delete(match_L, column).argmax())
        other += other >= column
        name = f"layer {layers[column]}"
        size, before = len(ours), round(len(ours) * (1 - own))
        left = 1 - float(match_L[other])
        tried.append(
            Score(
                "R705", f"{name}: routes of layer {layers[other]}", size, round(size * left), before
            )
        )
        to_E, remains = _renumbered(ours[:, column], theirs[:, column], num_experts)
        tried.append(
            Score("R706", f"{name}: experts renumbered", size, round(size * remains), before)
        )
        best = wins(tried[-2:])
        if best is None:
            alone = _like_chance(ours[:, [column]], theirs[:, [column]])
            detail = "no layer of the reference has its routes" if alone else f"{name} alone"
            pending.name(book, "R705" if alone else "R711", detail)
        elif best.code == "R706":
            maps[layers[column]] = tuple(to_E.tolist())
            pending.name(book, "R706", name)
            explained += pending.wrong
        else:
            held[column], lefts[column] = other, left
            explained += pending.wrong
    for column, other in held.items():
        if held.get(other) is not None and set(held) == set(held.values()):
            order = ", ".join(f"{layers[a]} has {layers[b]}'s" for a, b in sorted(held.items()))
            single[column].name(book, "R703", f"layer {order}")
        else:
            single[column].name(book, "R705", f"it has the routes of layer {layers[other]}")
    return tried, explained


def renumbered_dump(dump: Dump, found: Explanation) -> Dump:
    """The same samples, each layer's ids mapped by ``found.permutations``; lazily, none is read.

    Raises MismatchError where there is nothing to map, or where only part of a layer's rows is
    renumbered: the map would break the others.
    """
    if not found.permutations:
        raise MismatchError("nothing to fix: no layer's experts are renumbered (R706)")
    rates = {
        layer: wrong / rows if rows else 0.0
        for layer, rows, wrong in zip(found.layers, found.rows_L, found.mismatched_L, strict=True)
    }
    for layer, _ in found.permutations:
        if rates[layer] < _WHOLE:
            raise MismatchError(
                f"layer {layer}: got {rates[layer]:.0%} of its rows renumbered, expected all: "
                "a map of the layer would break the others"
            )
    maps = {
        dump.meta.layers_L.index(layer): np.array(to, np.int64) for layer, to in found.permutations
    }

    def load(index: int) -> Sample:
        sample = dump[index]
        routes = sample.routes
        if routes is None:
            return sample
        ids_TLK = routes.ids_TLK.copy()
        for column, to_E in maps.items():
            ids_TLK[:, column] = to_E[ids_TLK[:, column]]
        if routes.missing_TL is not None:
            ids_TLK[routes.missing_TL] = 0
        return replace(sample, routes=replace(routes, ids_TLK=ids_TLK), gates=None)

    return Dump(replace(dump.meta, gates=False), dump.keys, load)
