"""Routes that a live model is given: checked at the door, and laid out as the rows of a batch.

Shape suffixes: N tokens of a sequence, L MoE layers, K top_k, R rows of a router.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...dump import Sample
from ...errors import MismatchError, UnsupportedError
from ...layouts.ranks import Rank
from ...routes import Ids, Routes, ids_dtype
from ...visible import visible
from ..routers import RouterAt
from ..tape import Forced
from .sequences import Batch, rows_of_batch
from .tokens import GivenRoutes, check_tokens

__all__ = ["Given", "LaidOut", "RowSlice", "checked_routes", "lay_out_batch", "row_slice_of"]

Given = Routes | Sample | NDArray[np.integer] | None
_KINDS = "expected Routes, a Sample, an integer array [N, L, K] or None"


@dataclass(frozen=True, slots=True)
class RowSlice:
    """What a rank's routers see of a batch: the ``number``-th of ``count`` equal runs of its rows.

    some_layers tells that the model is a pipeline stage, whose layers are some of the routes'.
    """

    number: int = 0
    count: int = 1
    some_layers: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class LaidOut:
    """A batch's routes by layer, how many sequences they are of, and rows that are there: [L]."""

    forced: dict[int, Forced]
    sequences: int
    given_L: NDArray[np.int64]


def row_slice_of(routers: tuple[RouterAt, ...], rank: Rank | None, *, megatron: bool) -> RowSlice:
    """The part of a batch that the routers of a rank see, by the model's own config.

    Raises TypeError for what is no Rank, and UnsupportedError under context parallelism, for a
    Rank that the model has no use for, for one that is absent or is not the model's own.
    """
    if rank is not None and not isinstance(rank, Rank):
        raise TypeError(f"rank: got {type(rank).__name__}, expected a routectl.Rank")
    if not megatron:
        if rank is not None:
            raise UnsupportedError("rank is of a Megatron-Core model: this one has whole sequences")
        return RowSlice()
    config = routers[0].module.config
    size: Any = getattr(config, "context_parallel_size", 1)
    if size > 1:
        raise UnsupportedError(
            f"context_parallel_size {size}: a rank has pieces of each sequence: pack its tensors "
            "(routectl.pack, or routectl.trainers.megatron.set_replay)"
        )
    count: Any = getattr(config, "tensor_model_parallel_size", 1)
    count = count if getattr(config, "sequence_parallel", False) else 1
    if count > 1 and (rank is None or rank.tp is None):
        raise UnsupportedError(
            f"sequence_parallel over {count} ranks: routers see a part of the tokens: pass "
            "rank=routectl.Rank(tp=this rank's)"
        )
    if rank is None:
        return RowSlice()
    tp, own = rank.tp or 0, _own_rank(routers[0].module)
    if rank.cp or not 0 <= tp < count or (own is not None and count > 1 and own != tp):
        told = f"; this rank's tp is {own}" if own is not None and count > 1 else ""
        raise UnsupportedError(
            f"got {rank}, expected cp 0 and tp below {count}, by the model's config{told}"
        )
    return RowSlice(tp, count, some_layers=True)


def _own_rank(router: Any) -> int | None:
    """This process's place in the router's own tensor parallel group, where it has one."""
    group = getattr(router, "tp_group", None)
    return group.rank() if isinstance(group, torch.distributed.ProcessGroup) else None


def checked_routes(routes: Iterable[Given], routers: tuple[RouterAt, ...]) -> list[GivenRoutes]:
    """What each sequence is given. Raises TypeError for anything else, before a forward.

    An array's layers are the model's MoE layers, in order; rows of -1 alone are missing. Raises
    MismatchError for arrays of another shape, and for ids that the routers do not have.
    """
    if isinstance(routes, Routes | Sample | np.ndarray | torch.Tensor | str | bytes | dict):
        raise TypeError(f"got {type(routes).__name__}, expected a list with one of each sequence")
    try:
        given = list(routes)
    except TypeError:
        raise TypeError(
            f"got {type(routes).__name__}, expected a list with one of each sequence"
        ) from None
    return [_held(one, f"routes[{place}]", routers) for place, one in enumerate(given)]


def _held(given: Given, name: str, routers: tuple[RouterAt, ...]) -> GivenRoutes:
    if not isinstance(given, Sample):
        return GivenRoutes(name, _routes_of(given, name, routers))
    if given.sample_id is not None:
        name += f" (sample {visible(given.sample_id, 60)})"
    tokens_N = given.token_ids
    return GivenRoutes(name, given.routes, given.prompt_ids if tokens_N is None else tokens_N)


def _routes_of(
    held: Routes | NDArray[np.integer] | None, name: str, routers: tuple[RouterAt, ...]
) -> Routes | None:
    if held is None or isinstance(held, Routes):
        return held
    if not isinstance(held, np.ndarray):
        more = ": pass its .cpu().numpy()" if isinstance(held, torch.Tensor) else ""
        raise TypeError(f"{name}: got {type(held).__name__}, {_KINDS}{more}")
    if held.dtype.kind not in "iu":
        raise TypeError(f"{name}: got an array of {held.dtype}, {_KINDS}")
    layers, top_k = tuple(at.layer for at in routers), routers[0].top_k
    experts = max(at.num_choices for at in routers)
    if held.ndim != 3 or held.shape[1:] != (len(layers), top_k):
        raise MismatchError(
            f"{name}: got an array {list(held.shape)}, expected [N, {len(layers)}, {top_k}]: "
            f"the MoE layers of the model ({_words(layers)}) and its top-k"
        )
    missing_NL = (held == -1).all(axis=2) if held.dtype.kind == "i" else np.zeros((0, 0), np.bool_)
    gone = bool(missing_NL.any())
    there = held[~missing_NL] if gone else held
    if there.size and not 0 <= int(there.min()) <= int(there.max()) < experts:
        raise MismatchError(
            f"{name}: ids are {int(there.min())} to {int(there.max())}, expected 0 to {experts - 1}"
        )
    there = np.where(missing_NL[:, :, None], 0, held) if gone else held
    ids_NLK: Ids = np.ascontiguousarray(there, dtype=ids_dtype(experts))
    return Routes(ids_NLK, layers, experts, 0, missing_NL if gone else None)


