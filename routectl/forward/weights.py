"""Weights from a safetensors folder into a model's layers, one layer at a time.

Experts that a checkpoint has one by one are filled into the fused tensor one by one, each through
transformers' own conversion, so that a layer is in memory once, not two or three times.
"""

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import FormatError
from .options import RunOptions
from .readahead import Span, tensor_spans
from .skeleton import Skeleton, keep_stored, model_class

__all__ = ["Store", "Target", "load_plain", "open_store"]

BY_EXPERT = (  # conversions that make a fused tensor of one tensor (or two, glued) an expert
    [("MergeModulelist", 0)],
    [("MergeModulelist", 0), ("Concatenate", 1)],
)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(slots=True)
class Target:
    """A parameter (or the first of several) of the model and the checkpoint keys that make it."""

    name: str
    converter: Any  # transformers' WeightConverter, or None where the tensor is as stored
    sources: list[tuple[str, str]] = field(default_factory=list)  # pattern, key


class Store:
    """The tensors of a checkpoint by place in the model.

    ``layer(i)`` and ``rest()`` read and convert; nothing is kept. unmatched are checkpoint keys
    that the model has no place for (MTP layers, vision towers). read_bytes counts what was read.
    """

    def __init__(self, skeleton: Skeleton, folder: Path, device: str) -> None:
        self.skeleton = skeleton
        self.device = torch.device(device)
        self.read_bytes = 0
        self._paths = _paths(folder)
        files: list[Any] = [safe_open(path, framework="pt") for path in self._paths]
        self._of_key = {key: file for file in files for key in file.keys()}  # noqa: SIM118
        self._names = dict(_tensors(skeleton.model))
        targets, self.unmatched = _key_map(skeleton, sorted(self._of_key), self._names)
        self._layers: dict[int | None, list[Target]] = defaultdict(list)
        for target in targets:
            self._layers[self._layer_of(target.name)].append(target)
        self._check_missing(folder, targets)

    def layer(self, number: int) -> dict[str, torch.Tensor]:
        """The parameters and persistent buffers of a decoder layer, on the device."""
        return self._load(self._layers[number])

    def spans(self) -> list[list[Span]]:
        """Where the bytes of each decoder layer lie."""
        span_of = tensor_spans(self._paths)
        return [
            [span_of[key] for target in self._layers[number] for _, key in target.sources]
            for number in range(self.skeleton.num_layers)
        ]

    def rest(self, without: str | None = None) -> dict[str, torch.Tensor]:
        """Everything outside the decoder layers, but for what is of the module ``without``."""
        wanted = self._layers[None]
        if without is not None:
            wanted = [t for t in wanted if not t.name.startswith(f"{without}.")]
        return self._tie(self._load(wanted))

    def layer_bytes(self, number: int) -> int:
        """The size of a decoder layer in the model's dtypes."""
        return sum(self._bytes(n) for n in self._names if self._layer_of(n) == number)

    def total_bytes(self) -> int:
        """The size of the model in its dtypes."""
        return sum(self._bytes(name) for name in self._names)

    def stored_biases(self) -> dict[str, torch.Tensor]:
        """The expert biases in their stored dtype, by name."""
        every = [t for targets in self._layers.values() for t in targets]
        return self._load([t for t in every if keep_stored(t.name)])

    def cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the dtype that it has in the model.

        transformers leaves what an fp8 checkpoint holds unquantised, norms say, as it is stored.
        """
        if keep_stored(name) or not tensor.is_floating_point():
            return tensor
        return tensor.to(self.skeleton.dtype_of(name))

    def _bytes(self, name: str) -> int:
        return self._names[name].numel() * self.skeleton.dtype_of(name).itemsize

    def _layer_of(self, name: str) -> int | None:
        prefix = f"{self.skeleton.layers}."
        return int(name.removeprefix(prefix).split(".")[0]) if name.startswith(prefix) else None

    def _check_missing(self, folder: Path, targets: list[Target]) -> None:
        """Raise FormatError unless the checkpoint has every tensor that the model needs."""
        made = {target.name for target in targets}
        for target in targets:
            if target.converter is not None and len(target.converter.target_patterns) > 1:
                first, *others = target.converter.target_patterns
                made |= {target.name.replace(first, other) for other in others}
        tied = self.skeleton.model.all_tied_weights_keys
        made |= {name for pair in tied.items() for name in pair if made & set(pair)}
        missing = [name for name in self._names if name not in made]
        if missing:
            raise FormatError(
                f"{folder}: {len(missing)} tensors of the model are missing: {missing[0]}"
            )

    def _load(self, targets: list[Target]) -> dict[str, torch.Tensor]:
        loaded = {}
        for target in targets:
            for name, tensor in self._convert(target):
                got, wanted = tuple(tensor.shape), tuple(self._names[name].shape)
                if got != wanted:
                    raise FormatError(f"{name}: its shape is {got}, expected {wanted}")
                loaded[name] = self.cast(name, tensor)
        return loaded

    def _tie(self, loaded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loaded tensors with those that the model shares under both of their names."""
        for one, other in self.skeleton.model.all_tied_weights_keys.items():
            if other in loaded:
                loaded.setdefault(one, loaded[other])
            elif one in loaded:
                loaded.setdefault(other, loaded[one])
        return loaded

    def _convert(self, target: Target) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a target, by name."""
        if target.converter is None:
            yield target.name, self._read(target, target.sources[0][1])
            return
        converter = copy.deepcopy(target.converter)
        by_pattern: dict[str, list[str]] = defaultdict(list)
        for pattern, key in target.sources:
            by_pattern[pattern].append(key)
        if self._is_by_expert(target, by_pattern):
            yield target.name, self._by_expert(target, converter, by_pattern)
            return
        self._feed(target, converter, by_pattern)
        yield from self._run(target, converter)

    def _is_by_expert(self, target: Target, by_pattern: dict[str, list[str]]) -> bool:
        """Whether the target stacks one tensor an expert on its first axis."""
        chain = [
            (type(op).__name__, getattr(op, "dim", None)) for op in target.converter.operations
        ]
        chain = [step for step in chain if step != ("Fp8Dequantize", None)]
        experts = self._names[target.name].shape[0]
        return chain in BY_EXPERT and all(len(keys) == experts for keys in by_pattern.values())

    def _by_expert(
        self, target: Target, converter: Any, by_pattern: dict[str, list[str]]
    ) -> torch.Tensor:
        """The fused tensor, filled one expert after the other."""
        shape, dtype = self._names[target.name].shape, self.skeleton.dtype_of(target.name)
        fused = torch.empty(shape, dtype=dtype, device=self.device)
        for expert in range(shape[0]):
            self._feed(target, converter, {p: [keys[expert]] for p, keys in by_pattern.items()})
            ((_, one),) = self._run(target, converter)
            fused[expert].copy_(one[0])
        return fused

    def _feed(self, target: Target, converter: Any, by_pattern: dict[str, list[str]]) -> None:
        for pattern, keys in by_pattern.items():
            for key in keys:
                converter.add_tensor(target.name, key, pattern, self._read(target, key))

    def _run(self, target: Target, converter: Any) -> Iterator[tuple[str, torch.Tensor]]:
        model, quantizer = self.skeleton.model, self.skeleton.quantizer
        made = converter.convert(
            target.name, model=model, config=model.config, hf_quantizer=quantizer
        )
        for name, tensor in made.items():
            yield name, tensor[0] if isinstance(tensor, list) else tensor

    def _read(self, target: Target, key: str) -> torch.Tensor:
        """A stored tensor on the device, cast as from_pretrained does, but for expert biases."""
        piece = self._of_key[key].get_slice(key)
        dtype: torch.dtype | None = self.skeleton.dtype_of(target.name)
        if self.skeleton.quantizer is not None:
            dtype = self.skeleton.quantizer.get_new_dtype(target.converter, piece, dtype)
        tensor: torch.Tensor = piece[...]
        self.read_bytes += tensor.nbytes
        if keep_stored(target.name) and tensor.dtype == torch.float32:
            dtype = None
        if self.device.type == "cuda":  # pinned, so that the copy runs beside the computation
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(device=self.device, dtype=dtype)


def open_store(skeleton: Skeleton, folder: Path, device: str) -> Store:
    """A folder's tensors, opened from headers alone.

    Raises FormatError where a file is missing or damaged, or a tensor of the model is not there.
    """
    try:
        return Store(skeleton, Path(folder), device)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise FormatError(f"{folder}: not a readable safetensors checkpoint: {error}") from error


def _paths(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    index = folder / INDEX
    names = [SINGLE]
    if index.exists():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return [folder / name for name in names]


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, on the meta device."""
    yield from model.state_dict(keep_vars=True).items()


def _key_map(
    skeleton: Skeleton, keys: list[str], names: dict[str, torch.Tensor]
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
    targets: dict[str, Target] = {}
    unmatched = []
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, names)
        if name not in names and key in names:
            name, pattern = rename_source_key(key, [], [], prefix, names)
        if name not in names:
            unmatched.append(key)
            continue
        converter = None if pattern is None else by_pattern[pattern]
        target = targets.setdefault(name, Target(name, converter))
        target.sources.append((pattern or key, key))
    return list(targets.values()), unmatched


def load_plain(store: Store, options: RunOptions) -> Any:
    """The model by from_pretrained, on the device; expert biases in the dtype they are stored in.

    A device other than the CPU needs accelerate, and so do fp8 checkpoints.
    """
    config = store.skeleton.model.config
    where = {} if store.device.type == "cpu" else {"device_map": {"": store.device}}
    with _quiet():
        model = model_class(config).from_pretrained(
            options.checkpoint,
            config=config,
            dtype=store.skeleton.dtype,
            trust_remote_code=False,
            **where,
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.data = store.cast(name, parameter.data)
        for name, bias in store.stored_biases().items():
            model.get_parameter_or_buffer(name).data = bias
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws no progress bar of its own."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
