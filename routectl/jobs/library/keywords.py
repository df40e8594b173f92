"""The keywords of each verb: the options of its command, under the names of its request's fields.

A test holds them against the requests, so that none is forgotten. Where the request has text for
a list, a list will do: see ``asking.request_of``.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from ...model import ModelFacts
from ...ops.pack.padding import TensorSpec
from ..progress import Progress

__all__ = [
    "CheckKeywords",
    "ConvertKeywords",
    "DiffKeywords",
    "LayoutKeywords",
    "OpenKeywords",
    "PackKeywords",
    "RecomputeKeywords",
    "StalenessKeywords",
    "TensorKeywords",
    "VerifyKeywords",
    "WriteKeywords",
]

Texts = str | Sequence[str]
AnyPath = str | PathLike[str]


class OpenKeywords(TypedDict, total=False):
    """How dumps are opened, and who listens."""

    model: str | Path | ModelFacts | None
    progress: Progress


class DiffKeywords(OpenKeywords, total=False):
    """Of ``diff``."""

    match: str
    tokens: str
    layers: str | Sequence[int] | None
    sample: Texts
    positions: str | range | None
    rerun: AnyPath | None
    examples: int
    fail_over: Texts
    fail_under: Texts
    allow_unmatched: bool
    eps: float | None
    logprobs: AnyPath | None
    detail: bool


class CheckKeywords(OpenKeywords, total=False):
    """Of ``check``."""

    fail_on: str
    select: Texts
    ignore: Texts
    ep: int
    eps: float | None


class StalenessKeywords(OpenKeywords, total=False):
    """Of ``staleness``."""

    version_map: Texts
    mini_steps: int | None
    fail_over: Texts
    fail_under: Texts
    allow_unmatched: bool
    fail_on: str | None
    noise_floor: bool
    tokens: str
    layers: str | Sequence[int] | None
    match: str
    eps: float | None
    detail: bool


class WriteKeywords(TypedDict, total=False):
    """Of whatever writes a file."""

    force: bool
    progress: Progress


class ConvertKeywords(WriteKeywords, total=False):
    """Of ``convert`` and ``write``."""

    model: str | Path | ModelFacts | None
    to: str | None
    missing: str | None
    lossy: bool
    codec: str
    keep_order: bool
    verify: bool
    no_tokens: bool
    tokens_from: AnyPath | None


class RecomputeKeywords(WriteKeywords, total=False):
    """Of ``recompute``."""

    model: str | Path | ModelFacts | None
    mode: str
    device: str
    dtype: str
    streaming: str
    max_tokens_per_pass: int | None
    attention: str | None
    experts: str | None
    logprobs: bool
    gate_logprobs: bool
    router_inputs: AnyPath | None
    threads: int | None
    noise_floor: bool
    resume: bool
    no_tokens: bool


class LayoutKeywords(OpenKeywords, total=False):
    """Of ``layout``: how samples are laid out over ranks."""

    framework: str
    tp: int
    cp: int
    pp: int
    vpp: int
    ep: int
    dp: int
    max_tokens_per_gpu: int | None
    balance: str
    plan: AnyPath | None
    form: str
    seq_len: int | None
    pad_multiplier: int | None
    sample_multiple: int | None
    min_local_rows: int | None
    bucket: int | None
    fp8: str | None
    decoder_layers: int | None
    first_stage: int | None
    last_stage: int | None
    account_embedding: bool
    account_loss: bool
    pipeline_layout: str | None
    moe_layer_freq: str | int | Sequence[int] | None
    rows: str | None
    context: int | None
    skip_damaged: bool


class VerifyKeywords(LayoutKeywords, total=False):
    """Of ``verify``; the layout only where the folder has no manifest."""

    dtype: str | None
    allow_missing: bool
    rank: str | None


class PackKeywords(VerifyKeywords, total=False):
    """Of ``pack`` with ``save``: a folder of replay tensors is written."""

    padding: str | None
    force: bool


class TensorKeywords(OpenKeywords, total=False):
    """Of ``pack`` with a Packing: tensors in memory."""

    spec: TensorSpec
    out: Any
    threads: int
