"""The keywords of each verb: the options of its command, under the names of its request's fields.

Made by fixtures/make.py of the requests. What a list, a mapping or a dump stands for:
``asking.request_of``.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypedDict

from ..progress import Progress
from .asking import Model, Source

__all__ = [
    "CheckKeywords",
    "ConvertKeywords",
    "DiffKeywords",
    "LayoutKeywords",
    "PackKeywords",
    "RecomputeKeywords",
    "ShowKeywords",
    "StalenessKeywords",
    "UnpackKeywords",
    "VerifyKeywords",
]

AnyPath = str | PathLike[str]
Texts = str | Sequence[str] | Mapping[str, object]


class CheckKeywords(TypedDict, total=False):
    """Of ``check``."""

    jobs: int | None
    ray: str | None
    shard: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    fail_on: str
    select: Texts
    ignore: Texts
    ep: int
    candidates: Texts
    eps: float | None
    forward: Texts
    save: AnyPath | None
    force: bool
    progress: Progress


class ConvertKeywords(TypedDict, total=False):
    """Of ``convert``."""

    jobs: int | None
    ray: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: Source | None
    to: str | None
    missing: str | None
    lossy: bool
    codec: str
    dictionary: str | None
    keep_order: bool
    verify: bool
    no_tokens: bool
    force: bool
    progress: Progress


class DiffKeywords(TypedDict, total=False):
    """Of ``diff``."""

    jobs: int | None
    ray: str | None
    shard: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    match: str
    tokens: str
    layers: str | Sequence[int] | None
    sample: Texts
    positions: str | range | None
    rerun: Source | None
    examples: int
    fail_over: Texts
    fail_under: Texts
    allow_unmatched: bool
    eps: float | None
    forward: Texts
    logprobs: AnyPath | None
    detail: bool
    progress: Progress


class LayoutKeywords(TypedDict, total=False):
    """Of ``layout``."""

    framework: str | None
    tp: int | None
    cp: int | None
    pp: int | None
    vpp: int | None
    ep: int | None
    dp: int | None
    max_tokens_per_gpu: int | None
    balance: str | None
    plan: AnyPath | None
    layout: Texts
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    skip_damaged: bool
    rank: str | None
    micro_batch_size: int | None
    form: str | None
    seq_len: int | None
    pad_multiplier: int | None
    sample_multiple: int | None
    min_local_rows: int | None
    bucket: int | None
    fp8: str | None
    decoder_layers: int | None
    first_stage_layers: int | None
    last_stage_layers: int | None
    account_embedding: bool | None
    account_loss: bool | None
    pipeline_layout: str | None
    moe_layer_freq: str | Sequence[int] | None
    rows: str | None
    context: int | None
    pack_max_length: int | None
    progress: Progress


class PackKeywords(TypedDict, total=False):
    """Of ``pack``."""

    framework: str | None
    tp: int | None
    cp: int | None
    pp: int | None
    vpp: int | None
    ep: int | None
    dp: int | None
    max_tokens_per_gpu: int | None
    balance: str | None
    plan: AnyPath | None
    layout: Texts
    jobs: int | None
    ray: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    padding: str | None
    dtype: str | None
    allow_missing: bool
    skip_damaged: bool
    rank: str | None
    no_tokens: bool
    force: bool
    micro_batch_size: int | None
    form: str | None
    seq_len: int | None
    pad_multiplier: int | None
    sample_multiple: int | None
    min_local_rows: int | None
    bucket: int | None
    fp8: str | None
    decoder_layers: int | None
    first_stage_layers: int | None
    last_stage_layers: int | None
    account_embedding: bool | None
    account_loss: bool | None
    pipeline_layout: str | None
    moe_layer_freq: str | Sequence[int] | None
    rows: str | None
    context: int | None
    pack_max_length: int | None
    progress: Progress


class RecomputeKeywords(TypedDict, total=False):
    """Of ``recompute``."""

    mode: str
    device: str
    dtype: str
    streaming: str
    threads: int | None
    attention: str | None
    experts: str | None
    max_tokens_per_pass: int | None
    logprobs: bool | None
    gate_logprobs: bool | None
    jobs: int | None
    ray: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    router_inputs: AnyPath | None
    noise_floor: bool
    resume: bool
    fail_over: Texts
    fail_under: Texts
    no_tokens: bool
    force: bool
    detail: bool
    progress: Progress


class ShowKeywords(TypedDict, total=False):
    """Of ``show``."""

    jobs: int | None
    ray: str | None
    shard: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    progress: Progress


class StalenessKeywords(TypedDict, total=False):
    """Of ``staleness``."""

    jobs: int | None
    ray: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    version_map: Texts
    mini_steps: int | None
    fail_over: Texts
    fail_under: Texts
    allow_unmatched: bool
    fail_on: str | None
    noise_floor: bool
    forward: Texts
    method: Texts
    tokens: str
    layers: str | Sequence[int] | None
    match: str
    eps: float | None
    detail: bool
    progress: Progress


class UnpackKeywords(TypedDict, total=False):
    """Of ``unpack``."""

    jobs: int | None
    ray: str | None
    no_tokens: bool
    force: bool
    progress: Progress


class VerifyKeywords(TypedDict, total=False):
    """Of ``verify``."""

    jobs: int | None
    ray: str | None
    shard: str | None
    model: Model | None
    expert_map: AnyPath | None
    start: int | None
    format: str | None
    base: str | None
    layout: Texts
    dtype: str | None
    allow_missing: bool
    skip_damaged: bool
    rank: str | None
    force: bool
    framework: str | None
    tp: int | None
    cp: int | None
    pp: int | None
    vpp: int | None
    ep: int | None
    dp: int | None
    max_tokens_per_gpu: int | None
    micro_batch_size: int | None
    balance: str | None
    plan: AnyPath | None
    form: str | None
    seq_len: int | None
    pad_multiplier: int | None
    sample_multiple: int | None
    min_local_rows: int | None
    bucket: int | None
    fp8: str | None
    decoder_layers: int | None
    first_stage_layers: int | None
    last_stage_layers: int | None
    account_embedding: bool | None
    account_loss: bool | None
    pipeline_layout: str | None
    moe_layer_freq: str | Sequence[int] | None
    rows: str | None
    context: int | None
    pack_max_length: int | None
    progress: Progress
