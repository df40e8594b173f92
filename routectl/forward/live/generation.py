"""A recorded model's ``generate``: what it was asked for, and what it gave."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import UnsupportedError
from .recorder import Recorder
from .streams import Generated

__all__ = ["recorded_generate"]


@contextmanager
def recorded_generate(model: Any, recorder: Recorder) -> Iterator[None]:
    """In the block, forwards that the model's ``generate`` makes are steps of its sequences.

    Several blocks of one model may end in any order. ``generate`` raises UnsupportedError for beam
    search and guidance, whose forwards are not those of the sequences that are returned.
    """
    held = vars(model).get("generate")
    if not isinstance(held, _Generate):
        held = _Generate(model, held)
        model.generate = held
    held.recorders.append(recorder)
    try:
        yield
    finally:
        held.recorders.remove(recorder)
        if not held.recorders:
            held.leave()


class _Generate:
    """A model's ``generate`` with those that record it. before is what was set on the model."""

    def __init__(self, model: Any, before: Any) -> None:
        self._model, self._before, self._generate = model, before, model.generate
        self.recorders: list[Recorder] = []

    def leave(self) -> None:
        """The model has the ``generate`` that it had."""
        if self._before is None:
            del self._model.generate
        else:
            self._model.generate = self._before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("inputs", "generation_config"), args, strict=False)), **kwargs}
        asked = _Asked(given, getattr(self._model, "generation_config", None))
        for name, plain in (("num_beams", (None, 1)), ("guidance_scale", (None, 1, 1.0))):
            if (value := asked.option(name)) not in plain:
                raise UnsupportedError(
                    f"generate with {name} {value}: its forwards are not those of the sequences "
                    "that it returns; record a forward on the finished sequences"
                )
        before = [(recorder, recorder.steps()) for recorder in self.recorders]
        out = self._generate(*args, **kwargs)
        ids_BN = getattr(out, "sequences", out)
        if isinstance(ids_BN, torch.Tensor) and ids_BN.ndim == 2:
            for recorder, steps in before:
                recorder.generated(steps, asked.of(ids_BN, recorder))
        return out


class _Asked:
    """The arguments of a call of ``generate`` over the model's defaults."""

    def __init__(self, given: dict[str, Any], defaults: Any) -> None:
        self._given, self._defaults = given, defaults

    def option(self, name: str) -> Any:
        """An option of generation: as it was given, or from the nearest place that has it."""
        if name in self._given:
            return self._given[name]
        places = (self._given.get("generation_config"), self._defaults)
        found = (getattr(place, name, None) for place in places)
        return next((value for value in found if value is not None), None)

    def of(self, ids_BN: torch.Tensor, recorder: Recorder) -> Generated:
        """What it gave, on its way to the host."""
        given = self._given
        inputs = given.get("inputs", given.get("input_ids"))
        ends, padding = self.option("eos_token_id"), self.option("pad_token_id")
        ends = () if ends is None else tuple(torch.as_tensor(ends).reshape(-1).tolist())
        padding = None if padding in ends else padding
        mask = given.get("attention_mask")
        if mask is None and inputs is not None and padding is not None:
            mask = inputs.ne(padding)  # as generate finds padding itself
        others = self.option("stop_strings") or given.get("stopping_criteria")
        return Generated(
            recorder.put(ids_BN),
            1 if inputs is None else inputs.shape[1],
            ends,
            padding if others else None,
            None if mask is None else recorder.put(mask),
        )
