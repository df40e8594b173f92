"""``routectl recompute CHECKPOINT ROUTER_INPUTS``: the routers alone, no model.

Router inputs are a file that ``--router-inputs`` wrote, or a trace of Megatron-Core.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError, RoutectlError
from ...files.places import place_of
from ...reports.text.wording import plural
from ...version import __version__
from ..inputs import parse_input

if TYPE_CHECKING:
    from ...checkpoints.router_inputs import RouterInputs
    from ...dump import Dump, DumpMeta, Sample
    from ...forward import Forwarded, Prepared
    from ...ops.predict.replay_inputs import InputRoutes, LayerRouter
    from ...routers.recipe import Recipe

TOKENS = "a router trace takes them from TRACE::tokens=FILE, a dump of what was run"
__all__ = [
    "TOKENS",
    "input_meta",
    "input_samples",
    "inputs_at",
    "is_inputs",
    "keeping_inputs",
    "layer_routers",
    "recompute_from_inputs",
    "refuse_stage",
]


def is_inputs(named: str) -> bool:
    """Whether a user named router inputs, and no dump."""
    from ...checkpoints.router_inputs import is_router_inputs

    return is_router_inputs(place_of(parse_input(named).path))


def inputs_at(named: str | Path) -> "RouterInputs":
    """Router inputs as a user names them; of a trace, ``PATH::tokens=FILE`` gives the tokens.

    Raises MismatchError where a sample of FILE has no tokens, RoutectlError for what is said of
    rows, which inputs have none of, and what opening raises.
    """
    from ...checkpoints.router_inputs import open_router_inputs
    from ...formats import open_tokens

    one = parse_input(str(named))
    if str(dataclasses.replace(one, tokens=None)) != one.path:
        raise RoutectlError(f"{one}: router inputs have no rows: PATH or TRACE::tokens=FILE")
    if one.tokens is None:
        return open_router_inputs(place_of(one.path))
    ids = [sample.token_ids for sample in open_tokens(one.tokens)]
    told = [tokens for tokens in ids if tokens is not None]
    if len(told) != len(ids):
        raise MismatchError(f"{one.tokens}: a sample without tokens")
    return open_router_inputs(place_of(one.path), told)


def refuse_stage(hidden: "RouterInputs", routers: "Mapping[int, LayerRouter]") -> None:
    """Raise MismatchError for inputs of some layers, where those may be numbered within a stage."""
    if hidden.staged and set(hidden) != set(routers):
        raise MismatchError(
            f"{hidden.path}: layers {sorted(hidden)}, the checkpoint has routers in "
            f"{sorted(routers)}: a pipeline stage numbers its own from 0"
        )


def recompute_from_inputs(
    checkpoint: Path,
    inputs: str | Path,
    output: Path,
    *,
    force: bool,
    model: Path | None = None,
    tokens: bool = True,
) -> int:
    """Write what a checkpoint's routers select for dumped hidden states; returns the samples.

    How they select is said by ``model``, an HF config.json or a folder with one, else by the
    checkpoint itself: its config.json, or the arguments that Megatron stored in it. With ``tokens``
    false token ids are left out.
    """
    from ...checkpoints import open_checkpoint
    from ...checkpoints.routers import router_recipe
    from ...formats.native.container import write_native
    from ...ops.predict.replay_inputs import replay_inputs

    opened = open_checkpoint(str(checkpoint))
    recipe = router_recipe(opened, model)
    hidden, routers = inputs_at(inputs), layer_routers(opened)
    refuse_stage(hidden, routers)
    found = replay_inputs(recipe, routers, hidden, lens=hidden.lens, token_ids_T=hidden.token_ids_T)
    meta = input_meta(recipe, hidden, {"mode": "router inputs"})
    samples = input_samples(found, hidden)
    kept = samples if tokens else (sample.without_tokens() for sample in samples)
    return write_native(kept, meta, output, force=force)


def layer_routers(opened: Any) -> "Mapping[int, LayerRouter]":
    """The routers of an opened checkpoint, as stored."""
    from ...checkpoints.routers import router_tensors
    from ...ops.predict.replay_inputs import LayerRouter

    return {
        layer: LayerRouter(
            held.weight,
            held.linear_bias,
            held.expert_bias,
            held.extras.get("tid2eid"),
            held.extras.get("per_expert_scale"),
        )
        for layer, held in router_tensors(opened).items()
    }


def input_samples(found: "list[InputRoutes]", hidden: "RouterInputs") -> "Iterator[Sample]":
    """The samples of a dump: routes out of router inputs, and the tokens that these hold."""
    import numpy as np

    from ...dump import Sample
    from ...margins import margins_to_float16

    begin = 0
    for index, result in enumerate(found):
        tokens = result.routes.num_tokens
        ids = None
        if hidden.token_ids_T is not None:
            ids = hidden.token_ids_T[begin : begin + tokens].numpy().astype(np.int32)
        begin += tokens
        margins = [
            None if margin_TL is None else margins_to_float16(margin_TL)
            for margin_TL in (result.margin_TL, result.group_margin_TL)
        ]
        yield Sample(
            dataclasses.replace(result.routes, margin_TL=margins[0], group_margin_TL=margins[1]),
            sample_id=str(index),
            prompt_ids=ids,
            response_ids=None if ids is None else ids[:0],
            prompt_length=tokens,
            response_length=0,
        )


def input_meta(recipe: "Recipe", hidden: "RouterInputs", made: Mapping[str, str]) -> "DumpMeta":
    """What a dump of such samples says of itself; ``made`` opens its provenance."""
    from ...dump import DumpMeta

    return DumpMeta(
        path=str(hidden.path),
        format="safetensors",
        layers_L=tuple(sorted(hidden)),
        top_k=recipe.top_k,
        num_experts=recipe.columns,
        engine="routectl",
        engine_version=__version__,
        model=recipe.family,
        facts_source="the checkpoint",
        order="score",
        margins=True,
        group_margins=recipe.grouped,
        provenance={**made, "recipe": recipe.describe(), "source": recipe.source},
    )


@contextmanager
def keeping_inputs(
    prepared: "Prepared",
    source: "Dump",
    path: Path | None,
    say: Callable[[str], None],
    *,
    force: bool,
) -> "Iterator[Callable[[Forwarded], Forwarded]]":
    """A function that writes a result's router inputs to ``path``, if any, and lets go of them."""
    if path is None:
        yield lambda result: result
        return
    from ...checkpoints.router_inputs import InputShapes, writing_inputs

    tokens = [sample.token_ids for sample in source.select(layers=source.meta.layers_L[:1])]
    ids = [ids_T for ids_T in tokens if ids_T is not None]
    name = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[
        str(prepared.provenance["dtype"])
    ]
    lens = tuple(len(ids_T) for ids_T in ids)
    width = prepared.store.skeleton.model.config.get_text_config().hidden_size
    shapes = InputShapes(prepared.layers, lens, width, name)
    flat = [token for ids_T in ids for token in ids_T.tolist()]
    with writing_inputs(path, shapes, flat, force=force) as writer:

        def keep(result: "Forwarded") -> "Forwarded":
            assert result.inputs is not None
            writer.put(result.index, result.inputs)
            return result if result.index == 0 else dataclasses.replace(result, inputs=None)

        yield keep
    say(f"wrote {path}: {plural(len(lens), 'sample')}")
