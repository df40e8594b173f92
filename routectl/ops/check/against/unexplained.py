"""Rows that no order, no layer and no map explains: what can be said of them, and no more.

Shape suffixes: N tokens, L layers, K top_k.
"""

from collections.abc import Sequence

import numpy as np

from ....routes import Ids
from ..book.results import CONSTANT_FROM, Book, Place
from .inputs import Inputs
from .pending import PairedSides, Pending
from .rest import Rest
from .wording import margin_words

__all__ = ["judge_columns", "judge_tokens"]

_LIKE_CHANCE = 1.3  # times the ids that unrelated rows share
_DIFFERS = 0.35  # mismatch up to which rows are in place
_NOBODYS = 0.85  # mismatch of every layer in rows that are nobody's
_ENOUGH = 64  # tokens from which wrong routes are called so without an explanation
_WRONG_FROM = 0.12  # mismatch of a layer from which rounding does not explain it
_OWN = 8  # tokens of a run that is judged by itself
_EVEN = 4.0  # sigmas that a load may be from even
_EVERY = 0.9


def _ids(run: Pending, sides: PairedSides) -> tuple[Ids, Ids]:
    """The ids of a run on both sides, in its columns, of rows that are there."""
    ours_N, _ = sides.ours.rows_at(run.positions)
    theirs_N, _ = sides.theirs.rows_at(run.positions)
    columns = list(run.columns)
    there = (sides.ours.there_TL[ours_N] & sides.theirs.there_TL[theirs_N])[:, columns].all(axis=1)
    ours = sides.ours.ids_TLK[ours_N][there][:, columns]
    return ours, sides.theirs.ids_TLK[theirs_N][there][:, columns]


def _shared(ours: Ids, theirs: Ids) -> float:
    return float((ours[..., :, None] == theirs[..., None, :]).any(axis=-1).mean())


def _like_chance(ours: Ids, theirs: Ids) -> bool:
    """Whether rows share no more ids with their own than with those of other tokens."""
    if not len(ours):
        return False
    turned = np.roll(theirs, len(theirs) // 2, axis=0)
    chance = _shared(ours, turned)
    sigma = np.sqrt(chance * (1 - chance) / ours.size)
    return bool(_shared(ours, theirs) < _LIKE_CHANCE * chance + 0.02 + 2 * sigma)


def _is_even(ours: Ids, num_experts: int) -> bool:
    """Whether experts are taken as evenly as by chance, as random filler is."""
    tokens, layers, top_k = ours.shape
    even = tokens * top_k / num_experts
    spread = 1 - top_k / num_experts
    load = [
        np.bincount(ours[:, i].ravel(), minlength=num_experts)[:num_experts] for i in range(layers)
    ]
    squares = float(((np.stack(load) - even) ** 2).sum())
    cells = num_experts * layers
    return bool(squares / even <= spread * (cells + _EVEN * np.sqrt(2 * cells)))


def _is_constant(run: Pending, sides: PairedSides) -> bool:
    """Whether all the sample's rows of the layer are alike: R302 is said of them."""
    rows_TK = sides.ours.ids_TLK[sides.ours.there_TL[:, run.columns[0]], run.columns[0]]
    enough = CONSTANT_FROM * (1 if rows_TK.shape[1] > 1 else 8)
    return len(rows_TK) >= enough and bool((rows_TK == rows_TK[0]).all())


def _out_of_range(ours: Ids, num_experts: int) -> bool:
    """Whether most rows have an id out of range: R101 is said of them."""
    return bool(len(ours)) and float((ours >= num_experts).any(axis=-1).mean()) > 0.5


def _of_one_id(ours: Ids) -> bool:
    """Whether most rows have one id in all of their slots: R102 is said of them."""
    if ours.shape[-1] < 2 or not len(ours):
        return False
    return float((ours == ours[..., :1]).all(axis=-1).mean()) > 0.5


def judge_tokens(
    pending: Sequence[Pending],
    inputs: Inputs,
    layers: tuple[int, ...],
    tokens: int,
    rest: Rest,
    book: Book,
) -> int:
    """Name runs that differ in all layers: nobody's, or in place and wrong from a layer on.

    Returns how many rows are of the latter.
    """
    nobodys: list[tuple[Pending, bool]] = []
    wrong: list[Pending] = []
    wrong_L, rows_L = np.zeros((2, len(layers)), np.int64)
    for run in pending:
        sides = inputs.pair(run.index)
        ours, theirs = _ids(run, sides)
        differs, both = sides.compared(run.positions, np.array(run.columns))
        rate = run.wrong / max(run.rows, 1)
        if rate <= _DIFFERS:  # what is left of a run that others explain
            rest.spare(differs, both)
            continue
        if _out_of_range(ours, inputs.num_experts) or _of_one_id(ours):
            continue
        if len(ours) >= _OWN and rate > _NOBODYS and _like_chance(ours, theirs):
            nobodys.append((run, _is_even(ours, sides.theirs.num_ids)))
            continue
        wrong.append(run)
        wrong_L += differs.sum(axis=0)
        rows_L += both.sum(axis=0)
    size = sum(len(run.positions) for run, _ in nobodys)
    for run, even in nobodys:
        if even:
            detail = "as even as random filler"
        elif size > _EVERY * tokens:
            detail = "every row: another model's, or of other tokens"
        else:
            detail = "loaded as the model's are: of tokens that are not here, or of a stale buffer"
        book.add("R713", Place(run.name, int(run.positions[0])), rows=run.wrong, detail=detail)
    if sum(len(run.positions) for run in wrong) < _ENOUGH:
        return 0
    rate_L = wrong_L / np.maximum(rows_L, 1)
    first = layers[int(np.flatnonzero(rate_L >= min(_WRONG_FROM, rate_L.max()))[0])]
    known, clear = (sum(run.margins[i] for run in wrong) for i in (0, 1))
    detail = f"wrong from layer {first} on{margin_words(known, clear, inputs.eps)}"
    for run in wrong:
        place = Place(run.name, int(run.positions[0]))
        book.add("R711", place, rows=run.wrong, detail=detail, facts={"from_layer": first})
    return sum(run.wrong for run in wrong)


def judge_columns(
    pending: Sequence[Pending],
    inputs: Inputs,
    layers: tuple[int, ...],
    column: int,
    book: Book,
) -> None:
    """Name runs of one layer that no other layer and no map explains."""
    pending = [run for run in pending if not _is_constant(run, inputs.pair(run.index))]
    if not pending:
        return
    pairs = [_ids(run, inputs.pair(run.index)) for run in pending]
    ours, theirs = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    if _out_of_range(ours, inputs.num_experts) or _of_one_id(ours):
        return
    alone = _like_chance(ours, theirs)
    code = "R705" if alone else "R711"
    layer = layers[column]
    detail = "no layer of the reference has its routes" if alone else f"layer {layer} alone"
    for run in pending:
        place = Place(run.name, int(run.positions[0]), layer)
        facts = {"kind": detail} if alone else {"only_layer": layer}
        book.add(code, place, rows=run.wrong, layers=[layer], detail=detail, facts=facts)
