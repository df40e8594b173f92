"""Routes for the routers of a Megatron-Core model, in the loop that trains it.

Megatron's ``RouterReplay`` (0.16 and later, ``transformer/moe/router_replay.py``) has one list of
targets a process and one queue a router, which activation recomputation empties in the order of the
forwards. Here each chunk is given its own layers, and each micro-batch its own targets: they are in
the routers for its forward, again from the moment that its backward begins, and in between and
after it the routers select by themselves. So no schedule mixes up micro-batches, a forward without
a backward leaves nothing behind, and no queue grows.

Shape suffixes: T tokens, L MoE layers, K top_k, R rows of a rank.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

from ..errors import MismatchError, UnsupportedError
from ..forward.routers import RouterAt, find_megatron_routers
from ..ops.pack.pack import Packed
from .micro_batches import RankPlace, Routed, pack_bshd, pack_thd, packed_places

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer.moe.router_replay import RouterReplay, RouterReplayAction

__all__ = ["set_replay"]

Target = tuple["RouterReplay", torch.Tensor]
_OWN = ("none", "aux_loss", "seq_aux_loss", "global_aux_loss")  # balancing that leaves top-k alone


def set_replay(
    model_chunks: torch.nn.Module | Sequence[torch.nn.Module],
    packed: Packed | Sequence[Routed],
    packed_seq_params: "PackedSeqParams | None" = None,
    *,
    seq_length: int | None = None,
) -> None:
    """Make the next forward of a chunk, and what its backward recomputes, select given experts.

    model_chunks       what a forward_step is called with: the chunk that it runs, wrapped by DDP or
                       not; without virtual stages also the list of the one chunk that there is
    packed             the routes of the micro-batch's sequences in the order of the batch: Routes,
                       Samples, or integer arrays [T, L, K] of the N or N - 1 first tokens, whose
                       layers are the MoE layers or all layers of the model; None for a sequence
                       that is padding. Or what ``routectl.pack`` made of them for this rank
    packed_seq_params  Megatron's, of a packed micro-batch (thd): says where each sequence is. None
                       for a padded one (bshd)
    seq_length         S of a padded micro-batch, before context parallelism

    The rank's place and sizes are those of Megatron's parallel_state; rows are cut for CP (zigzag)
    and, under sequence_parallel, for TP. Probabilities come from the live logits, as RouterReplay
    has it. Padding rows get experts spread over the expert-parallel ranks. MTP layers select by
    themselves. Ids are moved to the device as they are and widened there.

    Raises UnsupportedError for a model whose routers cannot replay, with the option to change, and
    MismatchError where layers, experts, sequences or token counts do not fit together; at the
    first router of the forward too, where the micro-batch has another number of rows.
    """
    chunks = _chunks(model_chunks)
    for chunk, routers in chunks:
        if not routers:
            continue
        if not isinstance(packed, Packed):
            place = RankPlace.here(routers[0].module.config, packed_seq_params)
            layers = tuple(at.layer for at in routers)
            if packed_seq_params is None:
                mine = pack_bshd(packed, place, layers, seq_length)
            else:
                mine = pack_thd(packed, place, layers, *packed_places(packed_seq_params))
        else:
            mine = packed
        targets = _targets(routers, mine)
        _MicroBatch(chunk, routers[0], targets).begin()


def _chunks(model_chunks: Any) -> list[tuple[Any, tuple[RouterAt, ...]]]:
    """Each chunk without its wrappers, and the routers that it has."""
    given = [model_chunks] if isinstance(model_chunks, torch.nn.Module) else list(model_chunks)
    found: list[tuple[Any, tuple[RouterAt, ...]]] = []
    chunk: Any
    for i, chunk in enumerate(given):
        if not isinstance(chunk, torch.nn.Module):
            raise TypeError(f"chunk {i}: got {type(chunk).__name__}, expected a torch.nn.Module")
        while isinstance(getattr(chunk, "module", None), torch.nn.Module):
            chunk = chunk.module
        routers = find_megatron_routers(chunk)
        for at in routers:
            _check_router(at)
        found.append((chunk, routers))
    stages = [
        stage for chunk, _ in found if (stage := getattr(chunk, "vp_stage", None)) is not None
    ]
    if stages != sorted(set(stages)):
        raise MismatchError(
            f"model chunks are virtual stages {stages}: give them in order, each once"
        )
    if not any(routers for _, routers in found):
        config = getattr(found[0][0], "config", None) if found else None
        if getattr(config, "num_moe_experts", None) is None:
            raise UnsupportedError("no chunk has a TopKRouter of Megatron-Core: nothing to replay")
    if len(found) > 1 and any(_MicroBatch.waits(chunk) for chunk, _ in found):
        raise MismatchError(
            "a chunk still waits for the forward of an earlier micro-batch: with virtual stages "
            "give the one chunk that forward_step is called with, not all of them"
        )
    return found


def _check_router(at: RouterAt) -> None:
    """Raise UnsupportedError for a router that does not ask a RouterReplay."""
    if getattr(at.module, "router_replay", None) is None:
        raise UnsupportedError(
            f"{at.name} has no RouterReplay: build the model with moe_enable_routing_replay=True "
            "(--moe-enable-routing-replay), in Megatron-Core 0.16 or later"
        )
    config: Any = at.module.config
    kinds = config.moe_router_load_balancing_type
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _OWN:
            raise UnsupportedError(
                f"moe_router_load_balancing_type {kind} selects without RouterReplay: set it to "
                "none, or to aux_loss"
            )
    if getattr(config, "overlap_moe_expert_parallel_comm", False):
        raise UnsupportedError(
            "overlap_moe_expert_parallel_comm runs layers of two micro-batches in turn, which one "
            "target a router cannot follow: switch it off"
        )


def _targets(routers: Sequence[RouterAt], packed: Packed) -> list[Target]:
    """Each router's RouterReplay and the tensor of its layer, int64 [R, K] on its device."""
    absent = [at.layer for at in routers if at.layer not in packed.layers_L]
    if absent:
        raise MismatchError(
            f"the chunk has MoE layers {[at.layer for at in routers]}, the packed routes layers "
            f"{list(packed.layers_L)}: none for layer {absent[0]}"
        )
    top_k = packed.ids_LRK.shape[2]
    if top_k != routers[0].top_k:
        raise MismatchError(
            f"{routers[0].name} selects {routers[0].top_k} experts, the routes have {top_k}"
        )
    first, last = (packed.layers_L.index(at.layer) for at in (routers[0], routers[-1]))
    device: Any = routers[0].module.weight.device
    ids_LRK = torch.as_tensor(packed.ids_LRK[first : last + 1]).to(device, non_blocking=True).long()
    columns = [packed.layers_L.index(at.layer) - first for at in routers]
    return [(at.module.router_replay, ids_LRK[i]) for at, i in zip(routers, columns, strict=True)]


