"""Megatron's legacy format: ``mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt``.

Source: Megatron-LM ``training/checkpointing.py`` get_checkpoint_name and generate_state_dict
(core 0.16.1). Routers are the same on all tensor- and expert-parallel ranks, so rank 0 of both
is read. Layers count from 0 in every pipeline stage and virtual chunk; here they are the model's.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import FormatError, UnsupportedError
from ..files.reading import open_regular
from ..layouts.pipeline import Pipeline
from ..pickled.archives import Archive, open_archive
from ..pickled.dtypes import bytes_of
from ..pickled.records import Record, StoredTensor
from .infos import Piece, TensorInfo

__all__ = ["legacy_files", "plain_arguments", "read_legacy", "stored_info"]

_FOLDER = re.compile(r"mp_rank_(\d{2,3})(?:_(\d{3}))?(?:_(\d{3}))?")
_FILES = ("model_optim_rng.pt", "model_rng.pt")
_CHUNK = re.compile(r"model(\d*)")
_LAYER = re.compile(r"\bdecoder\.layers\.(\d+)\.")
_MAX_DEPTH = 8


def legacy_files(folder: Path) -> dict[tuple[str, ...], Path]:
    """The files of a legacy folder, by the numbers in the names of their folders."""
    files = {}
    for path in sorted(folder.glob("mp_rank_*")):
        match = _FOLDER.fullmatch(path.name)
        for name in _FILES if match else ():
            if match and (path / name).is_file():
                files[tuple(g for g in match.groups() if g)] = path / name
                break
    return files


def plain_arguments(value: object) -> dict[str, Any]:
    """What of an argument list is plain: numbers, text, None, and lists of them."""
    fields = value.fields if isinstance(value, Record) else value
    plain = int | float | str | bool | None
    layout = fields.get("pipeline_model_parallel_layout") if isinstance(fields, dict) else None
    found = {
        k: v
        for k, v in (fields.items() if isinstance(fields, dict) else ())
        if isinstance(k, str)
        and (isinstance(v, plain) or (isinstance(v, list) and all(isinstance(e, plain) for e in v)))
    }
    if isinstance(layout, Record):  # Megatron parses its layout string in place
        found["pipeline_model_parallel_layout"] = layout.fields.get("input_data")
    return found


def _open(path: Path) -> Archive:
    try:
        with open_regular(path) as stream:
            archive = open_archive(stream, str(path))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(archive.value, dict):
        raise FormatError(f"{path}: got {type(archive.value).__name__}, expected a state dict")
    return archive


def _pipeline(arguments: Mapping[str, Any], where: str) -> Pipeline:
    """The cut of the layers that the arguments describe."""
    try:
        return Pipeline(
            num_layers=arguments["num_layers"],
            pp=arguments.get("pipeline_model_parallel_size") or 1,
            vpp=arguments.get("virtual_pipeline_model_parallel_size") or 1,
            first=arguments.get("decoder_first_pipeline_num_layers"),
            last=arguments.get("decoder_last_pipeline_num_layers"),
            embedding=bool(arguments.get("account_for_embedding_in_pipeline_split")),
            loss=bool(arguments.get("account_for_loss_in_pipeline_split")),
            layout=arguments.get("pipeline_model_parallel_layout"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: its arguments give no cut of the layers: {error}") from None


def _stages(
    files: Mapping[tuple[str, ...], Path], arguments: Mapping[str, Any], where: str
) -> list[Path]:
    """The file of each pipeline stage, of tensor- and expert-parallel rank 0."""
    pp = arguments.get("pipeline_model_parallel_size") or 1
    widths = {len(numbers) for numbers in files}
    if len(widths) != 1 or type(pp) is not int or not 1 <= pp <= 4096:
        raise FormatError(f"{where}: its mp_rank folders are of several kinds")
    tp = min(numbers[0] for numbers in files)
    tails: list[tuple[str, ...]] = [("000",) * (widths.pop() - 1)]
    if pp > 1:
        expert = tails[0][1:]
        tails = [(f"{rank:03d}", *expert) for rank in range(pp)]
    try:
        return [files[tp, *tail] for tail in tails]
    except KeyError as error:
        absent = "_".join(("mp_rank", *map(str, error.args[0])))
        raise FormatError(
            f"{where}: no {absent} among {len(files)} ranks, pipeline size {pp}"
        ) from None


def _tensors(state: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor of a state dict, nested ones by dotted names."""
    for name, value in state.items() if depth < _MAX_DEPTH else ():
        if isinstance(value, StoredTensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)


def stored_info(archive: Archive, file: Path, name: str, tensor: StoredTensor) -> TensorInfo:
    """A tensor of an archive that is ``file``, by its place; raises FormatError."""
    where = f"{file}: {name[:120]}"
    try:
        dtype, offset, shape, strides = archive.place(tensor)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    num_bytes = bytes_of(dtype, shape, where)
    step, packed = 1, True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        packed &= size <= 1 or stride == step
        step *= size
    begin = (0,) * len(shape)
    piece = Piece(file, offset, num_bytes, begin, shape, member=archive.storage(tensor))
    return TensorInfo(name, dtype, shape, num_bytes, (piece,) if packed else ())


def _chunks(archive: Archive, file: Path) -> list[dict[str, Any]]:
    """The state dicts of a stage's virtual chunks, in order."""
    found = {
        m[1]: archive.value[k]
        for k in archive.value
        if isinstance(k, str) and (m := _CHUNK.fullmatch(k))
    }
    chunks = [found[key] for key in sorted(found, key=lambda k: int(k or 0))]
    if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
        raise FormatError(f"{file}: no model in it")
    return chunks


def read_legacy(folder: Path) -> tuple[dict[str, TensorInfo], list[Path], Mapping[str, Any]]:
    """Tensors by name with the model's layer numbers, every file, and the plain arguments.

    Raises FormatError when stages are absent or do not fit the arguments; UnsupportedError for
    files older than torch 1.6.
    """
    files = legacy_files(folder)
    first = next(iter(files.values()))
    arguments = plain_arguments(_open(first).value.get("args"))
    stages = _stages(files, arguments, str(folder))
    tensors: dict[str, TensorInfo] = {}
    for rank, file in enumerate(stages):
        archive = _open(file)
        chunks = _chunks(archive, file)
        layers = None
        if len(stages) > 1 or len(chunks) > 1:
            layers = _pipeline(arguments, str(file)).stage_layers(rank)
            if len(layers) != len(chunks):
                raise FormatError(f"{file}: {len(chunks)} chunks, arguments say {len(layers)}")
        for v, chunk in enumerate(chunks):
            own = None if layers is None else layers[v]
            for local, tensor in _tensors(chunk):
                name = _global_name(local, own, file)
                if name not in tensors:  # embeddings may be on the last stage too
                    tensors[name] = stored_info(archive, file, name, tensor)
    return tensors, list(files.values()), arguments


def _global_name(local: str, layers: tuple[int, ...] | None, file: Path) -> str:
    """A name with the model's layer number in place of the chunk's."""
    match = _LAYER.search(local)
    if match is None or layers is None or local.startswith("mtp."):
        return local
    number = int(match[1])
    if number >= len(layers):
        raise UnsupportedError(
            f"{file}: {local[:80]}: layer {number} of a chunk that holds "
            f"{len(layers)} by its arguments"
        )
    return f"{local[: match.start(1)]}{layers[number]}{local[match.end(1) :]}"
