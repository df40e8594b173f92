"""The accepted numbers of a config's checks, in a small file beside it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from ...errors import FormatError
from ..saved import read_report

__all__ = ["Numbers", "kept_numbers", "read_baseline", "write_baseline"]

_SCHEMA = "routectl.baseline/1"
Numbers = Mapping[str, Mapping[str, float]]


def read_baseline(path: Path) -> Numbers:
    """Numbers by run and name; empty where there is no file. Raises FormatError for another one."""
    if not path.exists():
        return {}
    checks: Numbers | None = read_report(path, _SCHEMA).get("checks")
    if checks is None:
        raise FormatError(f"{path}: not a whole report of {_SCHEMA}: no checks in it")
    return checks


def kept_numbers(scalars: Mapping[str, float], by_layer: Collection[str]) -> dict[str, float]:
    """What a baseline keeps of a run's scalars: those of all layers, and those of each layer where
    a threshold asks for them. ``by_layer`` has the stable names of such figures.
    """
    kept = {}
    for name, value in scalars.items():
        stem, layer, _ = name.partition("/layer_")
        if not layer or any(stem == one or stem.startswith(f"{one}/") for one in by_layer):
            kept[name] = value
    return kept


def write_baseline(path: Path, numbers: Numbers) -> None:
    """Write the numbers, sorted, a line each; whole or not at all."""
    from ...files.writing import replacing

    document = {"schema": _SCHEMA, "checks": numbers}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with replacing(path, force=True) as stream:
        stream.write(f"{text}\n".encode())
