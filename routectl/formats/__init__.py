"""Doors for dumps: a path in, a Dump out. ``open_dump`` sniffs; each other room knows a form."""

import glob
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..damage import DamagedSampleError
from ..dump import Dump, Sample
from ..errors import FormatError, MismatchError, UnsupportedError, unknown
from ..files.places import glob_places, pinned, place_of
from ..limits import limits, within
from .documents.facts import Guess, Model, Otherwise, Physical
from .documents.kinds import kind_in_words, sniff_binary

if TYPE_CHECKING:
    from ..codecs.dictionary import TokenDictionary

__all__ = ["FORMATS", "open_dump", "open_tokens"]

FORMATS = (
    "json",
    "jsonl",
    "sse",
    "npy",
    "npz",
    "safetensors",
    "torch",
    "pickle",
    "msgpack",
    "straw",
    "native",
    "trace",
)
_ARRAYS = ("npy", "npz", "safetensors")
_TRAINERS = ("torch", "pickle", "msgpack", "straw", "trace", "counts")
_WITHOUT_TOKENS = ("torch", "trace")  # some of them hold routes alone
_SUFFIXES = {".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".parquet": "native"}


def _kind(path: Path, forced: str | None) -> str | None:
    """The format of a file: forced, or by content; a name that claims another one is refused."""
    found = forced or sniff_binary(path)
    claimed = _SUFFIXES.get(path.suffix)
    if forced is None and claimed is not None and found != claimed:
        raise FormatError(
            f"{path}: the name says {path.suffix}, the content is {kind_in_words(path)}"
        )
    return found


def _open_file(path: Path, *, model: Model, **said: Any) -> Dump:
    """A file, as ``open_dump`` is asked; physical ids, which ``Physical`` names, are mapped."""
    dump = _opened(path, model, **said)
    by_itself = dump.meta.format != "native" and "expert_map" in dump.meta.provenance
    return dump if by_itself else _mapped(dump, model)


def _opened(
    path: Path,
    model: Model,
    form: str | None,
    start: int | None,
    base: "Dump | TokenDictionary | str | Path | None",
    tokens: str | Path | None,
) -> Dump:
    from .wire.sample import NoSamplesError

    try:
        path = pinned(path)  # a file of a folder
        kind = _kind(path, form)
        if tokens is not None and kind not in _WITHOUT_TOKENS:
            raise MismatchError(f"{path}: no list of layers: its samples have their own tokens")
        if kind == "dictionary":
            raise NoSamplesError(
                f"{path}: a token dictionary, not a dump: convert --codec token --dictionary takes "
                "it"
            )
        if kind == "partial":
            raise NoSamplesError(
                f"{path}: a part that --partial wrote, not a dump",
                hint="routectl merge adds all parts up, and tells what they come to",
            )
        if kind == "native":
            from .native.container import open_native

            return open_native(path, base=base, opener=open_dump)
        if kind in _ARRAYS:
            from .arrays.reader import open_arrays

            return open_arrays(path, kind, model, start)
        if kind in _TRAINERS:
            from .trainers.dumps import open_trainer_file

            given = None if tokens is None else open_tokens(tokens, model=model)
            return open_trainer_file(path, kind, model, start, given)
        from .responses.text import open_text

        return open_text(path, kind, model, start)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def open_tokens(path: str | Path, *, model: Model = None) -> Dump | Sequence[Sample]:
    """The samples of a second file, for their tokens: a dump, slime's train data, or one prompt.

    Rows of a dump are not used: where nothing tells its model it is read by what they look like,
    and samples have none where their reader refuses them, as physical ids. Raises what
    ``open_dump`` does.
    """
    from .trainers.dumps import read_tokens

    given = read_tokens(place_of(path))
    if given is not None:
        return given
    if isinstance(model, Physical):
        model = model.model
    dump = open_dump(
        path, model=Guess() if model is None or isinstance(model, Otherwise) else model
    )

    def load(index: int) -> Sample:
        try:
            return dump[index]
        except DamagedSampleError as error:
            return error.sample

    return Dump(dump.meta, dump.keys, load)


def _listed(path: Path) -> list[Path] | None:
    """The files of a folder or a glob; None for anything else."""
    try:
        if path.is_dir():
            return [file for file in path.iterdir() if file.is_file()]
        if path.exists() or not glob.has_magic(str(path)):
            return None
        return [file for file in glob_places(path) if file.is_file()]
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None


def open_dump(
    path: str | Path,
    *,
    model: Model = None,
    format: str | None = None,  # noqa: A002 - the word that users know
    start: int | None = None,
    base: "Dump | TokenDictionary | str | Path | None" = None,
    tokens: str | Path | None = None,
) -> Dump:
    """Open a file, a folder or a glob as one lazy Dump: what ``routectl.open_dump`` stands on.

    Parameters and errors are those of that one, but that ``path`` is a path alone, without what
    may stand behind ``::``. ``model`` may be Otherwise too, for what does not say its own;
    ``format`` is one of FORMATS.
    """
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS, UnsupportedError)
    if "\0" in str(path):
        raise FormatError(f"{path}: a NUL in it: no file is named so")
    model = _with_map(model)
    at = pinned(place_of(path))
    files = _listed(at)
    opener = partial(_open_file, model=model, form=format, start=start, base=base, tokens=tokens)
    dump = opener(at) if files is None else _open_folder(at, files, opener, model)
    return dump.read_within(partial(within, limits()))


def _with_map(model: Model) -> Model:
    """The model, the map of its physical experts read where a path names it."""
    if not isinstance(model, Physical) or not isinstance(model.experts, str | Path):
        return model
    from .experts.maps import read_expert_map

    return Physical(model.model, read_expert_map(model.experts))


def _mapped(dump: Dump, model: Model) -> Dump:
    """A dump of a form that knows nothing of maps, with logical ids where there is one."""
    if not isinstance(model, Physical):
        return dump
    from .experts.mapped import mapped
    from .experts.maps import ExpertMap

    assert isinstance(model.experts, ExpertMap)
    return mapped(dump, model.experts)


def _open_folder(path: Path, files: list[Path], opener: Callable[..., Dump], model: Model) -> Dump:
    """Files of a folder or a glob, or what an ART bundle's manifest names, as one dump.

    Of a folder of router traces the traces alone: what is beside them is theirs.
    """
    from .trainers.bundles import find_bundle, open_bundle

    manifest = find_bundle(files) if path.is_dir() else None
    if manifest is not None:
        return _mapped(open_bundle(path, manifest), model)
    from ..checkpoints.router_trace import trace_files
    from .trainers.routing_store import is_layer_store

    if path.is_dir() and is_layer_store(files):
        return opener(path, form="pickle")
    from .folder import join_files

    if path.is_dir() and (traces := trace_files(path)):
        files = traces
    return join_files(str(path), files, opener)
