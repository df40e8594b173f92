"""Which tensors of a checkpoint are its routers: a table of names on disk.

Names are those that transformers 5.24 writes (save_pretrained's reverse mapping) and hub files
use, and Megatron-Core 0.16.1's. A name counts as a whole, from behind ``layers.N.`` on, so that
gate_proj, shared_expert_gate and the gates of indexers are none.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import FormatError, UnsupportedError
from ..model import ModelFacts, facts_from_config
from .checkpoint import Checkpoint
from .left_out import left_out

__all__ = ["RouterNames", "RouterPart", "model_facts", "router_names"]

WEIGHT, LINEAR_BIAS, EXPERT_BIAS = "weight", "linear_bias", "expert_bias"
# behind "layers.N.": the part of the router; another word than the three above is an extra table
PARTS = {
    "mlp.gate.weight": WEIGHT,  # most families
    "mlp.gate.e_score_correction_bias": EXPERT_BIAS,  # deepseek_v3, glm4_moe, minimax_m3_vl
    "mlp.e_score_correction_bias": EXPERT_BIAS,  # exaone_moe
    "mlp.experts.e_score_correction_bias": EXPERT_BIAS,  # laguna
    "mlp.moe_statics.e_score_correction_bias": EXPERT_BIAS,  # ernie4_5_moe, [1, E]
    "mlp.gate.expert_bias": EXPERT_BIAS,  # bailing_hybrid
    "mlp.gate.bias": EXPERT_BIAS,  # inkling2; no family has a linear bias of this name
    "mlp.gate.global_scale": "global_scale",  # inkling
    "mlp.gate.wg.weight": WEIGHT,  # hunyuan_v1_moe
    "mlp.router.layer.weight": WEIGHT,  # jetmoe; its attention has a router of another name
    "mlp.router.weight": WEIGHT,  # gpt_oss, aria_text, Megatron
    "mlp.router.bias": LINEAR_BIAS,  # gpt_oss, Megatron
    "mlp.router.expert_bias": EXPERT_BIAS,  # Megatron
    "mlp.router.qb_beta": "qb_beta",  # Megatron's quantile balancing
    "mlp.router.gate.weight": WEIGHT,  # hy_v3, afmoe
    "mlp.expert_bias": EXPERT_BIAS,  # hy_v3, afmoe
    "mlp.router.classifier.weight": WEIGHT,  # longcat_flash
    "mlp.router.e_score_correction_bias": EXPERT_BIAS,  # longcat_flash
    "moe.router.expert_bias": EXPERT_BIAS,  # kolibri1
    "moe.gate.weight": WEIGHT,  # step3, step3p5
    "moe.router_bias": EXPERT_BIAS,  # step3p5
    "block_sparse_moe.gate.weight": WEIGHT,  # mixtral, phimoe, minimax, minimax_m2, kimi_linear
    "block_sparse_moe.gate.e_score_correction_bias": EXPERT_BIAS,  # kimi_linear
    "block_sparse_moe.e_score_correction_bias": EXPERT_BIAS,  # minimax_m2
    "block_sparse_moe.router.layer.weight": WEIGHT,  # granitemoe and its kin
    "block_sparse_moe.router.weight": WEIGHT,  # granitemoe_swa
    "gate.weight": WEIGHT,  # mistral_large4
    "feed_forward.router.weight": WEIGHT,  # jamba, llama4
    "feed_forward.gate.weight": WEIGHT,  # lfm2_moe
    "feed_forward.expert_bias": EXPERT_BIAS,  # lfm2_moe
    "mixer.gate.weight": WEIGHT,  # nemotron_h
    "mixer.gate.e_score_correction_bias": EXPERT_BIAS,  # nemotron_h
    "ffn.gate.weight": WEIGHT,  # deepseek_v4
    "ffn.gate.bias": EXPERT_BIAS,  # deepseek_v4
    "ffn.gate.bias_vl": "bias_vl",  # deepseek_v41: of image tokens
    "ffn.gate.tid2eid": "tid2eid",  # deepseek_v4's hash layers: [vocabulary, K]
    "mlp.gate.router_mlp.out_proj.weight": WEIGHT,  # zaya: [E + 1, width of the router], the last
    "mlp.gate.balancing_biases": EXPERT_BIAS,  # zaya
    "mlp.gate.down_proj.weight": "down_proj",  # zaya's other steps, from the first on
    "mlp.gate.down_proj.bias": "down_proj_bias",
    "mlp.gate.router_states_scale": "router_states_scale",
    "mlp.gate.router_mlp.norm.weight": "norm",
    "mlp.gate.router_mlp.fc1.weight": "fc1",
    "mlp.gate.router_mlp.fc1.bias": "fc1_bias",
    "mlp.gate.router_mlp.fc2.weight": "fc2",
    "mlp.gate.router_mlp.fc2.bias": "fc2_bias",
    "router.proj.weight": WEIGHT,  # gemma4
    "router.scale": "scale",  # gemma4
    "router.per_expert_scale": "per_expert_scale",  # gemma4
}
OTHER_MODELS = re.compile(r"mtp|nextn|talker|code_predictor|vision|visual|audio|optimizer|ema")
_LAYER = re.compile(r"((?:.*?\.)?)layers\.(?:(\d{1,5})\.)?(.+)")
_ROUTER = re.compile(r"(?:.*?\.)?(?:gate|router)\.")  # the module that a router's tensors are in
_WEIGHT_DTYPES = ("F64", "F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class RouterPart:
    """A stored tensor, or row ``row`` of one that stacks all layers (Megatron's torch_dist)."""

    name: str
    row: int | None = None


@dataclass(frozen=True, slots=True)
class RouterNames:
    """The stored parts of one layer's router; ``extras`` by the words that PARTS gives them."""

    weight: RouterPart
    linear_bias: RouterPart | None = None
    expert_bias: RouterPart | None = None
    extras: Mapping[str, RouterPart] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[RouterPart, ...]:
        """All of them."""
        own = (self.weight, self.linear_bias, self.expert_bias, *self.extras.values())
        return tuple(part for part in own if part is not None)


def model_facts(checkpoint: Checkpoint) -> ModelFacts | None:
    """Layers, E and K by the checkpoint's config.json; None where it has none.

    Raises FormatError when the config is of a dense model or does not say them.
    """
    if checkpoint.config is None:
        return None
    return facts_from_config(checkpoint.config, str(checkpoint.path / "config.json"))


_Found = dict[int, dict[str, RouterPart]]


def _found(checkpoint: Checkpoint) -> dict[str, _Found]:
    """Router parts by the model's prefix, layer and role."""
    groups: dict[str, _Found] = {}
    for name, info in checkpoint.tensors.items():
        match = _LAYER.fullmatch(name)
        role = PARTS.get(match[3]) if match else None
        if match is None or role is None or OTHER_MODELS.search(match[1]):
            continue
        if match[2] is not None:
            parts = [(int(match[2]), RouterPart(name))]
        elif checkpoint.format == "torch_dist" and info.shape and info.shape[0] <= 4096:
            parts = [(layer, RouterPart(name, layer)) for layer in range(info.shape[0])]
        else:
            continue
        for layer, part in parts:
            roles = groups.setdefault(match[1], {}).setdefault(layer, {})
            if role in roles:
                raise FormatError(
                    f"{checkpoint.path}: layer {layer}: two tensors are its {role}: "
                    f"{roles[role].name} and {name}"
                )
            roles[role] = part
    return {
        prefix: group
        for prefix, group in groups.items()
        if any(WEIGHT in roles for roles in group.values())
    }


def _one_model(groups: dict[str, _Found], facts: ModelFacts | None, where: str) -> _Found:
    """The routers of the language model, in the layers that its config calls MoE."""
    if facts is not None:
        wanted = set(facts.layers)
        groups = {
            prefix: {n: roles for n, roles in group.items() if n in wanted}
            for prefix, group in groups.items()
            if group.keys() & wanted
        }
    if not groups:
        raise UnsupportedError(f"{where}: no router among its tensors by any known name")
    if len(groups) > 1:
        prefixes = ", ".join(sorted(f"{p}layers" for p in groups))
        raise UnsupportedError(f"{where}: routers of {len(groups)} models: {prefixes[:160]}")
    group = next(iter(groups.values()))
    layers = group.keys() if facts is None else facts.layers
    absent = [n for n in layers if WEIGHT not in group.get(n, {})]
    if absent:
        raise FormatError(
            f"{where}: layer {absent[0]} has no router weight, expected one in each "
            f"of {len(layers)} MoE layers"
        )
    return group


def _check(
    checkpoint: Checkpoint, facts: ModelFacts | None, layer: int, names: RouterNames
) -> None:
    where = f"{checkpoint.path}: layer {layer}"
    info = checkpoint.info(names.weight.name)
    shape = info.shape if names.weight.row is None else info.shape[1:]
    least = 1 if facts is None else facts.num_experts
    if len(shape) != 2 or shape[0] < least:
        raise FormatError(f"{where}: {info.name}: got {list(shape)}, expected [{least}, D]")
    if info.dtype not in _WEIGHT_DTYPES:
        raise UnsupportedError(
            f"{where}: {info.name}: stored as {info.dtype}: a router weight "
            f"is read as {', '.join(_WEIGHT_DTYPES)}"
        )
    for part in (names.linear_bias, names.expert_bias):
        if part is not None:
            bias = checkpoint.info(part.name)
            size = bias.shape[0 if part.row is None else 1 :]
            if size not in (shape[:1], (1, shape[0])):
                raise FormatError(f"{where}: {part.name}: got {list(size)}, expected [{shape[0]}]")
            if bias.dtype not in _WEIGHT_DTYPES:
                raise UnsupportedError(
                    f"{where}: {part.name}: stored as {bias.dtype}: a router's bias is read as "
                    f"{', '.join(_WEIGHT_DTYPES)}"
                )


def _check_whole(checkpoint: Checkpoint, routers: Mapping[int, RouterNames]) -> None:
    """Raise FormatError for a tensor inside a router that is none of its known parts."""
    known = {part.name for names in routers.values() for part in names.parts}
    modules = {_module(names.weight.name) for names in routers.values()} - {None}
    strange = [
        name
        for name in checkpoint.tensors
        if (".gate." in name or ".router." in name)
        and name not in known
        and _module(name) in modules
    ]
    for name, reason in left_out(checkpoint, strange, sys.maxsize).items():
        if reason is None:
            raise FormatError(
                f"{checkpoint.path}: {name}: a tensor of a router that is none of its known parts"
            )


def _tail(name: str) -> str:
    """What is behind ``layers.N.`` in a name; empty where it is in no layer."""
    match = _LAYER.fullmatch(name)
    return match[3] if match else ""


def _module(name: str) -> str | None:
    """The name up to the router's own module; None where there is none in it."""
    tail = _tail(name)
    match = _ROUTER.match(tail)
    return name[: len(name) - len(tail) + match.end()] if match else None


def router_names(checkpoint: Checkpoint) -> dict[int, RouterNames]:
    """The stored tensors of every MoE layer's router, by 0-based layer, ascending.

    MTP layers, the talkers and towers of multimodal models, and optimizer states are left out:
    with a config, the layers are those that it calls MoE; without (Megatron), all decoder layers
    that have a router. Raises FormatError when a layer has none or one of a wrong shape, or a
    router a tensor that is no known part of it; UnsupportedError when no name is known or weights
    are quantised.
    """
    facts = model_facts(checkpoint)
    group = _one_model(_found(checkpoint), facts, str(checkpoint.path))
    routers = {}
    for layer in sorted(group):
        roles = dict(group[layer])
        names = RouterNames(
            roles.pop(WEIGHT), roles.pop(LINEAR_BIAS, None), roles.pop(EXPERT_BIAS, None), roles
        )
        _check(checkpoint, facts, layer, names)
        routers[layer] = names
    _check_whole(checkpoint, routers)
    return routers
