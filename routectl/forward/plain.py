"""A model that fits in memory, as transformers itself loads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .build import model_class
from .options import RunOptions
from .weights import Store

__all__ = ["load_plain"]


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
