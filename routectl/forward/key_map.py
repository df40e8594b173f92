"""Which stored tensors make which of the model's; each has a place, and none is lacking."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.left_out import left_out
from ..checkpoints.scales import WeightScales
from ..errors import FormatError, UnsupportedError
from .skeleton import Skeleton

__all__ = ["Target", "check_complete", "map_keys"]

_NUMBER = re.compile(r"\.(\d+)\.(?!.*\.\d+\.)")  # the last in a key: of the expert
_SHOWN = 3
BY_EXPERT = (  # conversions that make a fused tensor of one tensor (or two, glued) an expert
    [("MergeModulelist", 0)],
    [("MergeModulelist", 0), ("Concatenate", 1)],
)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\b")


@dataclass(slots=True)
class Target:
    """A parameter (or the first of several) of the model and the checkpoint keys that make it."""

    name: str
    converter: Any  # transformers' WeightConverter, or None where the tensor is as stored
    sources: list[tuple[str, str]] = field(default_factory=list)  # pattern, key

    @property
    def by_expert(self) -> bool:
        """Whether it stacks one tensor an expert, or some glued, on its first axis."""
        if self.converter is None:
            return False
        steps = self.converter.operations
        return [(type(op).__name__, getattr(op, "dim", None)) for op in steps] in BY_EXPERT

    def by_pattern(self) -> dict[str, list[str]]:
        """The keys of each pattern of the converter, in the order of their numbers."""
        found: dict[str, list[str]] = defaultdict(list)
        for pattern, key in self.sources:
            found[pattern].append(key)
        return found


def map_keys(
    skeleton: Skeleton, keys: Iterable[str], names: Mapping[str, torch.Tensor]
) -> tuple[list[Target], list[str]]:
    """Targets and unmatched keys: the renaming loop of convert_and_load_state_dict_in_model."""
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    renamings = [c for c in skeleton.conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in skeleton.conversions if isinstance(c, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    prefix = skeleton.model.base_model_prefix
    known = dict(names)
    targets: dict[str, Target] = {}
    unmatched = []
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in names and key in names:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if name not in names:
            unmatched.append(key)
            continue
        converter = None if pattern is None else by_pattern[pattern]
        target = targets.setdefault(name, Target(name, converter))
        target.sources.append((pattern or key, key))
    return list(targets.values()), unmatched


def check_complete(
    skeleton: Skeleton,
    checkpoint: Checkpoint,
    scales: WeightScales,
    mapped: tuple[list[Target], list[str]],
    names: Mapping[str, torch.Tensor],
) -> tuple[str, ...]:
    """The stored tensors that are left out, for reasons that are listed; every other one is used.

    Raises FormatError, by name, for a tensor of the model that the checkpoint lacks and for a
    stored one that the model has no place for; UnsupportedError for a quantised one that cannot be
    turned back.
    """
    targets, unmatched = mapped
    where = str(checkpoint.path)
    reasons = left_out(checkpoint, unmatched, skeleton.num_layers)
    _refuse_quantized(skeleton, targets, [n for n in unmatched if not reasons[n]], scales, where)
    strange = [name for name in unmatched if not reasons[name]]
    strange += [key for target in targets for key in _surplus_parts(target, names)]
    lacking = _lacking(skeleton, targets, names)
    if strange:
        told = _counted(strange, "has no place in the model", "have no place in the model")
        if lacking:
            told += f"; {_counted(lacking, 'is missing', 'are missing')}"
        raise FormatError(f"{where}: {told}", hint=_hint(strange))
    if lacking:
        outside = sorted(set(checkpoint.unindexed) & set(lacking))
        hint = f"{outside[0]} is in a shard, but the index does not list it" if outside else None
        raise FormatError(f"{where}: {_counted(lacking, 'is missing', 'are missing')}", hint=hint)
    if checkpoint.unindexed:
        told = _counted(checkpoint.unindexed, "is in a shard", "are in shards")
        raise FormatError(f"{where}: {told}, but the index does not list it")
    return tuple(unmatched)


def _refuse_quantized(
    skeleton: Skeleton,
    targets: Iterable[Target],
    strange: Iterable[str],
    scales: WeightScales,
    where: str,
) -> None:
    """Raise UnsupportedError for a quantised tensor whose numbers cannot be turned back."""
    model = skeleton.model
    needed = {
        key
        for target in targets
        for _, key in target.sources
        if model.get_parameter_or_buffer(target.name).is_floating_point()
    }
    for name, why in scales.refused.items():
        if name in needed or name in strange:
            raise UnsupportedError(f"{where}: {name}: {why}")


def _lacking(
    skeleton: Skeleton, targets: Iterable[Target], names: Mapping[str, torch.Tensor]
) -> list[str]:
    """What the model needs and the checkpoint has not, by stored names where they are known."""
    made, parts = set(), []
    for target in targets:
        made.add(target.name)
        if target.converter is not None:
            first, *others = target.converter.target_patterns
            made |= {target.name.replace(first, other) for other in others}
            parts += _absent_parts(target, names[target.name].shape)
    tied = skeleton.model.all_tied_weights_keys
    made |= {name for pair in tied.items() for name in pair if made & set(pair)}
    return parts + [name for name in names if name not in made]


def _absent_parts(target: Target, shape: torch.Size) -> list[str]:
    """Stored names that a converted tensor needs and that are not there, by those that are."""
    held = target.by_pattern()
    absent = [
        f"{target.name}, of {pattern}"
        for pattern in target.converter.source_patterns
        if pattern not in held and not _is_optional(pattern)
    ]
    numbers = {pattern: _by_number(keys) for pattern, keys in held.items() if "*" in pattern}
    count = max((max(keys) + 1 for keys in numbers.values() if keys), default=0)
    count = shape[0] if target.by_expert else count
    for keys in numbers.values():
        some = next(iter(keys.values()), None)
        if some is not None:
            absent += [_NUMBER.sub(f".{n}.", some) for n in range(count) if n not in keys]
    return absent


def _surplus_parts(target: Target, names: Mapping[str, torch.Tensor]) -> list[str]:
    """Stored tensors of experts that the model does not have."""
    if not target.by_expert:
        return []
    held = [_by_number(keys) for keys in target.by_pattern().values()]
    experts = names[target.name].shape[0]
    return [key for keys in held for number, key in keys.items() if number >= experts]


def _by_number(keys: Iterable[str]) -> dict[int, str]:
    """Keys by the last number in them."""
    return {int(found[1]): key for key in keys if (found := _NUMBER.search(key))}


def _is_optional(pattern: str) -> bool:
    """Whether a converter does without a tensor: a bias, or what only a quantised model has."""
    return pattern.endswith(("bias", "bias$", "activation_scale"))


def _counted(names: Iterable[str], one: str, many: str) -> str:
    """So many tensors by name, of many the first few."""
    every = list(names)
    shown = ", ".join(name[:120] for name in every[:_SHOWN])
    if len(every) == 1:
        return f"tensor {shown} {one}"
    return f"{len(every)} tensors {many}: {shown}{', ...' if len(every) > _SHOWN else ''}"


def _hint(strange: Iterable[str]) -> str | None:
    """What to do about tensors without a place."""
    if any(_ADAPTER.search(name) for name in strange):
        return "an adapter's weights: merge it into its base model first"
    if any(name.endswith(("_scale", "_scale_inv", ".scale")) for name in strange):
        return "a scale whose weight is not quantised, or not there"
    return None
