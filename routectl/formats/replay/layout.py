"""A Packing as the ``layout`` block of a manifest, and back."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...layouts.packing import Packing
from ...layouts.pipeline import Pipeline
from ...layouts.plan import Plan
from .plans import plan_document, steps_of

__all__ = ["layout_document", "packing_from_layout", "stages_document"]


def layout_document(packing: Packing) -> dict[str, Any]:
    """Every field of a Packing; plan and pipeline are null where there is none."""
    plain = {
        field.name: getattr(packing, field.name)
        for field in dataclasses.fields(packing)
        if field.name not in ("lens", "plan", "pipeline")
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
    stages = range(1 if packing.pipeline is None else packing.pipeline.pp)
    ordinals = {layer: n for n, layer in enumerate(layers)}
    return [
        [
            [{"layer": layer, "ordinal": ordinals[layer]} for layer in chunk]
            for chunk in packing.stage_layers(stage, layers)
        ]
        for stage in stages
    ]


def packing_from_layout(document: dict[str, Any], path: Path) -> Packing:
    """The Packing of a manifest's ``layout``. Raises FormatError when it is not one."""
    try:
        fields = dict(document)
        dp, plan, pipeline = fields.pop("dp"), fields.pop("plan"), fields.pop("pipeline")
        steps = None if plan is None else steps_of(plan, {}, f"{path}: layout")
        return Packing(
            **fields,
            plan=None if steps is None else Plan(dp, steps),
            pipeline=None if pipeline is None else Pipeline(**pipeline),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path}: layout: damaged: {error}") from None
