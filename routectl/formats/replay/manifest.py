"""manifest.json of a replay folder, as it is read: typed, every size within bounds."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ...errors import FormatError, UnsupportedError
from ...files.reading import read_bytes
from ...layouts.packing import Packing
from ...layouts.pipeline import Pipeline
from ...layouts.plan import Plan
from ..documents.fields import from_json, one_line
from .plans import steps_of

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Extents",
    "Manifest",
    "ManifestTensors",
    "check_schema",
    "read_manifest",
]

SCHEMA = "routectl.pack/1"
MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 1 << 30
_DEFLATED = 1032  # bytes that deflate makes of one at most
_MAX_RANKS = 1 << 20  # of all kinds and micro-batches together
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_Size = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
_Parallel = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Extents = list[tuple[_Count, _Count] | None]


class _Pipeline(msgspec.Struct):
    """The fields of a Pipeline."""

    num_layers: _Size
    pp: _Parallel = 1
    vpp: _Parallel = 1
    first: _Count | None = None
    last: _Count | None = None
    embedding: bool = False
    loss: bool = False
    layout: str | None = None


class _Layout(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a Packing, ``plan`` as plan_document makes it."""

    lens: list[_Size]
    dp: _Parallel
    pipeline: _Pipeline | None
    plan: Any
    framework: str = "verl"
    tp: _Parallel = 1
    cp: _Parallel = 1
    pad_multiplier: _Parallel | None = None
    fp8: str | None = None
    sample_multiple: _Size | None = None
    min_local_rows: _Size | None = None
    bucket: _Size | None = None
    form: str = "thd"
    seq_len: _Size | None = None

    def packing(self, where: str) -> Packing:
        """The Packing. Raises FormatError where its fields do not fit together."""
        fields = {n: getattr(self, n) for n in self.__struct_fields__}
        dp, plan, pipeline = (fields.pop(n) for n in ("dp", "plan", "pipeline"))
        steps = None if plan is None else steps_of(plan, {}, where)
        stages = 1 if pipeline is None else pipeline.pp
        if dp * self.cp * self.tp * stages * len(steps or (1,)) > _MAX_RANKS:
            raise FormatError(f"{where}: more than {_MAX_RANKS} files of ranks")
        try:
            packing = Packing(
                **fields,
                plan=None if steps is None else Plan(dp, steps),
                pipeline=None if pipeline is None else Pipeline(**msgspec.structs.asdict(pipeline)),
            )
            _shares(packing)
        except (ValueError, OverflowError) as error:
            raise FormatError(f"{where}: damaged: {error}") from None
        return packing


def _shares(packing: Packing) -> list[Packing]:
    """The layouts of all micro-batches' groups. Raises ValueError for one that does not divide."""
    if packing.plan is None:
        return [packing]
    return [
        packing.share(m, *divmod(rank, packing.cp)).packing
        for m, step in enumerate(packing.plan.micro_batches)
        for rank in range(0, packing.dp * packing.cp, step.cp or packing.cp)
    ]


class ManifestTensors(msgspec.Struct):
    """What the tensors are; ``layers`` ascend. num_experts is E, None where it is not said."""

    padding: Literal["zero", "arange", "spread", "minus-one", "repeat", "random"]
    dtype: Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    ep: _Parallel
    layers: list[_Count]
    num_experts: _Size | None = None


class _File(msgspec.Struct):
    """What identifies a rank's file."""

    path: str
    sha256: str


class _Skipped(msgspec.Struct):
    """A sample that was left out."""

    sample: _Count
    sample_id: str | None
    why: str


class _Document(msgspec.Struct):
    """What is read of manifest.json, but for its schema."""

    layout: _Layout
    tensors: ManifestTensors
    only: dict[Literal["dp", "cp", "tp", "pp"], _Count]
    files: list[_File]
    extents: Extents
    allow_missing: bool = False
    skipped: tuple[_Skipped, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """What a folder says that was packed.

    only      the ranks that were written, by kind; all of a kind that is not in it
    digests   the SHA-256 of each rank's file, by its path
    extents   of each sample its rows as (start, stop), None for one without routes
    skipped   samples that were left out: index, id, why
    """

    packing: Packing
    tensors: ManifestTensors
    only: dict[str, int]
    digests: dict[str, str]
    extents: Extents
    allow_missing: bool
    skipped: tuple[tuple[int, str | None, str], ...]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises FormatError when there is none, or it is not what pack writes; UnsupportedError for
    another schema.
    """
    path = folder / MANIFEST
    found = _document(path)
    try:
        doc = msgspec.convert(found, _Document)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged: {one_line(error)}") from None
    packing = doc.layout.packing(f"{path}: layout")
    _check_rows(packing, folder)
    if len(doc.extents) != len(packing.lens):
        raise FormatError(f"{path}: got {len(doc.extents)} extents for {len(packing.lens)} samples")
    for i, (extent, tokens) in enumerate(zip(doc.extents, packing.lens, strict=True)):
        if extent is not None and not extent[0] <= extent[1] <= tokens:
            raise FormatError(f"{path}: extents: got {extent} for sample {i} of {tokens} tokens")
    layers = doc.tensors.layers
    if not layers or layers != sorted(set(layers)):
        raise FormatError(f"{path}: tensors: layers: got {layers[:8]}, expected ascending ones")
    return Manifest(
        packing,
        doc.tensors,
        {str(name): rank for name, rank in doc.only.items()},
        {file.path: file.sha256 for file in doc.files},
        doc.extents,
        doc.allow_missing,
        tuple((one.sample, one.sample_id, one.why) for one in doc.skipped),
    )


def _check_rows(packing: Packing, folder: Path) -> None:
    """Raise FormatError for a layout of more rows than any file of the folder has room for."""
    files = (f for f in folder.rglob("*") if f.suffix in (".safetensors", ".npz") and f.is_file())
    rooms = (f.stat().st_size * (_DEFLATED if f.suffix == ".npz" else 1) for f in files)
    room = max(rooms, default=0)
    rows = max((share.num_rows(0) for share in _shares(packing)), default=0)
    if rows > room:
        raise FormatError(
            f"{folder / MANIFEST}: layout: {rows} rows of a rank, the largest file has {room} bytes"
        )


def check_schema(folder: Path) -> None:
    """Raise FormatError or UnsupportedError unless a folder's manifest has the known schema."""
    _document(folder / MANIFEST)


def _document(path: Path) -> Any:
    """The JSON of a manifest of the known schema."""
    text = read_bytes(path, _MAX_MANIFEST_BYTES, "too large for a manifest")
    try:
        doc = from_json(text, str(path))
        schema = doc["schema"]
    except (ValueError, KeyError, TypeError, RecursionError, IndexError):
        raise FormatError(f"{path}: not a manifest of routectl pack") from None
    if schema != SCHEMA:
        raise UnsupportedError(f"{path}: schema {one_line(schema)}, this routectl reads {SCHEMA}")
    return doc
