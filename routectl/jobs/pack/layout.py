"""The options of ``routectl pack`` made into a Packing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError, RoutectlError
from ..options import check_bounds, option

if TYPE_CHECKING:
    from ...dump import Dump
    from ...layouts.packing import Packing
    from ...layouts.pipeline import Pipeline
    from ...layouts.plan import Plan

__all__ = [
    "LayoutOptions",
    "LengthOptions",
    "layers_of",
    "lens_of",
    "packing_of",
    "parse_lens",
    "parse_ranks",
    "renumber",
]

_RANKS = ("dp", "cp", "tp", "pp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """How samples are laid out over ranks, by the names of the flags."""

    framework: str = option(
        "verl",
        metavar="NAME",
        help="verl, slime, miles, skyrl, nemo-rl, prime-rl, ms-swift, roll, megatron, relax "
        "or another of docs/layouts.md.",
    )
    tp: int = option(1, least=1, help="Tensor (and sequence) parallel size.")
    cp: int = option(1, least=1, help="Context parallel size.")
    pp: int = option(1, least=1, help="Pipeline parallel size.")
    vpp: int = option(1, least=1, help="Virtual chunks of each pipeline stage.")
    ep: int = option(1, least=1, help="Expert parallel size: for --padding spread, and for loads.")
    dp: int = option(1, least=1, help="Data parallel size.")
    max_tokens_per_gpu: int | None = option(
        None,
        least=1,
        help="Tokens of a micro-batch, divided by cp; everything in one when not given.",
    )
    balance: str = option(
        "first-fit",
        metavar="HOW",
        help="first-fit fills micro-batches, karmarkar-karp evens them out.",
    )
    plan: Path | None = option(
        None,
        metavar="PLAN.json",
        help="Which samples form which micro-batch; slime's train data (.pt), too.",
    )
    form: str = option(
        "thd", metavar="FORM", help="thd, bshd (S-major, as Megatron flattens) or bshd-b-major."
    )
    seq_len: int | None = option(
        None, least=1, help="S of BSHD; the longest sample, rounded up, when not given."
    )
    pad_multiplier: int | None = option(
        None, least=1, help="data_pad_size_multiplier of slime, miles, Relax: 128."
    )
    sample_multiple: int | None = option(
        None, least=1, help="Pad each sample to a multiple of this."
    )
    min_local_rows: int | None = option(
        None, least=1, help="Pad until each CP rank has so many rows."
    )
    bucket: int | None = option(None, least=1, help="Pad each micro-batch to a multiple of this.")
    fp8: str | None = option(
        None, metavar="RECIPE", help="Pad for fp8: blockwise, mxfp8 or tensorwise."
    )
    decoder_layers: int | None = option(
        None,
        least=1,
        help="Layers of the model, dense ones too. --model tells; else the dump's last layer + 1.",
    )
    first_stage: int | None = option(
        None, least=0, name="first-stage-layers", help="Layers of the first pipeline stage."
    )
    last_stage: int | None = option(
        None, least=0, name="last-stage-layers", help="Layers of the last pipeline stage."
    )
    account_embedding: bool = option(
        False, help="The embedding counts as a layer of the first stage."
    )
    account_loss: bool = option(False, help="The loss counts as a layer of the last stage.")
    pipeline_layout: str | None = option(
        None, metavar="LAYOUT", help="pipeline_model_parallel_layout, such as 'Et*3|(tt|)*2,L'."
    )
    moe_layer_freq: str | None = option(
        None,
        metavar="FREQ",
        help="N, or 0,1,1: which layers are MoE. A dump of MoE layers only is numbered by it.",
    )

    def __post_init__(self) -> None:
        from ...layouts.packing import FRAMEWORKS

        if self.framework not in FRAMEWORKS:
            known = ", ".join(FRAMEWORKS)
            raise RoutectlError(f"framework {self.framework!r} is not known: {known}")
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthOptions:
    """How long samples are where the dump does not say it, and how long they may be, in tokens."""

    rows: str | None = option(
        None,
        metavar="ROWS",
        help="n-1 or n: rows of a sample of n tokens, where the dump does not tell n.",
    )
    context: int | None = option(None, least=1, help="Refuse samples of more tokens than this.")

    def __post_init__(self) -> None:
        check_bounds(self)


def _whole(text: str, what: str) -> int:
    if not text.strip().isdecimal() or len(text) > 12:
        raise RoutectlError(f"{what}: got {text!r}, expected a number")
    return int(text)


def parse_lens(text: str) -> list[int]:
    """Sample lengths out of "9,17"."""
    return [_whole(part, f"--lens {text}") for part in text.split(",")]


def parse_ranks(text: str | None) -> dict[str, int]:
    """A rank out of "cp=1,tp=0"; a dimension that is not named stands for all of its ranks."""
    ranks: dict[str, int] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.strip().partition("=")
        if name not in _RANKS or not equals or name in ranks:
            raise RoutectlError(f"--rank {text}: got {part!r}, expected some of dp, cp, tp, pp = n")
        ranks[name] = _whole(value, f"--rank {text}")
    return ranks


def _freq(text: str) -> int | list[int]:
    try:
        value = json.loads(text if "," not in text or "[" in text else f"[{text}]")
    except ValueError:
        value = None
    if type(value) is int:
        return value
    if isinstance(value, list) and all(type(n) is int for n in value):
        return value
    raise RoutectlError(f"--moe-layer-freq {text}: expected a number, or a list such as 0,1,1")


def layers_of(options: LayoutOptions, model: object, dump: "Dump") -> int:
    """Decoder layers: as given, as the config or a list of MoE layers says, or the last + 1."""
    if options.decoder_layers is not None:
        return options.decoder_layers
    if isinstance(model, Path):
        from ...formats.documents.facts import read_model

        return read_model(model).num_layers
    freq = None if options.moe_layer_freq is None else _freq(options.moe_layer_freq)
    return len(freq) if isinstance(freq, list) else dump.meta.layers_L[-1] + 1


def renumber(dump: "Dump", options: LayoutOptions, num_layers: int) -> "Dump":
    """The dump with its layers as --moe-layer-freq says; MoE ordinals become layers.

    Raises MismatchError when the dump has other MoE layers.
    """
    if options.moe_layer_freq is None:
        return dump
    from ...layouts.pipeline import moe_layers

    try:
        named = moe_layers(num_layers, _freq(options.moe_layer_freq))
    except ValueError as error:
        raise MismatchError(f"--moe-layer-freq {options.moe_layer_freq}: {error}") from None
    held = dump.meta.layers_L
    if held == named:
        return dump
    if held == tuple(range(len(named))):
        return dump.renumbered(named)
    raise MismatchError(
        f"{dump.meta.path}: has {len(held)} MoE layers (the last is {held[-1]}), --moe-layer-freq "
        f"names {len(named)} of {num_layers}"
    )


def lens_of(dump: "Dump", options: LengthOptions) -> list[int]:
    """Tokens of each sample. Reads one layer of a native file, all of any other.

    Raises MismatchError when a sample's length is not known, or beyond --context.
    """
    rows = options.rows
    if rows not in (None, "n-1", "n"):
        raise RoutectlError(f"--rows {rows}: expected n-1 or n")
    lens = []
    for i, sample in enumerate(dump.select(layers=dump.meta.layers_L[:1])):
        tokens = sample.num_tokens
        if tokens is None and sample.routes is not None and rows is not None:
            tokens = sample.routes.stop + (rows == "n-1")
        if tokens is None:
            raise MismatchError(
                f"{dump.meta.path}: sample {i}: the dump does not say how many tokens it has",
                hint="--rows n-1 when its rows are all tokens but the last, --rows n when all",
            )
        if options.context is not None and tokens > options.context:
            raise MismatchError(
                f"{dump.meta.path}: sample {i} has {tokens} tokens, --context is {options.context}"
            )
        lens.append(tokens)
    if not lens:
        raise MismatchError(f"{dump.meta.path}: no samples: nothing to pack")
    return lens


def _plan(options: LayoutOptions, lens: list[int], ids: list[str | None]) -> "Plan | None":
    from ...layouts.plan import BALANCES, build_plan

    if options.balance not in BALANCES:
        raise RoutectlError(f"balance {options.balance!r} is not known: {', '.join(BALANCES)}")
    if options.plan is not None:
        from ...formats.replay.plans import read_plan

        if options.max_tokens_per_gpu is not None or options.dp > 1:
            raise RoutectlError(
                "--plan already says dp and micro-batches: drop --dp and --max-tokens-per-gpu"
            )
        return read_plan(options.plan, options.cp, ids, lens)
    if options.dp == 1 and options.max_tokens_per_gpu is None:
        return None

    return build_plan(
        lens,
        options.dp,
        max_tokens_per_gpu=options.max_tokens_per_gpu,
        cp=options.cp,
        balance=options.balance,
    )


def _pipeline(options: LayoutOptions, num_layers: int) -> "Pipeline | None":
    """The pipeline cut, None for one stage of one chunk."""
    from ...layouts.pipeline import Pipeline

    if (options.pp, options.vpp) == (1, 1) and options.pipeline_layout is None:
        return None
    return Pipeline(
        num_layers,
        options.pp,
        options.vpp,
        options.first_stage,
        options.last_stage,
        options.account_embedding,
        options.account_loss,
        options.pipeline_layout,
    )


def packing_of(
    options: LayoutOptions, lens: list[int], ids: list[str | None], num_layers: int
) -> "Packing":
    """The Packing that the options describe. Raises RoutectlError where they do not fit."""
    from ...layouts.packing import Packing

    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            "framework",
            "tp",
            "cp",
            "pad_multiplier",
            "fp8",
            "sample_multiple",
            "min_local_rows",
            "bucket",
            "form",
            "seq_len",
        )
    }
    try:
        pipeline = _pipeline(options, num_layers)
        packing = Packing(lens, **given, plan=_plan(options, lens, ids), pipeline=pipeline)
        for m in range(packing.num_micro_batches):
            for g in range(packing.dp * packing.cp):
                packing.share(m, *divmod(g, packing.cp))
    except ValueError as error:
        raise MismatchError(str(error)) from None
    return packing
