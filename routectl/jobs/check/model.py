"""What ``check`` knows of a dump's model."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...files.places import place_of

if TYPE_CHECKING:
    from ...dump import Dump
    from ...model import ModelFacts
    from ...ops.check.check import CheckOptions

__all__ = ["options_of_dump"]


def options_of_dump(
    opened: "Dump", model: "ModelFacts | Path | None", ep: int = 1, eps: float | None = None
) -> "CheckOptions":
    """The options of check for a dump: exceptions of its model, where a config is known.

    ``model`` is what --model said; else the config that the dump was read by.
    """
    from ...model import ModelFacts
    from ...ops.check.check import CheckOptions
    from ..reading import finite_eps

    width = finite_eps(eps)
    if isinstance(model, ModelFacts):
        return CheckOptions(model.zero_experts, ep=ep, eps=width)
    told = opened.meta.facts_source
    source = place_of(told) if model is None and told else model
    if source is None or not source.exists() or str(source) == ".":
        return CheckOptions(ep=ep, eps=width)
    from ...formats.documents.facts import model_config, read_model

    zero = read_model(source).zero_experts
    return CheckOptions(zero, _hash_layers(model_config(source), str(source)), ep, width)


def _hash_layers(config: dict[str, object], source: str) -> tuple[int, ...]:
    """The layers that select by a table; none for a family that is not in the table of recipes."""
    from ...errors import RoutectlError
    from ...routers.from_config import recipe_from_config

    with suppress(RoutectlError):
        return recipe_from_config(config, source).hash_layers
    return ()