def lay_out_batch(
    batch: Batch, routers: tuple[RouterAt, ...], left: Sequence[GivenRoutes], part: RowSlice
) -> LaidOut:
    """The next sequences' routes, as the rows that the routers see of a batch.

    Of the batch, mask and positions are read, and token ids where a Sample tells its own: where
    they are on a device it is waited for. Raises MismatchError for more sequences than routes, and
    for routes that do not fit or would stand at other tokens than their Sample's.
    """
    layers, top_k = tuple(at.layer for at in routers), routers[0].top_k
    rows = batch.input_ids_BS.numel()
    if rows % part.count:
        raise MismatchError(f"{rows} rows of a batch are not {part.count} equal parts")
    dtype = np.uint8 if max(at.num_choices for at in routers) <= 256 else np.int32
    ids_LRK = np.zeros((len(routers), rows, top_k), dtype)
    there_LR = np.zeros((len(routers), rows), np.bool_)
    sequences = rows_of_batch(batch)
    if len(sequences) > len(left):
        raise MismatchError(
            f"there are more sequences than routes to replay: {len(sequences)} in this forward, "
            f"{len(left)} routes left"
        )
    fits = [
        _columns(held, layers, top_k, rows_T, part)
        for held, rows_T in zip(left, sequences, strict=False)
    ]
    check_tokens(batch, sequences, left)
    for rows_T, given, columns in zip(sequences, left, fits, strict=False):
        held = given.routes
        if held is None:
            continue
        target = _run(rows_T[held.start : held.stop])
        ids_LRK[:, target] = held.ids_TLK[:, columns].transpose(1, 0, 2)
        missing = held.missing_TL
        there_LR[:, target] = True if missing is None else ~missing[:, columns].T
    size = rows // part.count
    own = slice(part.number * size, (part.number + 1) * size)
    ids_LRK, there_LR = ids_LRK[:, own], there_LR[:, own]
    given_L = there_LR.sum(axis=1)
    device = batch.input_ids_BS.device
    on_device_LRK = torch.from_numpy(np.ascontiguousarray(ids_LRK)).to(device)
    whole = bool((given_L == size).all())
    missing_LR = None if whole else torch.from_numpy(~there_LR).to(device)
    forced = {
        layer: Forced(on_device_LRK[i], None if missing_LR is None else missing_LR[i])
        for i, layer in enumerate(layers)
    }
    return LaidOut(forced, len(sequences), given_L)


def _columns(
    given: GivenRoutes,
    layers: tuple[int, ...],
    top_k: int,
    rows_T: NDArray[np.int64],
    part: RowSlice,
) -> Any:
    """Where the model's layers are among those of the routes. Raises MismatchError where routes
    do not fit, with what differs.
    """
    held = given.routes
    if held is None or held.layers_L == layers:
        columns: Any = slice(None)
    elif part.some_layers and set(layers) <= set(held.layers_L):
        columns = [held.layers_L.index(layer) for layer in layers]
    else:
        columns = None
    if held is None:
        return columns
    wrong = []
    if columns is None:
        wrong.append(_other_layers(held.layers_L, layers))
    if held.top_k != top_k:
        wrong.append(f"got top-{held.top_k}, expected top-{top_k}")
    if held.stop > len(rows_T):
        wrong.append(
            f"got rows up to position {held.stop - 1}, expected at most {len(rows_T)} positions, "
            "the tokens of its sequence: one of each sequence, in the order of the batch"
        )
    if wrong:
        raise MismatchError(f"{given.name} does not fit: {'; '.join(wrong)}")
    return columns


def _other_layers(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Two tuples of layers that differ; those in one alone where the first few are the same."""
    if _words(got) != _words(expected):
        return f"got layers {_words(got)}, expected {_words(expected)}"
    alone = tuple(sorted(set(got) ^ set(expected)))
    return f"got {len(got)} layers, expected {len(expected)}; in one alone: {_words(alone)}"


def _run(rows_T: NDArray[np.int64]) -> Any:
    """The same rows as a slice, where they are at equal distances: it is copied faster."""
    if len(rows_T) < 2:
        return rows_T
    step = int(rows_T[1] - rows_T[0])
    first, last = int(rows_T[0]), int(rows_T[-1])
    even = step > 0 and bool((np.diff(rows_T) == step).all())
    return slice(first, last + 1, step) if even else rows_T


def _words(layers: tuple[int, ...]) -> str:
    """Layers in words; of many, the first few."""
    shown = ", ".join(map(str, layers[:5]))
    return f"{shown} ... {layers[-1]}" if len(layers) > 5 else shown
