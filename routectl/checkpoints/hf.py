"""Folders of Hugging Face weights: one safetensors file, or shards with an index."""

from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..files.names import is_own_name
from ..files.places import pinned
from ..files.reading import read_bytes
from .checkpoint import Checkpoint
from .headers import read_header, strict_json
from .infos import TensorInfo

__all__ = ["is_adapter", "open_hf", "read_config", "refuse_adapter", "weight_files"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
ADAPTER = "adapter_config.json"  # of PEFT: LoRA and its kin
_MAX_JSON = 256 << 20


def weight_files(folder: Path) -> list[Path]:
    """What makes a folder one of HF weights: its index, or single file, or shards."""
    for name in (INDEX, SINGLE):
        if (folder / name).is_file():
            return [folder / name]
    for pattern in (SHARDS, *PICKLED):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT, with or without its base model's weights."""
    return (folder / ADAPTER).is_file()


def refuse_adapter(folder: Path) -> None:
    """Raise UnsupportedError, which says what it is, for a folder that holds an adapter."""
    if not is_adapter(folder):
        return
    try:
        about = _document(folder / ADAPTER)
    except FormatError:
        about = {}
    rank, kind = about.get("r"), str(about.get("peft_type") or "")
    base = str(about.get("base_model_name_or_path") or "")
    told = f"{kind or 'PEFT'}, rank {rank}" if type(rank) is int else kind or "PEFT"
    if base:
        told += f", of {base[:120]!a}"
    whole = weight_files(folder)
    beside = f" beside {whole[0].name}, which would be run without it" if whole else ""
    raise UnsupportedError(
        f"{folder}: an adapter ({told}){beside}: no model's weights: got {ADAPTER}",
        hint="merge it into its base model first (PEFT's merge_and_unload), or take the file away"
        if whole
        else "merge it into its base model first (PEFT's merge_and_unload), and give that folder",
    )


def _document(path: Path) -> dict[str, Any]:
    text = read_bytes(path, _MAX_JSON, f"more than {_MAX_JSON} bytes of JSON")
    return strict_json(text, str(path))


def read_config(path: Path) -> dict[str, Any]:
    """The document of a config.json, of the one in a folder, or of ``hf_config`` in a meta.json.

    Raises FormatError when there is none.
    """
    document = _document(path / "config.json" if path.is_dir() else path)
    inner = document.get("hf_config")
    return inner if isinstance(inner, dict) else document


def _shard(index: Path, name: str, file: object) -> Path:
    """The file that an index says a tensor is in."""
    if not isinstance(file, str) or not is_own_name(file):
        raise FormatError(
            f"{index}: {name[:80]!a}: got file {str(file)[:80]!a}, expected one in the same folder"
        )
    return index.parent / file


_Opened = tuple[dict[str, TensorInfo], list[Path], tuple[str, ...]]


def _indexed(index: Path) -> _Opened:
    """The tensors that an index lists, its shards, and tensors in them that it does not list."""
    places = _document(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FormatError(f"{index}: no weight_map, expected names of tensors with their files")
    stored: dict[str, dict[str, TensorInfo]] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, file in places.items():
        shard = stored.get(file) if isinstance(file, str) else None
        if shard is None:
            shard = stored[file] = read_header(pinned(_shard(index, name, file)))
        if name not in shard:
            raise FormatError(f"{index}: {name[:80]!a} is not in {file}")
        tensors[name] = shard[name]
    others = [n for shard in stored.values() for n in shard if n not in places]
    return tensors, [pinned(index.parent / file) for file in stored], tuple(others)


def _shards(files: list[Path]) -> dict[str, TensorInfo]:
    """The tensors of shards that have no index: all of them must be there."""
    claimed = {file.stem.rsplit("-of-", 1)[1] for file in files}
    total = next(iter(claimed)) if len(claimed) == 1 else ""
    if not total.isdecimal() or int(total) != len(files):
        raise FormatError(
            f"{files[0].parent}: {len(files)} shards without an index, expected "
            f"{' and '.join(sorted(claimed))[:80]}"
        )
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        shard = read_header(file)
        twice = sorted(tensors.keys() & shard.keys())
        if twice:
            raise FormatError(f"{file}: {twice[0][:80]!a} is in another shard too")
        tensors |= shard
    return tensors


def open_hf(folder: Path) -> Checkpoint:
    """A folder of HF weights as a Checkpoint, with its config.json where there is one.

    Raises FormatError for damaged headers, an index that names absent files or tensors, and
    incomplete shards; UnsupportedError when the weights are pickled.
    """
    files = [pinned(file) for file in weight_files(folder)]
    if files and files[0].name.startswith("pytorch_model"):
        raise UnsupportedError(
            f"{folder}: pickled weights ({files[0].name}) are not read",
            hint="save the model again, as safetensors",
        )
    others: tuple[str, ...] = ()
    if files and files[0].name == INDEX:
        tensors, files, others = _indexed(files[0])
    elif files and files[0].name == SINGLE:
        tensors = read_header(files[0])
    elif files:
        tensors = _shards(files)
    else:
        raise FormatError(f"{folder}: no {SINGLE} and no index in it")
    config = folder / "config.json"
    return Checkpoint(
        format="hf",
        path=folder,
        tensors=tensors,
        files=tuple(sorted(files)),
        config=_document(config) if config.is_file() else None,
        unindexed=others,
    )
