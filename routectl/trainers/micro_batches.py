"""A live micro-batch of a Megatron rank: routes as a trainer holds them, packed for the rank.

What says where each sequence is, is what the trainer gives its model: cu_seqlens of its
packed_seq_params, or S of a padded batch. Shape suffixes: T tokens, L layers, K top_k.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dump import Sample
from ..errors import MismatchError, UnsupportedError
from ..layouts.packing import Packing
from ..layouts.pipeline import moe_layers
from ..ops.pack.pack import Packed, Rank, pack
from ..ops.pack.padding import TensorSpec
from ..routes import Routes, ids_dtype

if TYPE_CHECKING:
    import torch
    from megatron.core.packed_seq_params import PackedSeqParams
    from numpy.typing import NDArray

    Routed = Routes | Sample | NDArray[np.integer] | torch.Tensor | None
else:
    Routed = Any

__all__ = ["RankPlace", "Routed", "pack_bshd", "pack_thd", "packed_places"]


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a rank is, and what its model routes.

    tp is 1 without sequence parallelism, where every TP rank has all rows. layers_L are the MoE
    layers of the whole model, num_layers counts all of them.
    """

    tp: int
    cp: int
    ep: int
    rank: Rank
    num_layers: int
    layers_L: tuple[int, ...]
    num_experts: int
    top_k: int

    @classmethod
    def here(cls, config: Any, packed_seq_params: "PackedSeqParams | None" = None) -> "RankPlace":
        """This process's, by Megatron's parallel_state and a model's TransformerConfig.

        A CP size of the micro-batch's own (``local_cp_size``) is followed.
        """
        from megatron.core import parallel_state as state

        tp, tp_rank = 1, None
        if config.sequence_parallel:
            tp = state.get_tensor_model_parallel_world_size()
            tp_rank = state.get_tensor_model_parallel_rank()
        cp, cp_rank = state.get_context_parallel_world_size(), state.get_context_parallel_rank()
        local = getattr(packed_seq_params, "local_cp_size", None)
        if local is not None:
            cp, cp_rank = local, packed_seq_params.cp_group.rank() if local > 1 else 0  # type: ignore[union-attr]
        return cls(
            tp=tp,
            cp=cp,
            ep=state.get_expert_model_parallel_world_size(),
            rank=Rank(cp_rank, tp_rank),
            num_layers=config.num_layers,
            layers_L=moe_layers(config.num_layers, config.moe_layer_freq),
            num_experts=config.num_moe_experts,
            top_k=config.moe_router_topk,
        )


def packed_places(packed_seq_params: "PackedSeqParams") -> tuple[list[int], list[int] | None]:
    """Places of each sequence of a packed micro-batch, and its tokens where that is said.

    cu_seqlens_q_padded has the places, cu_seqlens_q where there is none. Where the two differ the
    latter has the tokens; frameworks that pad give Megatron the padded ones twice.
    """
    if packed_seq_params.qkv_format != "thd":
        raise MismatchError(
            f"packed_seq_params are {packed_seq_params.qkv_format}, expected thd: give seq_length "
            "alone for a padded micro-batch"
        )
    tokens = _sizes(packed_seq_params.cu_seqlens_q)
    if packed_seq_params.cu_seqlens_q_padded is None:
        return tokens, None
    places = _sizes(packed_seq_params.cu_seqlens_q_padded)
    return places, None if tokens == places else tokens


def pack_thd(
    routes: Sequence[Routed],
    place: RankPlace,
    layers: tuple[int, ...],
    places: Sequence[int],
    tokens: Sequence[int] | None = None,
) -> Packed:
    """The rows of some layers on a rank, of sequences that lie end to end in so many places each.

    tokens are those of each sequence, of which N or N - 1 have a route; None where they are not
    known. One place more than there are sequences is padding after them.
    """
    if len(places) - len(routes) not in (0, 1):
        raise MismatchError(
            f"packed_seq_params have {len(places)} sequences, the routes are of {len(routes)}"
        )
    there = [i for i in range(len(routes)) if places[i]]  # a sequence may have no token at all
    held = {i: _routes_of(routes[i], i, place, layers) for i in there}
    lens = []
    for i, one in held.items():
        known = _tokens_of(routes[i])
        if tokens is not None:
            if known not in (None, tokens[i]):
                raise MismatchError(
                    f"sequence {i}: the sample has {known} tokens, packed_seq_params {tokens[i]}"
                )
            known = tokens[i]
        lens.append(_checked_len(i, one, known, places[i]))
    padded = [*(places[i] for i in there), *(n for n in places[len(routes) :] if n)]
    packing = _fitting(lens, tp=place.tp, cp=place.cp, padded_lens=padded)
    return _packed([*held.values()], packing, place, layers)


def pack_bshd(
    routes: Sequence[Routed], place: RankPlace, layers: tuple[int, ...], seq_length: int | None
) -> Packed:
    """The rows of some layers on a rank, of sequences padded to seq_length each, S-major."""
    if seq_length is None:
        raise MismatchError(
            "without packed_seq_params the micro-batch is padded: give seq_length, its S before "
            "context parallelism"
        )
    held = [_routes_of(one, i, place, layers) for i, one in enumerate(routes)]
    lens = [_checked_len(i, one, _tokens_of(routes[i]), seq_length) for i, one in enumerate(held)]
    packing = _fitting(lens, tp=place.tp, cp=place.cp, form="bshd", seq_len=seq_length)
    return _packed(held, packing, place, layers)


