"""Megatron's checkpoint folders: which iteration, which of the formats.

Source: Megatron-LM ``training/checkpointing.py`` (core 0.16.1): read_metadata and the order in
which _get_checkpoint_format looks.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_regular
from ..pickled.archives import load_values
from .checkpoint import Checkpoint
from .dcp import read_metadata
from .headers import strict_json
from .legacy import legacy_files, plain_arguments, read_legacy

__all__ = ["iteration_folder", "megatron_format", "open_megatron"]

TRACKER = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iter_(\d{7,18})")
_MAX_JSON = 1 << 20


def iteration_folder(folder: Path) -> Path | None:
    """The folder of the latest iteration, where ``folder`` has a tracker file or one iteration.

    None when it has neither. Raises FormatError for a tracker that names nothing.
    """
    tracker = folder / TRACKER
    if tracker.is_file():
        with open_regular(tracker) as file:
            word = file.read(64).decode("ascii", "replace").strip()
        found = folder / ("release" if word == "release" else f"iter_{word.zfill(7)}")
        if not (word == "release" or word.isdecimal()) or not found.is_dir():
            raise FormatError(
                f"{tracker}: got {word[:40]!a}, expected the number of an iter_ "
                "folder beside it, or release"
            )
        return found
    found_all = [path for path in folder.glob("iter_*") if _ITERATION.fullmatch(path.name)]
    return found_all[0] if len(found_all) == 1 else None


def megatron_format(folder: Path) -> str | None:
    """torch_dist, torch or torch_dcp by the files of an iteration's folder; None for another."""
    if (folder / "metadata.json").is_file() and (folder / ".metadata").is_file():
        return "torch_dist"
    if legacy_files(folder):
        return "torch"
    return "torch_dcp" if (folder / ".metadata").is_file() else None


def _check_backend(path: Path) -> None:
    with open_regular(path) as file:
        backend = strict_json(file.read(_MAX_JSON), str(path)).get("sharded_backend")
    if backend != "torch_dist":
        raise UnsupportedError(f"{path}: sharded_backend {str(backend)[:40]!a}, not torch_dist")


def _common(folder: Path) -> Mapping[str, Any]:
    """The iteration and arguments of common.pt, which Megatron-Core up to 0.18 writes."""
    values = load_values(folder / "common.pt")
    return values if isinstance(values, dict) else {}


def open_megatron(folder: Path) -> Checkpoint:
    """The folder of one iteration as a Checkpoint of the model's tensors.

    Raises FormatError for damaged or refused metadata, UnsupportedError for zarr.
    """
    kind = megatron_format(folder)
    match = _ITERATION.fullmatch(folder.name)
    iteration = int(match[1]) if match else None
    core = None
    if kind == "torch":
        tensors, files, arguments = read_legacy(folder)
    else:
        if kind == "torch_dist":
            _check_backend(folder / "metadata.json")
        tensors, common = read_metadata(folder)
        files = sorted(folder.glob("*.distcp"))
        if (folder / "common.pt").is_file():
            common = _common(folder)
        elif kind == "torch_dist" and common.get("args") is not None:
            core = "0.19.0"
        arguments = plain_arguments(common.get("args"))
        count = common.get("iteration")
        iteration = count if iteration is None and type(count) is int else iteration
    return Checkpoint(
        format=kind or "torch_dcp",
        path=folder,
        tensors=tensors,
        files=tuple(files),
        iteration=iteration,
        arguments=arguments,
        core=core,
    )
