"""Checkpoints opened from their headers alone: a folder in, a Checkpoint out."""

from pathlib import Path

from ..errors import FormatError
from ..files.places import place_of
from .checkpoint import Checkpoint
from .hf import is_adapter, open_hf, refuse_adapter, weight_files
from .megatron import iteration_folder, megatron_format, open_megatron
from .trace_state import open_traced

__all__ = ["is_checkpoint", "open_checkpoint", "refuse_unrunnable"]


def is_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a folder with weights: of a form that open_checkpoint knows or names."""
    folder = place_of(path)
    try:
        return folder.is_dir() and bool(
            weight_files(folder)
            or is_adapter(folder)
            or megatron_format(folder)
            or iteration_folder(folder)
        )
    except OSError:
        return False


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a folder of weights from its headers alone; no weight is read and torch not loaded.

    An HF folder (model.safetensors, or shards with or without an index), or Megatron's: the root
    with latest_checkpointed_iteration.txt, or the folder of an iteration, in torch_dist,
    torch_dcp, fsdp_dtensor or the legacy mp_rank form. The folder of a router trace with router
    states is one of routers alone.

    Raises FormatError when it is damaged or no checkpoint, UnsupportedError when it is of a kind
    that is not read (pickled HF weights, zarr, an adapter).
    """
    folder = place_of(path)
    try:
        if not folder.is_dir():
            what = "expected a folder of weights" if folder.exists() else "no such folder"
            raise FormatError(f"{path}: {what}")
        refuse_adapter(folder)
        if weight_files(folder):
            return open_hf(folder)
        for candidate in (folder, iteration_folder(folder)):
            if candidate is not None and megatron_format(candidate):
                return open_megatron(candidate)
        if traced := open_traced(folder):
            return traced
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    raise FormatError(f"{path}: no checkpoint in it: neither safetensors nor a form of Megatron")


def refuse_unrunnable(path: str | Path) -> None:
    """Raise, before anything else is opened, for a checkpoint that no forward is run of.

    UnsupportedError for an adapter, FormatError for a folder without config.json.
    """
    folder = place_of(path)
    refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise FormatError(f"{path}: no config.json: expected a Hugging Face folder")
