"""The types of routectl.show/1 and routectl.checkpoint/1, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

from ..diff.schema import DetailDocument
from ..document import AskedEntry, DumpEntry, PartEntry

__all__ = [
    "CheckpointDocument",
    "DamagedEntry",
    "DtypeBytes",
    "LayerBytes",
    "LayerLoads",
    "LayerSummary",
    "LayerViolations",
    "LayerWeights",
    "LoadSide",
    "LoadsDocument",
    "LoadsVerdict",
    "OutlineDocument",
    "RouterDtypes",
    "RouterEntry",
    "ShowDocument",
    "ShowExtras",
]


class LayerViolations(TypedDict):
    """How far experts are from the even share: the busiest, the idlest, all on average."""

    max_vio: float | None
    min_vio: float | None
    avg_vio: float | None


class LayerSummary(LayerViolations):
    """The rows of a layer, how its experts are loaded, and how far they follow the tokens.

    lift is in bits an id: how much better a row's ids are known by its token than by the layer's
    own frequencies. None where there are too few tokens to tell.
    """

    layer: int
    rows: int
    rows_missing: int
    entropy: float | None
    dead_experts: int
    lift: float | None


class DamagedEntry(TypedDict):
    """Samples that their reader refused: how many, and of the first its name and the reason."""

    samples: int
    sample: str
    reason: str


class ShowExtras(TypedDict, total=False):
    """What is there where the dump has margins, of a part (--shard), and of asked loads."""

    part: PartEntry
    rows_with_margin: int
    ties: int
    detail: DetailDocument


class ShowDocument(ShowExtras):
    """routectl.show/1."""

    schema: Literal["routectl.show/1"]
    dump: DumpEntry
    samples: int
    damaged: DamagedEntry | None
    samples_without_routes: int
    samples_with_logprobs: int
    samples_with_cached_tokens: int
    samples_retracted: int
    samples_of_unknown_length: int
    prompt_tokens: int
    response_tokens: int
    cached_tokens: int | None
    tokens_with_routes: int
    rows: int
    rows_missing: int
    id_bytes_per_token: int
    file_bytes_per_token: float | None
    starts: dict[str, int]
    row_counts: dict[str, int]
    samples_merged: int
    segments: int
    segment_rows_differing: int
    weight_versions: dict[str, int]
    finish_reasons: dict[str, int]
    layers: list[LayerSummary]


class OutlineDocument(TypedDict):
    """routectl.outline/1: what is told of a dump whose model is not known, in place of show/1.

    layers_written and ids_per_row are None where the payload has no axes: ids_per_token is then
    their product; where payloads have several shapes, or none can be read so, it is None too.
    """

    schema: Literal["routectl.outline/1"]
    path: str
    format: str
    engine: str | None
    engine_version: str | None
    samples: int
    samples_with_routes: int
    samples_with_token_ids: int
    samples_with_logprobs: int
    samples_of_unknown_length: int
    prompt_tokens: int
    response_tokens: int
    weight_versions: dict[str, int]
    tokens_with_routes: int
    ids_per_token: int | None
    layers_written: int | None
    ids_per_row: int | None
    greatest_id: int | None
    wire_dtype: str | None
    file_bytes: int | None
    refused: int
    reason: str | None
    skipped: list[str]
    unknown: list[str]
    hint: str


class LoadSide(TypedDict):
    """Where a load is from: counts of SGLang's recorder, in a mode of its, or a dump's routes.

    taken counts ids: tokens x K of each layer. expert_map says by which map physical ids were
    counted as logical ones.
    """

    name: str
    path: str
    of: Literal["counts", "routes"]
    mode: str | None
    forward_passes: int | None
    model: str | None
    expert_map: str | None
    layers: list[int]
    num_experts: int
    taken: int


class LayerLoads(TypedDict):
    """The load of a layer, a value a side: ids, measures, and how often each expert was taken."""

    layer: int
    taken: list[int]
    max_vio: list[float | None]
    entropy: list[float | None]
    dead_experts: list[int]
    load_shift: float | None
    load: list[list[int]]


class LoadsVerdict(TypedDict):
    """1 where two loads differ, else 0."""

    exit_code: int


class LoadsDocument(TypedDict):
    """routectl.loads/1: expert loads of one side, or of two, where one has no routes."""

    schema: Literal["routectl.loads/1"]
    note: str
    sides: list[LoadSide]
    max_load_shift: float | None
    layers: list[LayerLoads]
    verdict: LoadsVerdict
    asked: NotRequired[AskedEntry]


class RouterEntry(TypedDict):
    """The routers of a checkpoint: their shape, dtypes and bytes."""

    shape: list[int]
    dtypes: list[str]
    linear_bias: bool
    expert_bias_dtypes: list[str]
    extras: list[str]
    bytes: int


class DtypeBytes(TypedDict):
    """Tensors of a dtype, and their bytes."""

    dtype: str
    tensors: int
    bytes: int


class LayerBytes(TypedDict):
    """A decoder layer and the bytes of its tensors."""

    layer: int
    bytes: int


class LayerWeights(LayerBytes):
    """The same, whether it is a MoE layer, and its bytes by dtype."""

    moe: bool
    dtypes: NotRequired[dict[str, int]]


class RouterDtypes(TypedDict):
    """The router of a MoE layer: the dtypes of its weight and, where it has one, of its bias."""

    layer: int
    dtype: str
    expert_bias_dtype: str | None


class CheckpointDocument(TypedDict):
    """routectl.checkpoint/1; bytes are as stored."""

    schema: Literal["routectl.checkpoint/1"]
    path: str
    format: str
    iteration: int | None
    model: str | None
    num_layers: int | None
    layers: list[int]
    num_experts: int
    top_k: int | None
    recipe: str | None
    router: RouterEntry
    files: int
    file_bytes: int
    tensors: int
    tensor_bytes: int
    unindexed: list[str]
    refused: str | None
    dtypes: list[DtypeBytes]
    largest_layer: LayerBytes | None
    streamed_bytes: int | None
    other_bytes: int | None
    layer_bytes: list[LayerWeights]
    layer_routers: NotRequired[list[RouterDtypes]]
