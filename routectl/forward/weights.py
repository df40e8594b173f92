"""Weights from a safetensors folder into a model's layers, one layer at a time.

Experts that a checkpoint has one by one are filled into the fused tensor one by one, each through
transformers' own conversion, so that a layer is in memory once, not two or three times.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.infos import TensorInfo
from ..checkpoints.scales import weight_scales
from ..checkpoints.tensors import read_tensor
from ..errors import FormatError
from ..files.places import RemotePath
from .dequantize import dequantized
from .key_map import Target, check_complete, map_keys
from .readahead import Span
from .skeleton import Skeleton, keep_stored

__all__ = ["Store"]

_Read = Callable[[Target, str], torch.Tensor]


class Store:
    """The tensors of a checkpoint by place in the model.

    ``layer(i)``, ``rest()`` and ``whole()`` read and convert; nothing is kept. left_out are stored
    tensors that the model has no place for, for reasons that are listed (checkpoints/left_out.py).
    dequantized says how quantised weights are stored; empty where none is. read_bytes counts what
    was read.

    Raises FormatError, before a weight is read, unless every stored tensor has a place or is left
    out, every tensor of the model is there and each has its shape; UnsupportedError for quantised
    weights that cannot be turned back.
    """

    def __init__(self, skeleton: Skeleton, checkpoint: Checkpoint, device: str) -> None:
        self.skeleton, self.checkpoint = skeleton, checkpoint
        self.device = torch.device(device)
        self.read_bytes = 0
        self._files = _opened(checkpoint)
        self._names = dict(_tensors(skeleton.model))
        self._scales = weight_scales(checkpoint)
        plain = checkpoint.tensors.keys() - self._scales.scales
        mapped = map_keys(skeleton, plain, self._names)
        self.left_out = check_complete(skeleton, checkpoint, self._scales, mapped, self._names)
        self._layers: dict[int | None, list[Target]] = defaultdict(list)
        for target in mapped[0]:
            self._layers[self._layer_of(target.name)].append(target)
            self._check_shapes(target)
        self.dequantized = self._words(mapped[0])

    def layer(self, number: int) -> dict[str, torch.Tensor]:
        """The parameters and persistent buffers of a decoder layer, on the device."""
        return self._load(self._layers[number])

    def spans(self) -> list[list[Span]]:
        """Where the bytes of each decoder layer lie."""
        return [
            [
                (piece.file, piece.offset, piece.offset + piece.num_bytes)
                for target in self._layers[number]
                for _, key in target.sources
                for info in self._stored(key)
                for piece in info.pieces
            ]
            for number in range(self.skeleton.num_layers)
        ]

    def rest(self, without: str | None = None) -> dict[str, torch.Tensor]:
        """Everything outside the decoder layers, but for what is of the module ``without``."""
        wanted = self._layers[None]
        if without is not None:
            wanted = [t for t in wanted if not t.name.startswith(f"{without}.")]
        return self._tie(self._load(wanted))

    def whole(self) -> dict[str, torch.Tensor]:
        """All parameters and persistent buffers of the model."""
        loaded = self.rest()
        for number in range(self.skeleton.num_layers):
            loaded |= self.layer(number)
        return loaded

    def layer_bytes(self, number: int) -> int:
        """The size of a decoder layer in the model's dtypes."""
        return sum(self._bytes(n) for n in self._names if self._layer_of(n) == number)

    def total_bytes(self) -> int:
        """The size of the model in its dtypes."""
        return sum(self._bytes(name) for name in self._names)

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the dtype that it has in the model: mxfp4 is turned back into bfloat16."""
        if keep_stored(name) or not tensor.is_floating_point():
            return tensor
        return tensor.to(self.skeleton.dtype_of(name))

    def _bytes(self, name: str) -> int:
        return self._names[name].numel() * self.skeleton.dtype_of(name).itemsize

    def _layer_of(self, name: str) -> int | None:
        prefix = f"{self.skeleton.layers}."
        return int(name.removeprefix(prefix).split(".")[0]) if name.startswith(prefix) else None

    def _stored(self, key: str) -> Sequence[TensorInfo]:
        """The stored tensors that a key stands for: itself, and its scale."""
        own = self.checkpoint.info(key)
        scale = self._scales.of.get(key)
        return (own,) if scale is None else (own, scale.scale)

    def _words(self, targets: Sequence[Target]) -> str:
        """How the quantised weights of these targets are stored, in words."""
        kinds = set()
        for _, key in (source for target in targets for source in target.sources):
            if (stored := self._scales.of.get(key)) is not None:
                ending = stored.scale.name.rpartition(".")[2]
                name = "FP4" if stored.packed else self.checkpoint.info(key).dtype
                kinds.add(f"{name} with {ending}")
        if self.skeleton.quantizer is not None:
            kinds.add("mxfp4")
        return ", ".join(sorted(kinds))

    def _check_shapes(self, target: Target) -> None:
        """Raise FormatError unless what is stored makes tensors of the model's shapes."""
        if self.skeleton.quantizer is not None and target.converter is not None:
            return  # transformers' own: it is checked when it is read
        where = self.checkpoint.path
        if self._is_by_expert(target):
            keys = target.by_pattern()
            for held in keys.values():
                shapes = {key: tuple(self._unread(target, key).shape) for key in held}
                first = shapes[held[0]]
                for key, shape in shapes.items():
                    if shape != first:
                        raise FormatError(f"{where}: {key}: its shape is {shape}, expected {first}")
            count = len(next(iter(keys.values())))
            one = {pattern: held[:1] for pattern, held in keys.items()}
            made = [(n, (count, *t.shape[1:])) for n, t in self._run(target, one, self._unread)]
        else:
            made = [(n, tuple(t.shape)) for n, t in self._convert(target, self._unread)]
        for name, shape in made:
            self._check_shape(target, name, shape)

    def _check_shape(self, target: Target, name: str, got: tuple[int, ...]) -> None:
        where, wanted = self.checkpoint.path, tuple(self._names[name].shape)
        if got != wanted:
            key = target.sources[0][1]
            of = "" if key == name else f", of {key}"
            raise FormatError(f"{where}: {name}{of}: its shape is {got}, expected {wanted}")

    def _load(self, targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        loaded = {}
        for target in targets:
            for name, tensor in self._convert(target, self._read):
                self._check_shape(target, name, tuple(tensor.shape))
                loaded[name] = self._cast(name, tensor)
        return loaded

    def _tie(self, loaded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loaded tensors with those that the model shares under both of their names."""
        for one, other in self.skeleton.model.all_tied_weights_keys.items():
            if other in loaded:
                loaded.setdefault(one, loaded[other])
            elif one in loaded:
                loaded.setdefault(other, loaded[one])
        return loaded

    def _convert(self, target: Target, read: _Read) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a target, by name."""
        if target.converter is None:
            yield target.name, read(target, target.sources[0][1])
        elif read == self._read and self._is_by_expert(target):
            yield target.name, self._by_expert(target)
        else:
            yield from self._run(target, target.by_pattern(), read)

    def _is_by_expert(self, target: Target) -> bool:
        """Whether the target stacks one tensor an expert on its first axis."""
        experts, held = self._names[target.name].shape[0], target.by_pattern()
        return target.by_expert and all(len(keys) == experts for keys in held.values())

    def _by_expert(self, target: Target) -> torch.Tensor:
        """The fused tensor, filled one expert after the other."""
        shape, dtype = self._names[target.name].shape, self.skeleton.dtype_of(target.name)
        fused = torch.empty(shape, dtype=dtype, device=self.device)
        held = target.by_pattern()
        for expert in range(shape[0]):
            keys = {pattern: [keys[expert]] for pattern, keys in held.items()}
            ((_, one),) = self._run(target, keys, self._read)
            fused[expert].copy_(one[0])
        return fused

    def _run(
        self, target: Target, keys: Mapping[str, Sequence[str]], read: _Read
    ) -> list[tuple[str, torch.Tensor]]:
        """What transformers' conversion makes of stored tensors, by name."""
        model, quantizer = self.skeleton.model, self.skeleton.quantizer
        converter = copy.deepcopy(target.converter)
        for pattern, held in keys.items():
            for key in held:
                converter.add_tensor(target.name, key, pattern, read(target, key))
        try:
            made = converter.convert(
                target.name, model=model, config=model.config, hf_quantizer=quantizer
            )
        except torch.OutOfMemoryError:
            raise
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise FormatError(
                f"{self.checkpoint.path}: {target.name}: cannot be made of {target.sources[0][1]} "
                f"and its like: {' '.join(str(error).split())[:200]}"
            ) from error
        return [(n, t[0] if isinstance(t, list) else t) for n, t in made.items()]

    def _unread(self, target: Target, key: str) -> torch.Tensor:
        """A tensor of the stored shape, without content."""
        info = self.checkpoint.info(key)
        stored = self._scales.of.get(key)
        shape = info.shape
        if stored is not None and stored.packed:
            shape = (*shape[:-1], 2 * shape[-1])
        return torch.empty(shape, dtype=self.skeleton.dtype_of(target.name), device="meta")

    def _read(self, target: Target, key: str) -> torch.Tensor:
        """A stored tensor on the device, turned back where it is quantised, cast as from_pretrained
        does, but for expert biases.
        """
        tensor = self._placed(key)
        dtype: torch.dtype | None = self.skeleton.dtype_of(target.name)
        assert dtype is not None
        if (stored := self._scales.of.get(key)) is not None:
            factor = self._placed(stored.scale.name)
            return dequantized(
                tensor, factor, stored, torch.float32 if keep_stored(target.name) else dtype
            )
        if self.skeleton.quantizer is not None:
            dtype = self.skeleton.quantizer.get_new_dtype(target.converter, tensor, dtype)
        if keep_stored(target.name) and tensor.dtype == torch.float32:
            dtype = None
        return tensor if dtype is None else tensor.to(dtype)

    def _placed(self, key: str) -> torch.Tensor:
        """A stored tensor as it is, on the device."""
        (file,) = self.checkpoint.info(key).files
        if file in self._files:
            tensor: torch.Tensor = self._files[file].get_tensor(key)
        else:
            tensor = read_tensor(self.checkpoint.info(key), str(self.checkpoint.path))
        self.read_bytes += tensor.nbytes
        if self.device.type == "cuda":  # pinned, so that the copy runs beside the computation
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _opened(checkpoint: Checkpoint) -> dict[Any, Any]:
    """The files of a checkpoint, mapped; of remote ones none is: their tensors are read by ranges.

    Raises FormatError where one cannot be.
    """
    local = [path for path in checkpoint.files if not isinstance(path, RemotePath)]
    try:
        return {path: safe_open(path, framework="pt") for path in local}
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{checkpoint.path}: not a readable checkpoint: {error}") from error


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and persistent buffers, on the meta device."""
    yield from model.state_dict(keep_vars=True).items()
