"""The options of ``routectl pack`` made into a Packing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError, RoutectlError
from ...reports.text.wording import layers_text
from ..options import check_bounds, option
from ..progress import Progress

if TYPE_CHECKING:
    from ...dump import Dump
    from ...layouts.packing import Packing
    from ...layouts.pipeline import Pipeline
    from ...layouts.plan import Plan

__all__ = [
    "LayoutOptions",
    "LengthOptions",
    "Lengths",
    "layers_of",
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
        help="N (the first of each N layers; areal: the last), or 0,1,1: which are MoE. A dump of "
        "MoE layers only is numbered by it.",
    )

    def __post_init__(self) -> None:
        from ...layouts.packing import FRAMEWORKS

        check_bounds(self)
        if self.framework not in FRAMEWORKS:
            known = ", ".join(FRAMEWORKS)
            raise RoutectlError(f"framework {self.framework!r} is not known: {known}")


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


def renumber(dump: "Dump", options: LayoutOptions, num_layers: int, progress: Progress) -> "Dump":
    """The dump with its layers as --moe-layer-freq says; MoE ordinals become layers.

    Which of N layers an integer makes MoE goes by the framework, and is told. Raises MismatchError
    when the dump has other MoE layers.
    """
    if options.moe_layer_freq is None:
        return dump
    from ...layouts.pipeline import moe_layers
    from ...layouts.rules import rule_of

    freq, last = _freq(options.moe_layer_freq), rule_of(options.framework).moe_last
    try:
        named = moe_layers(num_layers, freq, last=last)
        other = moe_layers(num_layers, freq, last=not last)
    except ValueError as error:
        raise MismatchError(f"--moe-layer-freq {options.moe_layer_freq}: {error}") from None
    held = dump.meta.layers_L
    took = "" if named == other else f"of each {freq} layers the {'last' if last else 'first'}"
    if held not in (named, tuple(range(len(named)))):
        raise MismatchError(
            f"{dump.meta.path}: has {len(held)} MoE layers (the last is {held[-1]}), "
            f"--moe-layer-freq names {len(named)} of {num_layers}"
            + (f": {took}, as {options.framework} has it" if took else "")
        )
    if took:
        progress.note(f"{options.framework}: {took} is MoE: {layers_text(named)}")
    return dump if held == named else dump.renumbered(named)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the samples that are packed; ids and tokens of all in the dump, 0 if left out."""

    lens: list[int]
    ids: list[str | None]
    all_lens: list[int]


def _plan(options: LayoutOptions, sizes: Lengths) -> "Plan | None":
    from ...layouts.plan import BALANCES, build_plan

    if options.balance not in BALANCES:
        raise RoutectlError(f"balance {options.balance!r} is not known: {', '.join(BALANCES)}")
    if options.plan is not None:
        from ...formats.replay.plans import read_plan

        if options.max_tokens_per_gpu is not None or options.dp > 1:
            raise RoutectlError(
                "--plan already says dp and micro-batches: drop --dp and --max-tokens-per-gpu"
            )
        plan = read_plan(options.plan, options.cp, sizes.ids, sizes.all_lens)
        return plan.without([i for i, tokens in enumerate(sizes.all_lens) if not tokens])
    if options.dp == 1 and options.max_tokens_per_gpu is None:
        return None

    return build_plan(
        sizes.lens,
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


def packing_of(options: LayoutOptions, sizes: Lengths, num_layers: int) -> "Packing":
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
        packing = Packing(sizes.lens, **given, plan=_plan(options, sizes), pipeline=pipeline)
        for m in range(packing.num_micro_batches):
            for g in range(packing.dp * packing.cp):
                packing.share(m, *divmod(g, packing.cp))
    except ValueError as error:
        raise MismatchError(str(error)) from None
    return packing
