"""A model larger than memory: one decoder layer at a time, weights read once a pass.

Each sequence runs the model's unmodified forward in a greenlet of its own, which hands over before
each decoder layer. What a family carries from layer to layer (router states, shared indices) is
in the frames of its own greenlet, so that no family needs special code. Greenlets, not threads:
on one thread there is one team of OpenMP threads and one malloc arena, whatever the number of
sequences.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from .readahead import reading_ahead
from .weights import Store

__all__ = ["Conductor", "layer_weights", "place"]


class Conductor:
    """Runs functions that call a model, all of them through one layer before the next.

    ``steps(works)`` yields a layer's number when all works stand before it; the layer runs when
    the generator is resumed, and results are in ``results`` after the last. On a device, what
    passes from layer to layer waits in host memory where ``offload`` is set. Thread-wide state
    that a work sets (torch.no_grad, say) must be set around ``steps`` instead.
    """

    def __init__(self, layers: Sequence[torch.nn.Module], device: str, *, offload: bool) -> None:
        self._layers = layers
        self._device = torch.device(device)
        self._offload = offload
        self.results: list[Any] = []

    def steps(self, works: Sequence[Callable[[], Any]]) -> Generator[int]:
        """Yield 0, 1, ... before each layer is run for all works, in their order."""
        with self._hooked():
            runs = [greenlet(work) for work in works]
            at = [run.switch() for run in runs]
            for number in range(len(self._layers)):
                yield number
                at = [
                    run.switch() if place == number else place
                    for run, place in zip(runs, at, strict=True)
                ]
            self.results = at

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """The layers make whoever calls them hand over."""
        handles = []
        for number, layer in enumerate(self._layers):
            park = self._park(number)
            handles.append(layer.register_forward_pre_hook(park, with_kwargs=True))
            if self._offload and number < len(self._layers) - 1:
                handles.append(layer.register_forward_hook(lambda _, __, out: _moved(out, "cpu")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _park(self, number: int) -> Callable[..., Any]:
        def park(_: object, args: Any, kwargs: Any) -> Any:
            parent = getcurrent().parent
            assert parent is not None, "a layer runs outside of steps"
            parent.switch(number)
            if self._offload:
                return _moved(args, self._device), _moved(kwargs, self._device)
            return None

        return park


@contextmanager
def place(model: Any, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    """The tensors are the model's parameters and buffers of these names; then what was before is.

    The caller's dict is emptied, so that nothing else holds them.
    """
    before = {}
    for name in list(tensors):
        holder, _, leaf = name.rpartition(".")
        module = model.get_submodule(holder)
        inside = module._buffers if leaf in module._buffers else module._parameters
        before[name] = inside, leaf, inside[leaf]
        tensor = tensors.pop(name)
        if inside is module._parameters:
            # as from_pretrained does: torch.matmul folds batches by requires_grad, even in no_grad
            tensor = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        inside[leaf] = tensor
    del tensor
    try:
        yield
    finally:
        for inside, leaf, was in before.values():
            inside[leaf] = was


def layer_weights(store: Store, *, ahead: bool) -> Generator[dict[str, torch.Tensor]]:
    """The weights of layer 0, 1, ..., while the next ones are read.

    ahead: into memory of the device, on CUDA by a stream of their own; else into the page cache.
    """
    count = store.skeleton.num_layers
    if not ahead:
        with reading_ahead() as begin:
            for number, spans in enumerate([*store.spans()[1:], []]):
                tensors = store.layer(number)
                begin(spans)
                yield tensors
        return
    cuda = store.device.type == "cuda"
    stream = torch.cuda.Stream(store.device) if cuda else None  # type: ignore[no-untyped-call]
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_read_aside, store, 0, stream)
        for number in range(count):
            tensors = following.result()
            if number + 1 < count:
                following = reader.submit(_read_aside, store, number + 1, stream)
            for tensor in tensors.values() if stream is not None else ():
                # freed after use here, not when the copying stream is done with it
                tensor.record_stream(torch.cuda.current_stream(store.device))
            yield tensors
            del tensors


def _read_aside(store: Store, number: int, stream: Any) -> dict[str, torch.Tensor]:
    """A layer's weights, copied on the stream, and the copies done."""
    if stream is None:
        return store.layer(number)
    with torch.cuda.stream(stream):
        tensors = store.layer(number)
    stream.synchronize()
    return tensors


def _moved(value: Any, device: str | torch.device) -> Any:
    """The value with its floating tensors elsewhere, through tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(device) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value
