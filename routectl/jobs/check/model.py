"""What ``check`` knows of a dump's model, and where it finds a sample that a reader refuses."""

import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...model import ModelFacts
    from ...ops.check.check import CheckOptions

__all__ = ["options_of_dump"]

_ANY_ID = 65536


def options_of_dump(
    opened: "Dump",
    model: "ModelFacts | Path | None",
    reopen: "Callable[[ModelFacts], Dump]",
    ep: int,
) -> "CheckOptions":
    """The options of check for a dump: sizes and exceptions of its model, where a config is known.

    ``model`` is what --model said; else the config that the dump was read by. ``reopen`` opens
    the same dump as one of another model.
    """
    from ...model import ModelFacts
    from ...ops.check.check import CheckOptions

    if isinstance(model, ModelFacts):
        return CheckOptions(facts=model, raw=_unchecked(opened, model, reopen), ep=ep)
    source = Path(opened.meta.facts_source or "") if model is None else model
    if not source.exists() or str(source) == ".":
        return CheckOptions(ep=ep)
    from ...formats.documents.facts import model_config, read_model

    facts = read_model(source)
    zero, hashed = _exceptions(model_config(source), str(source))
    return CheckOptions(facts, _unchecked(opened, facts, reopen), zero, hashed, ep)


def _exceptions(config: dict[str, object], source: str) -> tuple[int, tuple[int, ...]]:
    """Zero experts and hash layers; none for a family that is not in the table."""
    from ...errors import RoutectlError
    from ...routers.from_config import recipe_from_config

    with suppress(RoutectlError):
        recipe = recipe_from_config(config, source)
        return recipe.zero_experts, recipe.hash_layers
    return 0, ()


def _unchecked(
    opened: "Dump", facts: "ModelFacts", reopen: "Callable[[ModelFacts], Dump]"
) -> "Dump":
    """The same samples, of a dump whose layers are all MoE and that takes any id; opened late."""
    from ...dump import Dump
    from ...errors import FormatError
    from ...model import ModelFacts

    @functools.cache
    def wide(num_layers: int) -> "Dump":
        return reopen(ModelFacts(num_layers, tuple(range(num_layers)), _ANY_ID, facts.top_k, None))

    def load(index: int) -> "Sample":
        try:
            return wide(facts.num_layers)[index]
        except FormatError:
            return wide(len(facts.layers))[index]

    return Dump(opened.meta, opened.keys, load)
