"""What a checkpoint holds, as sizes: layers, dtypes, routers, what a streamed run reads."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import FormatError, RoutectlError
from ..model import ModelFacts
from ..visible import visible
from .checkpoint import Checkpoint
from .router_names import RouterNames, model_facts, router_names
from .routers import router_recipe
from .scales import refusal

__all__ = ["CheckpointFacts", "checkpoint_facts"]


@dataclass(frozen=True, slots=True, repr=False)
class CheckpointFacts:
    """A checkpoint in numbers, bytes as stored.

    layers       MoE layers, 0-based; ``num_layers`` counts dense ones too, where that is known
    experts      E as the routers have it, zero and skip experts included
    top_k        K; None where neither config nor arguments say it
    layer_dtypes  bytes of each decoder layer by dtype, all of its tensors
    recipe       how router logits become ids and weights, in words; None where it is not known
    other_bytes  of the model's tensors outside of them: embeddings, norms, head, MTP, towers
    refused      why a forward of these weights is refused, as far as headers tell; or None
    """

    checkpoint: Checkpoint
    facts: ModelFacts | None
    routers: Mapping[int, RouterNames]
    num_layers: int | None
    top_k: int | None
    experts: int
    hidden_size: int
    weight_dtypes: tuple[str, ...]
    bias_dtypes: tuple[str, ...]
    dtype_bytes: Mapping[str, int]
    dtype_tensors: Mapping[str, int]
    router_bytes: int
    layer_dtypes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    other_bytes: int = 0
    recipe: str | None = None
    refused: str | None = None

    def __repr__(self) -> str:
        layers = "unknown" if self.num_layers is None else str(self.num_layers)
        top_k = "unknown" if self.top_k is None else str(self.top_k)
        return (
            f"<CheckpointFacts of {visible(self.checkpoint.path, 200, end=50)}: "
            f"{self.tensor_bytes:,} bytes, {len(self.routers)} MoE layers of {layers}, K {top_k}, "
            f"E {self.num_experts}>"
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The MoE layers."""
        return tuple(self.routers)

    @property
    def num_experts(self) -> int:
        """E, every id that the router can give: of the config, else the rows of the routers."""
        return self.experts if self.facts is None else self.facts.num_experts

    @property
    def tensor_bytes(self) -> int:
        """All of the model's tensors."""
        return sum(self.dtype_bytes.values())

    @property
    def layer_bytes(self) -> dict[int, int]:
        """The bytes of each decoder layer; none where layers are stacked."""
        return {n: sum(sizes.values()) for n, sizes in self.layer_dtypes.items()}

    @property
    def largest_layer(self) -> int | None:
        """The decoder layer of most bytes, the first of equals; None where layers are stacked."""
        sizes = self.layer_bytes
        return max(sizes, key=lambda n: (sizes[n], -n), default=None)


def _layer_dtypes(
    checkpoint: Checkpoint, prefix: str, num_layers: int | None
) -> dict[int, dict[str, int]]:
    """The bytes of each decoder layer under the routers' own prefix, by dtype."""
    layer = re.compile(re.escape(prefix) + r"layers\.(\d{1,5})\.")
    sizes: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for name, info in checkpoint.tensors.items():
        if match := layer.match(name):
            sizes[int(match[1])][info.dtype] += info.num_bytes
    return {
        n: dict(sorted(sizes[n].items()))
        for n in sorted(sizes)
        if num_layers is None or n < num_layers
    }


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _recipe(checkpoint: Checkpoint) -> str | None:
    """The recipe in words; None for a family that is not in the table, or unfit options."""
    try:
        return router_recipe(checkpoint).describe()
    except RoutectlError:
        return None


def checkpoint_facts(checkpoint: Checkpoint) -> CheckpointFacts:
    """A checkpoint in numbers, from headers alone.

    Raises FormatError when an HF folder has no config.json or is of a dense model, and what
    router_names raises.
    """
    facts = model_facts(checkpoint)
    if facts is None and checkpoint.format == "hf":
        raise FormatError(f"{checkpoint.path}: no config.json beside the weights")
    routers = router_names(checkpoint)
    weights = [(names.weight, checkpoint.info(names.weight.name)) for names in routers.values()]
    sizes = {info.shape if part.row is None else info.shape[1:] for part, info in weights}
    if len(sizes) > 1:
        shapes = " and ".join(map(str, sorted(map(list, sizes))[:2]))
        raise FormatError(f"{checkpoint.path}: unlike routers: got {shapes}, expected one shape")
    experts, hidden_size = sizes.pop()
    biases = [names.expert_bias for names in routers.values() if names.expert_bias is not None]
    parts = {part for names in routers.values() for part in names.parts}
    tensors, amounts = Counter[str](), Counter[str]()
    for info in checkpoint.tensors.values():
        tensors[info.dtype] += 1
        amounts[info.dtype] += info.num_bytes
    arguments = checkpoint.arguments
    num_layers = _number(arguments.get("num_layers")) if facts is None else facts.num_layers
    prefix = re.split(r"layers\.", weights[0][1].name, maxsplit=1)[0]
    stacked = weights[0][0].row is not None
    layer_dtypes = {} if stacked else _layer_dtypes(checkpoint, prefix, num_layers)
    in_layers = sum(sum(sizes.values()) for sizes in layer_dtypes.values())
    return CheckpointFacts(
        checkpoint=checkpoint,
        facts=facts,
        routers=routers,
        num_layers=num_layers,
        top_k=_number(arguments.get("moe_router_topk")) if facts is None else facts.top_k,
        experts=experts,
        hidden_size=hidden_size,
        weight_dtypes=tuple(sorted({info.dtype for _, info in weights})),
        bias_dtypes=tuple(sorted({checkpoint.info(part.name).dtype for part in biases})),
        dtype_bytes=dict(sorted(amounts.items())),
        dtype_tensors=dict(sorted(tensors.items())),
        router_bytes=sum(
            checkpoint.info(part.name).num_bytes
            // (1 if part.row is None else checkpoint.info(part.name).shape[0])
            for part in parts
        ),
        layer_dtypes=layer_dtypes,
        other_bytes=sum(amounts.values()) - in_layers,
        recipe=_recipe(checkpoint),
        refused=refusal(checkpoint, num_layers),
    )
