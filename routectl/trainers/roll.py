"""ROLL's ``set_router_replay_data`` for batches that it packs (``use_sequence_packing``).

ROLL 8eb27cc2 ``third_party/megatron/router_replay_utils.py`` cuts routes of padded batches for SP
and refuses replay with packing; ``distributed/strategy/megatron_strategy.py`` packs. This is that
function with the rows where ``_pack_sequences`` puts tokens: each sequence padded to a multiple of
lcm(16, 2 x CP x TP), TP alone without CP, then cut for CP (zigzag) and SP. What ROLL does around
it, switching its routers to forward and to backward and clearing them after a step, stays as is.
"""

import math
from typing import TYPE_CHECKING, Any

import torch

from ..errors import MismatchError, UnsupportedError
from ..layouts.pipeline import moe_layers
from ..layouts.rules import round_up
from .micro_batches import RankPlace, pack_thd, packed_places

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams

__all__ = ["set_router_replay_data"]


def set_router_replay_data(
    layers_topk_idx: torch.Tensor,
    attention_mask: torch.Tensor,
    tf_config: Any,
    vp_rank: int | None = None,
    *,
    packed_seq_params: "PackedSeqParams | None" = None,
) -> None:
    """Give the routers of a chunk the routes of a packed micro-batch, as ROLL's own do padded ones.

    layers_topk_idx    ROLL's ``routed_experts``, integers [B, S, L, K] on any device: the first
                       N - 1 rows of a sequence of N tokens, of all layers or of the MoE layers
    attention_mask     [B, S], of the batch before it is packed: tokens first, then padding. ROLL
                       sets the variable of this name to None when it packs: take it from the batch
    tf_config          the model's TransformerConfig
    vp_rank            virtual stage of the chunk; None for 0
    packed_seq_params  those of ``_pack_sequences``, where its padding is not the rule above

    The row of each last token and of padding is filler, spread over the expert-parallel ranks.
    Dense layers are skipped, unlike in ROLL's function. Raises MismatchError for routes of other
    shapes, and for a row that was not captured, UnsupportedError where the routers are not those
    of one model that was built with moe_enable_routing_replay.
    """
    instances, layers = _routers_of(tf_config, vp_rank or 0)
    if not layers:
        return
    lens = _lengths(layers_topk_idx, attention_mask)
    place = RankPlace.here(tf_config, packed_seq_params)
    if packed_seq_params is None:
        padded = [round_up(n, _pad_factor()) for n in lens]
    else:
        padded, _ = packed_places(packed_seq_params)
    ids_BTLK = layers_topk_idx.detach().cpu().numpy()
    routes = [ids_BTLK[b, : max(n - 1, 0)] for b, n in enumerate(lens)]
    packed = pack_thd(routes, place, layers, padded, lens)
    device = layers_topk_idx.device
    ids_LRK = torch.as_tensor(packed.ids_LRK).to(device, non_blocking=True).long()
    for instance, ids_RK in zip(instances, ids_LRK, strict=True):
        instance.set_target_indices(ids_RK)


def _pad_factor() -> int:
    """What ``MegatronInferStrategy._get_pad_factor`` gives; SP does not matter to it."""
    from megatron.core import parallel_state as state

    tp, cp = state.get_tensor_model_parallel_world_size(), state.get_context_parallel_world_size()
    return math.lcm(16, 2 * cp * tp if cp > 1 else tp)


def _lengths(ids_BSLK: torch.Tensor, mask_BS: torch.Tensor | None) -> list[int]:
    """Tokens of each sequence. Raises MismatchError where routes and mask do not fit together."""
    if mask_BS is None:
        raise MismatchError(
            "attention_mask is None, as ROLL sets it when it packs: give "
            'data.batch["attention_mask"]'
        )
    if ids_BSLK.ndim != 4 or ids_BSLK.shape[:2] != mask_BS.shape:
        raise MismatchError(
            f"routed_experts are {tuple(ids_BSLK.shape)}, the attention mask "
            f"{tuple(mask_BS.shape)}: expected [B, S, layers, top_k] and [B, S]"
        )
    there_BS = mask_BS.detach().cpu().bool()
    lens_B = there_BS.sum(1)
    right_BS = torch.arange(there_BS.shape[1]) < lens_B[:, None]
    if not torch.equal(there_BS, right_BS):
        b = int((there_BS != right_BS).any(1).nonzero()[0])
        raise MismatchError(f"sequence {b}: its tokens are not the first of its row, as ROLL packs")
    lens: list[int] = lens_B.tolist()
    return lens


def _routers_of(config: Any, vp_rank: int) -> tuple[list[Any], tuple[int, ...]]:
    """The RouterReplays of a chunk, and the layers that they are of.

    Megatron lists them in the order in which chunks were built, MTP layers after the last.
    """
    from megatron.core.transformer.moe.router_replay import RouterReplay
    from megatron.core.transformer.transformer_block import get_num_layers_to_build
    from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

    moe = moe_layers(config.num_layers, config.moe_layer_freq)
    instances = RouterReplay.global_router_replay_instances
    stages = config.virtual_pipeline_model_parallel_size
    if not 0 <= vp_rank < (stages or 1):
        raise MismatchError(f"no virtual stage {vp_rank} among {stages or 1}")
    held = []
    for stage in range(stages or 1):
        at = stage if stages else None
        first = get_transformer_layer_offset(config, vp_stage=at)
        end = first + get_num_layers_to_build(config, vp_stage=at)
        held.append(tuple(layer for layer in moe if first <= layer < end))
    count = sum(map(len, held))
    spare = len(instances) - count
    if not 0 <= spare <= (getattr(config, "mtp_num_layers", None) or 0):
        raise UnsupportedError(
            f"Megatron has {len(instances)} RouterReplays in this process, the config's stage "
            f"{count} MoE layers: build one model in it with moe_enable_routing_replay=True"
        )
    begin = sum(map(len, held[:vp_rank]))
    return instances[begin : begin + len(held[vp_rank])], held[vp_rank]
