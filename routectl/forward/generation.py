"""A recorded model's ``generate``: what it was asked for, and what it gave."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UnsupportedError
from .recorder import Recorder
from .streams import Generated

__all__ = ["recording_generate"]


def recording_generate(
    recorder: Recorder, generate: Callable[..., Any], defaults: Any
) -> Callable[..., Any]:
    """A model's ``generate`` whose forwards are recorded as steps of its sequences.

    defaults is the model's own generation config. What it gives raises UnsupportedError for
    beam search and guidance, whose forwards are not those of the sequences that are returned.
    """

    def recorded(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("inputs", "generation_config"), args, strict=False)), **kwargs}
        asked = _Asked(given, defaults)
        for name, plain in (("num_beams", (None, 1)), ("guidance_scale", (None, 1, 1.0))):
            if (value := asked.option(name)) not in plain:
                raise UnsupportedError(
                    f"generate with {name} {value}: its forwards are not those of the sequences "
                    "that it returns; record a forward on the finished sequences"
                )
        steps = recorder.steps()
        out = generate(*args, **kwargs)
        ids_BN = getattr(out, "sequences", out)
        if isinstance(ids_BN, torch.Tensor) and ids_BN.ndim == 2:
            recorder.generated(steps, asked.of(ids_BN, recorder))
        return out

    return recorded


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