def _fitting(lens: Sequence[int], **options: Any) -> Packing:
    """Megatron's layout; what does not divide is a mismatch here, not a wrong argument."""
    try:
        return Packing(lens, "megatron", **options)
    except ValueError as error:
        raise MismatchError(str(error)) from None


def _packed(
    held: Sequence[Routes | None], packing: Packing, place: RankPlace, layers: tuple[int, ...]
) -> Packed:
    """Ids in as few bytes as the routes have them, padding spread over the expert ranks."""
    if all(one is None for one in held):
        raise MismatchError("no sequence of the micro-batch has routes: nothing to replay")
    most = place.num_experts
    dtype = "uint8" if most <= 256 else "int16" if most <= 32768 else "int32"  # as torch has them
    spec = TensorSpec(padding="spread", dtype=dtype, ep=place.ep, layers=layers)
    return pack(held, packing, place.rank, spec=spec)


def _sizes(cu_seqlens: "torch.Tensor") -> list[int]:
    """Lengths out of cumulative ones."""
    ends = cu_seqlens.tolist()
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _tokens_of(one: Routed) -> int | None:
    """N where the sequence says it itself."""
    return one.num_tokens if isinstance(one, Sample) else None


def _checked_len(i: int, held: Routes | None, known: int | None, places: int) -> int:
    """The length of sequence i, of a route for each of whose tokens but the last one is sure.

    Where it is not known it is taken to be what the routes have. Raises MismatchError.
    """
    if held is None:
        return max(places, 1)
    if held.missing_TL is not None and held.missing_TL.any():
        row, column = np.argwhere(held.missing_TL)[0].tolist()
        raise UnsupportedError(
            f"sequence {i}: token {held.start + row} has no route in layer "
            f"{held.layers_L[column]}, and RouterReplay has no rows that select by themselves: "
            "leave the sequence out of the batch"
        )
    n = held.stop if known is None else known
    if held.start or held.stop not in (n, n - 1):
        raise MismatchError(
            f"sequence {i}: routes are of tokens {held.start} to {held.stop - 1}, the micro-batch "
            f"has {n} tokens: expected 0 to {n - 1}, or to {n - 2}"
        )
    if n > places:
        raise MismatchError(f"sequence {i}: {n} tokens with routes, {places} in the micro-batch")
    return n


def _routes_of(one: Any, i: int, place: RankPlace, layers: tuple[int, ...]) -> Routes | None:
    """The routes of a sequence in some layers at least. Raises what says what is wrong."""
    if one is None or isinstance(one, Routes):
        held = one
    elif isinstance(one, Sample):
        held = one.routes
        if held is None:
            raise MismatchError(
                f"sequence {i}: {one!r} has no routes: leave it out of the batch, or give None "
                "for a sequence that is padding"
            )
    else:
        ids_TLK = np.asarray(one.detach().cpu() if hasattr(one, "detach") else one)
        return _routes_of_array(ids_TLK, i, place, layers)
    if held is not None:
        expected = place.layers_L, place.num_experts, place.top_k
        got = held.layers_L, held.num_experts, held.top_k
        for name, ours, theirs in zip(
            ("MoE layers", "experts", "top_k"), got, expected, strict=True
        ):
            if ours != theirs:
                raise MismatchError(f"sequence {i}: routes have {name} {ours}, the model {theirs}")
    return held


def _routes_of_array(
    ids_TLK: "NDArray[Any]", i: int, place: RankPlace, layers: tuple[int, ...]
) -> Routes:
    """Some layers of bare ids, which are of the MoE layers or of all layers of the model."""
    if ids_TLK.ndim != 3 or ids_TLK.dtype.kind not in "iu":
        raise TypeError(
            f"sequence {i}: got {ids_TLK.dtype} {ids_TLK.shape}, expected Routes, a Sample or "
            "integers [tokens, layers, top_k]"
        )
    found, top_k = ids_TLK.shape[1:]
    if top_k != place.top_k or found not in (len(place.layers_L), place.num_layers):
        raise MismatchError(
            f"sequence {i}: routes have {found} layers of {top_k} experts, the model "
            f"{len(place.layers_L)} MoE layers of {place.num_layers} and selects {place.top_k}"
        )
    of_all = found == place.num_layers
    columns = [layer if of_all else place.layers_L.index(layer) for layer in layers]
    first, end = columns[0], columns[-1] + 1
    part = slice(first, end) if columns == list(range(first, end)) else columns  # without a copy
    ids_TLK = ids_TLK[:, part]
    least = 0 if ids_TLK.dtype.kind == "u" or not ids_TLK.size else int(ids_TLK.min())
    most = int(ids_TLK.max()) if ids_TLK.size else 0
    if least < 0 or most >= place.num_experts:
        wrong = least if least < 0 else most
        raise MismatchError(f"sequence {i}: expert {wrong}, the model has {place.num_experts}")
    twice_TL = ids_TLK[:, :, 0] == ids_TLK[:, :, 1] if top_k > 1 else np.zeros((0, 0), np.bool_)
    if twice_TL.any():
        token, column = np.argwhere(twice_TL)[0].tolist()
        raise MismatchError(
            f"sequence {i}: token {token} has expert {ids_TLK[token, column, 0]} twice in layer "
            f"{layers[column]}: a row that was not captured"
        )
    ids_TLK = np.ascontiguousarray(ids_TLK, ids_dtype(place.num_experts))
    return Routes(ids_TLK, layers, place.num_experts)
