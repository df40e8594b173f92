"""The model's routers held against routectl's own router maths, on the first tokens of a run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError, UnsupportedError, extra_hint
from ...files.places import place_of

if TYPE_CHECKING:
    from ...forward import Forwarded, Prepared

__all__ = ["CHECKED_TOKENS", "check_routers", "router_checker"]

CHECKED_TOKENS = 64


def router_checker(prepared: "Prepared", say: Callable[[str], None]) -> Any:
    """A function that checks the first result that it sees, says what it found, and passes it on.

    The model's own word is used in any case: a disagreement says that the recipe of the family
    (docs/routers.md) is not what this model does. Where transformers is newer than the verified
    ones, the check has to pass: else UnsupportedError is raised.
    """
    waiting, newer = True, prepared.unverified
    hint = extra_hint("models")

    def check(result: "Forwarded") -> "Forwarded":
        nonlocal waiting
        if not waiting or result.inputs is None:
            return result
        waiting = False
        try:
            differing = check_routers(prepared, result)
        except RoutectlError as error:
            if newer:
                raise UnsupportedError(
                    f"{newer}: routers not checked: {error}", hint=hint
                ) from None
            say(f"routers not checked: {error}")
        else:
            tokens = min(CHECKED_TOKENS, len(result.ids_TLK))
            for layer, rows in differing.items():
                said = (
                    f"layer {layer}: the model's router and the recipe disagree in {rows} of "
                    f"{tokens} rows"
                )
                if newer:
                    raise UnsupportedError(f"{newer}: {said}", hint=hint)
                say(f"{said}; the model's word is used")
            if newer:
                say(f"{newer}: on the first {tokens} tokens its routers equal their recipes")
        return replace(result, inputs=None)

    return check


def check_routers(prepared: "Prepared", result: "Forwarded") -> Mapping[int, int]:
    """{layer: rows} of the first tokens in which recipe and model select other experts.

    Rows that are within the default eps of another selection, of experts or of groups, are not
    counted: products of another number of rows round otherwise. Raises UnsupportedError for a
    family that is not in the table.
    """
    import numpy as np

    from ...checkpoints import open_checkpoint
    from ...checkpoints.routers import router_recipe
    from ...margins import EPS
    from ...ops.predict.replay_inputs import replay_inputs
    from .router_inputs import layer_routers

    folder = place_of(prepared.options.checkpoint)
    opened = open_checkpoint(str(folder))
    assert opened.config is not None
    recipe = router_recipe(opened, version=str(prepared.provenance["transformers"]))
    assert result.inputs is not None
    hidden = {layer: states[:CHECKED_TOKENS].cpu() for layer, states in result.inputs.items()}
    routers = layer_routers(opened)
    live_TLK = result.ids_TLK if result.live_TLK is None else result.live_TLK
    tokens = len(next(iter(hidden.values())))
    for layer in recipe.hash_layers:  # a table decides there
        hidden.pop(layer, None)
    expected = replay_inputs(recipe, routers, hidden)[0]
    margin_TL = expected.margin_TL
    if expected.group_margin_TL is not None:
        margin_TL = np.minimum(margin_TL, expected.group_margin_TL)
    differing = {}
    for column, layer in enumerate(expected.routes.layers_L):
        theirs = np.sort(live_TLK[:tokens, prepared.layers.index(layer)], axis=1)
        ours = np.sort(expected.routes.ids_TLK[:, column], axis=1)
        clear = (theirs != ours).any(axis=1) & (margin_TL[:, column] > EPS)
        if clear.any():
            differing[layer] = int(clear.sum())
    return differing
