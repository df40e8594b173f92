"""The replay folder: one safetensors file a rank and micro-batch, manifest.json, samples.parquet.

docs/replay.md is the contract. Shape suffixes: R rows of a rank, K top_k, L layers of a stage.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError, UnsupportedError
from ...files.publishing import begin_sync
from ...files.reading import open_regular
from ..arrays.files import open_array_file, save_safetensors
from .manifest import MANIFEST, SCHEMA, check_schema

__all__ = [
    "SAMPLES",
    "RankFile",
    "RankTensors",
    "file_digest",
    "foreign_content",
    "list_tensors",
    "read_layer",
    "read_tensors",
    "write_manifest",
    "write_tensors",
]

SAMPLES = "samples.parquet"
_RANK_FOLDER = re.compile(r"dp\d+-cp\d+-tp\d+-pp\d+")
_LAYER = re.compile(r"layer\.(\d{1,6})")
_PLACE = re.compile(r"(dp|cp|tp|pp|mb)(\d{1,6})")
_NAMES = (
    "expected a folder with the tensors of one run alone, whose paths say the rank and micro-batch "
    "as cp1-tp0/mb0003.safetensors does"
)


@dataclass(frozen=True, slots=True, order=True)
class RankFile:
    """Whose tensors a file holds: micro-batch mb of rank (dp, cp, tp, pp)."""

    mb: int = 0
    dp: int = 0
    cp: int = 0
    tp: int = 0
    pp: int = 0

    @property
    def path(self) -> str:
        """Where the file is in its folder."""
        return f"dp{self.dp}-cp{self.cp}-tp{self.tp}-pp{self.pp}/mb{self.mb:04d}.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class RankTensors:
    """The content of a rank's file: layers[n] is [R, K]; mask is bool [R] or [L, R], or None."""

    layers: dict[int, NDArray[Any]]
    mask: NDArray[np.bool_] | None = None
    cu_seqlens: NDArray[np.int32] | None = None
    cu_seqlens_padded: NDArray[np.int32] | None = None


def write_tensors(folder: Path, place: RankFile, tensors: RankTensors) -> dict[str, Any]:
    """Write a rank's file and return its entry in the manifest, with the SHA-256 of its bytes."""
    path = folder / place.path
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {f"layer.{n}": ids for n, ids in tensors.layers.items()}
    for name in ("mask", "cu_seqlens", "cu_seqlens_padded"):
        array = getattr(tensors, name)
        if array is not None:
            arrays[name] = np.ascontiguousarray(array)
    save_safetensors(path, arrays, f"{SCHEMA} {place.path}")
    return {
        "path": place.path,
        "micro_batch": place.mb,
        **{"dp": place.dp, "cp": place.cp, "tp": place.tp, "pp": place.pp},
        "rows": next((len(ids) for ids in tensors.layers.values()), 0),
        "bytes": path.stat().st_size,
        "sha256": file_digest(path, written=True),
    }


def file_digest(path: Path, *, written: bool = False) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the disk begins with one just ``written``."""
    with open_regular(path) as stream:
        if written:
            begin_sync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json, the last file of a folder.

    Of a path that is no UTF-8, halves of surrogate pairs are JSON's own escapes.
    """
    text = json.dumps({"schema": SCHEMA, **manifest}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8", errors="backslashreplace")


def foreign_content(folder: Path) -> str | None:
    """Why a folder is not one that pack wrote, and nothing else in it; None when it is."""
    if not (folder / MANIFEST).is_file():
        return f"has no {MANIFEST} in it"
    try:
        check_schema(folder)
    except (FormatError, UnsupportedError):
        return f"its {MANIFEST} has not schema {SCHEMA}"
    for entry in sorted(folder.iterdir()):
        if entry.name in (MANIFEST, SAMPLES) and entry.is_file():
            continue
        if entry.is_symlink() or not entry.is_dir() or not _RANK_FOLDER.fullmatch(entry.name):
            return f"holds {entry.name}, which pack did not write"
        for file in sorted(entry.iterdir()):
            if file.suffix != ".safetensors" or not file.is_file():
                return f"holds {entry.name}/{file.name}, which pack did not write"
    return None


def list_tensors(folder: Path) -> dict[RankFile, Path]:
    """The rank files of a folder, by whose they are; a part that a name leaves out is 0.

    The place is read off the path: ``dp0-cp1-tp0-pp0/mb0003.safetensors``, or
    ``cp1_tp0.npz`` with everything in one folder. Raises FormatError when there is none, or two
    for one place.
    """
    found: dict[RankFile, Path] = {}
    if not folder.is_dir():
        raise FormatError(f"{folder}: not a folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".safetensors", ".npz") or not path.is_file():
            continue
        parts = {name: int(n) for name, n in _PLACE.findall(str(path.relative_to(folder)))}
        place = RankFile(**parts)
        if place in found:
            raise FormatError(
                f"{path}: the same rank and micro-batch as {found[place]}", hint=_NAMES
            )
        found[place] = path
    if not found:
        raise FormatError(f"{folder}: no .safetensors and no .npz in it")
    return found


def _layers(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    for name in names:
        match = _LAYER.fullmatch(name)
        if match:
            yield name, int(match[1])


def read_layer(path: Path, layer: int) -> NDArray[Any]:
    """The tensor of one layer of a rank's file; what is mapped of the file goes with the call."""
    return open_array_file(path, path.suffix[1:]).read(f"layer.{layer}")


def read_tensors(path: Path, *, outline: bool = False) -> RankTensors:
    """A rank's file, .safetensors or .npz. Raises FormatError on what is not [R, K] integers.

    The file is opened anew for each array: what is mapped of it is one array's, and goes with it.
    With ``outline`` layers are zeros of their shape and dtype, and take no memory.
    """
    kind = path.suffix[1:]
    names = list(open_array_file(path, kind).shapes)

    def read(name: str) -> NDArray[Any]:
        file = open_array_file(path, kind)
        if not outline or not name.startswith("layer."):
            return file.read(name)
        return np.broadcast_to(np.zeros((), np.dtype(file.dtypes[name])), file.shapes[name])

    layers = {}
    for name, layer in _layers(names):
        ids = read(name)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise FormatError(
                f"{path}: {name}: got {ids.dtype} {ids.shape}, expected integers [rows, top_k]"
            )
        layers[layer] = ids
    if not layers and "mask" not in names:
        raise FormatError(f"{path}: no tensor named layer.N in it")
    others = {n: read(n) for n in ("mask", "cu_seqlens", "cu_seqlens_padded") if n in names}
    return RankTensors(dict(sorted(layers.items())), **others)
