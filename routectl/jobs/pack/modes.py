"""Which options of ``routectl pack`` have no effect in what it is asked to do."""

import dataclasses
from pathlib import Path

import typer

from ...errors import RoutectlError
from .layout import LayoutOptions

__all__ = ["check_given"]

_WRITING = {"lens", "against"}
_DRAWING = {"against", "rank", "as_json", "padding", "dtype", "allow_missing", "force", "ep"}
_DRAWING_LENS = {
    "dump",
    "rows",
    "context",
    "moe_layer_freq",
    "model",
    "num_layers",
    "top_k",
    "num_experts",
    "wire",
    "start",
}
_VERIFYING = {"dump", "lens", "padding", "allow_missing", "force"}


def _refuse(given: dict[str, str], names: set[str], why: str) -> None:
    for name, flag in given.items():
        if name in names:
            raise RoutectlError(f"{flag} has no effect: {why}")


def check_given(
    context: typer.Context, *, explain: bool, verify: Path | None, has_manifest: bool
) -> None:
    """Raise RoutectlError for an option on the command line that would be ignored."""
    given = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            given[str(parameter.name)] = parameter.opts[0] if parameter.name != "dump" else "DUMP"
    if explain:
        _refuse(given, _DRAWING, "--explain draws the layout only")
        if "lens" in given:
            _refuse(given, _DRAWING_LENS, "--lens stands for the dump")
    elif verify is None:
        _refuse(given, _WRITING, "it is not for -o DIR")
    else:
        _refuse(given, _VERIFYING, "it is not for --verify")
        if has_manifest:
            names = {field.name for field in dataclasses.fields(LayoutOptions)}
            _refuse(given, names | {"rows", "dtype"}, f"{verify}/manifest.json says the layout")
