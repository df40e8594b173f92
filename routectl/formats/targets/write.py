"""Writing a dump in a target's form: whole or not at all, or to a stream where the form allows."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...dump import Dump
from ...errors import UnsupportedError
from ...files.folders import replacing_folder
from ...files.writing import replacing
from .rows import Feed, Shape

__all__ = ["Written", "write_target"]

_Writer = Callable[[Feed, IO[bytes]], int]


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it: samples written, samples dropped for missing rows, fields left out."""

    samples: int
    dropped: int
    left_out: tuple[str, ...]


def _writer(shape: Shape) -> _Writer:
    """The writer of a kind; its libraries are loaded here and not before."""
    target = shape.target
    if target.kind == "lines":
        from .lines import write_lines

        return write_lines
    if target.kind == "msgpack":
        from .micro_batches import write_micro_batches

        return write_micro_batches
    if target.kind == "arrays":
        from .arrays import write_npz, write_safetensors

        return write_npz if target.suffix == ".npz" else write_safetensors
    if target.kind == "pickle":
        from .pickles import write_pickle

        return write_pickle
    if target.kind == "jagged":
        from .jagged import write_jagged

        return write_jagged
    from . import torch_lists as target_torch

    return {
        "samples": target_torch.write_samples,
        "grid": target_torch.write_grid,
        "layers": target_torch.write_layers,
    }[target.kind]


def write_target(
    dump: Dump, shape: Shape, path: Path, *, force: bool, stream: IO[bytes] | None = None
) -> Written:
    """Write ``dump`` at ``path`` in the form of ``shape``, or lines to ``stream``.

    One sample's routes are in memory at a time. Raises RoutectlError with the sample on what the
    form cannot hold, and when nothing would be written.
    """
    target, feed = shape.target, Feed(dump, shape)
    if stream is not None and target.kind != "lines":
        raise UnsupportedError(f"-: {target.name} is no stream: only JSON lines go to a pipe")
    if target.kind == "bundle":
        from .bundle import MANIFEST, foreign_bundle, write_bundle

        with replacing_folder(path, force=force, foreign=foreign_bundle, last=MANIFEST) as folder:
            count = _some(write_bundle(feed, folder), feed)
    else:
        write = _writer(shape)
        opened = replacing(path, force=force) if stream is None else nullcontext(stream)
        with opened as out:
            count = _some(write(feed, out), feed)
    return Written(count, feed.dropped, tuple(sorted(feed.left_out)))


def _some(count: int, feed: Feed) -> int:
    """The count, when it is not 0: an empty file would look like a dump."""
    if count == 0:
        raise UnsupportedError(
            f"{feed.shape.meta.path}: no sample can be written: {feed.dropped} of "
            f"{len(feed.dump)} have missing rows"
        )
    return count