class _MicroBatch:
    """The targets of one micro-batch in one chunk: there for its forward, and for its backward."""

    def __init__(self, chunk: torch.nn.Module, first: RouterAt, targets: list[Target]) -> None:
        self._chunk, self._first, self._targets = chunk, first, targets
        own = type(targets[0][0]).get_replay_topk.__globals__  # Megatron's, or of verl's patch
        self._actions = own["RouterReplayAction"]
        self._in_backward = False

    @staticmethod
    def waits(chunk: torch.nn.Module) -> "_MicroBatch | None":
        """The micro-batch whose forward a chunk has not run yet."""
        owners = (getattr(hook, "__self__", None) for hook in chunk._forward_hooks.values())
        return next((one for one in owners if isinstance(one, _MicroBatch)), None)

    def begin(self) -> None:
        """The next forward is this one's; one that was set before it and never ran is let go."""
        if earlier := self.waits(self._chunk):
            earlier._end_forward()
        self._done = self._chunk.register_forward_hook(self._after_forward, always_call=True)
        self._check = self._first.module.register_forward_pre_hook(self._check_rows)
        self._set(self._actions.REPLAY_FORWARD)

    def _set(self, action: "RouterReplayAction") -> None:
        """Targets in each router: one for a forward, and one in the queue of recomputation."""
        for instance, ids_RK in self._targets:
            instance.clear_indices()
            instance.set_target_indices(ids_RK)
            instance.set_router_replay_action(action)

    def _check_rows(self, _router: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """Fewer rows than tokens would leave tokens without experts; Megatron says nothing."""
        rows, given = args[0].shape[:-1].numel(), len(self._targets[0][1])
        if rows != given:
            raise MismatchError(
                f"{self._first.name}: the micro-batch has {rows} rows on this rank, its routes "
                f"{given}: packed_seq_params or seq_length are of another batch"
            )

    def _end_forward(self) -> None:
        self._done.remove()
        self._check.remove()
        self._let_go()

    def _let_go(self) -> None:
        """Routers select by themselves, and hold nothing."""
        for instance, _ in self._targets:
            instance.clear_router_replay_action()
            instance.clear_indices()

    def _after_forward(self, _chunk: torch.nn.Module, _args: Any, output: Any) -> None:
        """Wait for the gradient of what the chunk gave; without one, that was all."""
        self._end_forward()
        for one in tree_leaves(output):
            if isinstance(one, torch.Tensor) and one.requires_grad:
                one.register_hook(self._before_backward)  # type: ignore[no-untyped-call]

    def _before_backward(self, _gradient: torch.Tensor) -> None:
        """The gradient has come: whatever is recomputed from here on is of this micro-batch."""
        if self._in_backward:
            return
        self._in_backward = True
        self._set(self._actions.REPLAY_BACKWARD)
        torch.autograd.Variable._execution_engine.queue_callback(self._after_backward)

    def _after_backward(self) -> None:
        self._in_backward = False
        self._let_go()
