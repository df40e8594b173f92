"""A Packing as the ``layout`` block of a manifest."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...layouts.packing import Packing
from .plans import plan_document

__all__ = ["layout_document", "stages_document"]


def layout_document(packing: Packing) -> dict[str, Any]:
    """Every field of a Packing but ``padded_lens``, which no command gives; plan and pipeline are
    null where there is none.
    """
    plain = {
        field.name: getattr(packing, field.name)
        for field in dataclasses.fields(packing)
        if field.name not in ("lens", "padded_lens", "plan", "pipeline")
    }
    plan, pipeline = packing.plan, packing.pipeline
    return {
        **plain,
        "dp": packing.dp,
        "pipeline": None if pipeline is None else dataclasses.asdict(pipeline),
        "plan": None if plan is None else plan_document(plan),
        "lens": list(packing.lens),
    }


def stages_document(packing: Packing, layers: Sequence[int]) -> list[list[list[dict[str, int]]]]:
    """Per stage and virtual chunk the MoE layers, each with its ordinal among all MoE layers."""
    stages = range(packing.pp)
    ordinals = {layer: n for n, layer in enumerate(layers)}
    return [
        [
            [{"layer": layer, "ordinal": ordinals[layer]} for layer in chunk]
            for chunk in packing.stage_layers(stage, layers)
        ]
        for stage in stages
    ]
