"""The types of routectl.pack/1, a replay folder's manifest, and routectl.verify/1: docs/replay.md.

``pack --json`` prints the manifest without its schema.
"""

from typing import Any, Literal, NotRequired, TypedDict

from ..document import PartEntry

__all__ = [
    "DeclaredEntry",
    "LayoutEntry",
    "LayoutSourceEntry",
    "MoveEntry",
    "NamedEntry",
    "PackDocument",
    "PackSource",
    "PackedFile",
    "PackedLayer",
    "PackedTensors",
    "PipelineEntry",
    "SkippedSample",
    "SuspectEntry",
    "SuspectPlace",
    "VerifyDocument",
    "VerifyVerdict",
    "WrongLayerEntry",
    "WrongRowEntry",
]


class PackSource(TypedDict):
    """The dump that was packed."""

    path: str
    format: str
    file_bytes: int | None
    engine: str | None
    engine_version: str | None


class PipelineEntry(TypedDict):
    """Which layers each pipeline stage holds: the fields of a Pipeline."""

    num_layers: int
    pp: int
    vpp: int
    first: int | None
    last: int | None
    embedding: bool
    loss: bool
    layout: str | None


class LayoutEntry(TypedDict):
    """Every field of a Packing; a plan's micro-batches are in the form that --plan takes."""

    framework: str
    tp: int
    cp: int
    pad_multiplier: int | None
    fp8: str | None
    sample_multiple: int | None
    min_local_rows: int | None
    bucket: int | None
    form: str
    seq_len: int | None
    dp: int
    pipeline: PipelineEntry | None
    plan: dict[str, list[Any]] | None
    lens: list[int]


class PackedTensors(TypedDict):
    """What the replay tensors hold."""

    dtype: str
    padding: str
    ep: int
    num_experts: int
    top_k: int
    layers: list[int]


class PackedLayer(TypedDict):
    """A MoE layer, and its place among all MoE layers."""

    layer: int
    ordinal: int


class PackedFile(TypedDict):
    """A rank's file of one micro-batch."""

    path: str
    micro_batch: int
    dp: int
    cp: int
    tp: int
    pp: int
    rows: int
    bytes: int
    sha256: str


class SkippedSample(TypedDict):
    """A damaged sample that was left out, by its place in the dump, and why."""

    sample: int
    sample_id: str | None
    why: str


class LayoutSourceEntry(TypedDict):
    """A file that the layout was read from: of each key, what the file calls it."""

    path: str
    trainer: str | None
    keys: dict[str, str]
    unread: list[str]


class PackDocument(TypedDict):
    """The manifest."""

    schema: NotRequired[Literal["routectl.pack/1"]]
    routectl: str
    source: PackSource
    layout: LayoutEntry
    tensors: PackedTensors
    stages: list[list[list[PackedLayer]]]
    only: dict[str, int]
    allow_missing: NotRequired[bool]
    skipped: NotRequired[list[SkippedSample]]
    warnings: NotRequired[list[str]]
    layout_from: NotRequired[list[LayoutSourceEntry]]
    rows: int
    padding_rows: int
    bytes: int
    extents: list[list[int] | None]
    files: list[PackedFile]


class WrongRowEntry(TypedDict):
    """A row with other experts than the dump's; sample is its place there, sample_id its name."""

    file: str
    layer: int
    row: int
    sample: int
    sample_id: NotRequired[str | None]
    position: int
    got: list[int]
    expected: list[int]


class WrongLayerEntry(TypedDict):
    """A layer of a file with wrong rows.

    shift explains them, where one does: rows hold the route of the token so many positions later.
    holds is the layer whose routes they are, where most rows are wrong and all that were looked at
    are its. filled is what all wrong rows hold, where that is one and the same. renamed is how many
    experts have another id, one for one, where slots have; renamed_by by how much, where it is as
    much for all.
    """

    file: str
    layer: int
    rows: int
    rows_wrong: int
    rows_shifted: int
    shift: int | None
    holds: int | None
    filled: NotRequired[list[int] | None]
    renamed: NotRequired[int | None]
    renamed_by: NotRequired[int | None]


class SuspectEntry(TypedDict):
    """A layout that the tensors match."""

    frameworks: list[str]
    form: str
    shift: int
    layer_shift: int
    rate: float
    options: dict[str, int | str | None]


class SuspectPlace(TypedDict):
    """Where other layouts were tried."""

    micro_batch: int
    pp: int
    layer: int


class MoveEntry(TypedDict):
    """Files that hold the rows of another rank or micro-batch: which part of their place, whose."""

    place: dict[str, int]
    holds: dict[str, int]
    files: int


class NamedEntry(TypedDict):
    """Ranks and micro-batches that files are named by: one more than the greatest of each."""

    dp: int
    cp: int
    tp: int
    pp: int
    micro_batches: int


class DeclaredEntry(TypedDict):
    """The layout that files were held against.

    assumed are of framework, tp, cp, pp, dp and max-tokens-per-gpu (whatever says micro-batches)
    those that nobody gave; none where a manifest says the layout.
    """

    framework: str
    form: str
    dp: int
    cp: int
    tp: int
    pp: int
    vpp: int
    micro_batches: int
    from_manifest: bool
    assumed: list[str]
    named: NamedEntry


class VerifyVerdict(TypedDict):
    """0 where all is right, 1 where something is wrong."""

    exit_code: int


class VerifyDocument(TypedDict):
    """routectl.verify/1."""

    schema: Literal["routectl.verify/1"]
    ok: bool
    folder: str
    dump: str
    files: int
    absent_files: list[str]
    misfits: list[str]
    extra_files: list[str]
    faults: list[str]
    unusable_files: NotRequired[int]
    changed_files: list[str]
    rows: int
    rows_wrong: int
    rows_reordered: int
    routes: int | None
    routes_absent: int | None
    routes_repeated: int | None
    rows_masked: int
    rows_unmasked: int
    rows_missing: int
    rows_made_up: int
    padding_rows: dict[str, int]
    ep: int
    ep_imbalance: float | None
    ep_imbalance_padding: float | None
    wrong: list[WrongLayerEntry]
    examples: list[WrongRowEntry]
    moves: list[MoveEntry]
    suspects: list[SuspectEntry]
    suspects_of: SuspectPlace | None
    layout: NotRequired[DeclaredEntry | None]
    hint: NotRequired[str | None]
    verdict: VerifyVerdict
    part: NotRequired[PartEntry]
