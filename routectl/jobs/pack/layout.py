"""What a user says of a layout, as a Packing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MismatchError, RoutectlError, did_you_mean
from ...layouts.plan import BALANCES
from ...layouts.rules import FRAMEWORKS
from ...reports.text.wording import layers_text
from ..options import check_bounds, option
from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ...dump import Dump
    from ...layouts.packing import Packing
    from ...layouts.pipeline import Pipeline
    from ...layouts.plan import Plan

__all__ = [
    "Layout",
    "LayoutOptions",
    "Lengths",
    "layers_of",
    "packing_of",
    "parse_lens",
    "parse_ranks",
    "renumber",
    "settings_option",
    "why_refused",
]

_RANKS = ("dp", "cp", "tp", "pp")
_MAX_RANKS = 1 << 20
_MAX_LAYERS = 4096  # that a moe_layer_freq may say one by one


def _keys() -> list[str]:
    """What completion offers beside files: every key of a layout, with what is to come."""
    return [f"{one.name.replace('_', '-')}=" for one in fields(Layout)]


def settings_option(more: str = "") -> Any:
    """--layout of whatever has one; ``more`` ends its help."""
    return option(
        (),
        name="layout",
        metavar="FILE|KEY=VALUE",
        suggests=_keys,
        help="A layout in a file, a trainer's own config, or KEY=VALUE,... of it; repeatable, the "
        f"later wins. docs/layouts.md has the keys.{more}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """How samples are laid out over ranks; None: not said. ``settings`` have every other key.

    A file, or KEY=VALUE pairs, of ``settings`` may say what is a field here; the field wins.
    """

    framework: str | None = option(
        None, metavar="NAME", choices=FRAMEWORKS, help="{choices}; verl when not given."
    )
    tp: int | None = option(None, least=1, help="Tensor (and sequence) parallel size.")
    cp: int | None = option(None, least=1, help="Context parallel size.")
    pp: int | None = option(None, least=1, help="Pipeline parallel size.")
    vpp: int | None = option(None, least=1, help="Virtual chunks of each pipeline stage.")
    ep: int | None = option(
        None, least=1, help="Expert parallel size: for --padding spread, and for loads."
    )
    dp: int | None = option(None, least=1, help="Data parallel size.")
    max_tokens_per_gpu: int | None = option(
        None,
        least=1,
        help="Tokens of a micro-batch, divided by cp; everything in one when not given.",
    )
    balance: str | None = option(
        None,
        metavar="HOW",
        choices=BALANCES,
        help="first-fit fills micro-batches, karmarkar-karp evens out tokens, verl is verl's own.",
    )
    plan: Path | None = option(
        None,
        metavar="PLAN.json",
        help="Which samples form which micro-batch, as we or a trainer have it (docs/replay.md).",
    )
    settings: tuple[str, ...] = settings_option()

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Every key of a layout, its name that of the field with dashes. None: as ``Packing`` has it.

    micro_batch_size   samples of each micro-batch, in order, in place of max_tokens_per_gpu
    decoder_layers     layers of the model, dense too; else of --model, else the dump's last + 1
    moe_layer_freq     N (the first of each N layers; areal: the last), or 0,1,1: which are MoE. A
                       dump of MoE layers only is numbered by it
    rows               n-1 or n: rows of a sample of n tokens, where the dump does not tell n
    context            samples of more tokens than this are refused
    pack_max_length    of xtuner: what each micro-batch is padded to. ``min_local_rows`` of it
    """

    framework: str = "verl"
    tp: int = 1
    cp: int = 1
    pp: int = 1
    vpp: int = 1
    ep: int = 1
    dp: int = 1
    max_tokens_per_gpu: int | None = None
    micro_batch_size: int | None = None
    balance: str = "first-fit"
    plan: Path | None = None
    form: str = "thd"
    seq_len: int | None = None
    pad_multiplier: int | None = None
    sample_multiple: int | None = None
    min_local_rows: int | None = None
    bucket: int | None = None
    fp8: str | None = None
    decoder_layers: int | None = None
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None
    account_embedding: bool = False
    account_loss: bool = False
    pipeline_layout: str | None = None
    moe_layer_freq: str | None = None
    rows: str | None = None
    context: int | None = None
    pack_max_length: int | None = None


def _whole(text: str, what: str) -> int:
    if not text.strip().isdecimal() or len(text) > 12:
        raise RoutectlError(f"{what}: got {text!r}, expected a number")
    return int(text)


def parse_lens(text: str) -> list[int]:
    """Sample lengths out of "9,17"."""
    return [_whole(part, f"--lens {text}") for part in text.split(",")]


def parse_ranks(text: str | None, more: tuple[str, ...] = ()) -> dict[str, int]:
    """A rank out of "cp=1,tp=0"; a dimension that is not named stands for all of its ranks.

    ``more`` are dimensions beside dp, cp, tp and pp.
    """
    known = (*more, *_RANKS)
    ranks: dict[str, int] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = part.strip().partition("=")
        if name not in known or not equals or name in ranks:
            expected = ", ".join(known)
            raise RoutectlError(
                f"--rank {text}: got {part!r}, expected some of {expected} = n",
                hint=None if name in known else did_you_mean(name, known),
            )
        ranks[name] = _whole(value, f"--rank {text}")
    return ranks


def _freq(text: str) -> int | list[int]:
    """A number, a list such as 0,1,1, or one as Megatron takes it: [0]*3+[1]*58."""
    written = re.sub(r"[()\s]", "", text)
    if re.fullmatch(r"-?\d{1,9}", written):
        return int(written)
    listed: list[int] = []
    for part in (written if "[" in written else f"[{written}]").split("+"):
        found = re.fullmatch(r"\[(\d{1,9}(?:,\d{1,9})*)\](?:\*(\d{1,4}))?", part)
        if found is not None:
            listed += [int(n) for n in found[1].split(",")] * int(found[2] or 1)
        if found is None or len(listed) > _MAX_LAYERS:
            raise RoutectlError(
                f"moe-layer-freq {text:.60}: expected a number, or a list such as 0,1,1 or "
                "[0]*3+[1]*58"
            )
    return listed


def layers_of(options: Layout, model: object, dump: "Dump") -> int:
    """Decoder layers: as given, as the config or a list of MoE layers says, or the last + 1."""
    if options.decoder_layers is not None:
        return options.decoder_layers
    if isinstance(model, Path):
        from ...formats.documents.facts import read_model

        return read_model(model).num_layers
    freq = None if options.moe_layer_freq is None else _freq(options.moe_layer_freq)
    return len(freq) if isinstance(freq, list) else dump.meta.layers_L[-1] + 1


def renumber(dump: "Dump", options: Layout, num_layers: int, progress: Progress) -> "Dump":
    """The dump with its layers as moe_layer_freq says; MoE ordinals become layers.

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
        raise MismatchError(f"moe-layer-freq {options.moe_layer_freq}: {error}") from None
    held = dump.meta.layers_L
    took = "" if named == other else f"of each {freq} layers the {'last' if last else 'first'}"
    if held not in (named, tuple(range(len(named)))):
        raise MismatchError(
            f"{dump.meta.path}: has {len(held)} MoE layers (the last is {held[-1]}), "
            f"moe-layer-freq names {len(named)} of {num_layers}"
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


def _plan(options: Layout, sizes: Lengths) -> "Plan | None":
    from ...layouts.plan import build_plan, verl_plan
    from ...layouts.rules import rule_of

    if options.plan is not None:
        from ...formats.replay.plans import read_plan

        if options.dp > 1 or (options.max_tokens_per_gpu, options.micro_batch_size) != (None, None):
            raise RoutectlError(
                "--plan already says dp and micro-batches: drop dp, max-tokens-per-gpu and "
                "micro-batch-size"
            )
        plan = read_plan(options.plan, options.cp, sizes.ids, sizes.all_lens)
        return plan.without([i for i, tokens in enumerate(sizes.all_lens) if not tokens])
    if (options.dp, options.max_tokens_per_gpu, options.micro_batch_size) == (1, None, None):
        return None
    fed = [tokens - rule_of(options.framework).unfed for tokens in sizes.lens]
    if options.balance == "verl" and options.vpp > 1 and options.max_tokens_per_gpu is not None:
        return verl_plan(fed, options.dp, options.max_tokens_per_gpu * options.cp, options.pp)
    return build_plan(
        fed,
        options.dp,
        max_tokens_per_gpu=options.max_tokens_per_gpu,
        cp=options.cp,
        balance=options.balance,
        micro_batch_size=options.micro_batch_size,
    )


def _pipeline(options: Layout, num_layers: int) -> "Pipeline | None":
    """The pipeline cut, None for one stage of one chunk."""
    from ...layouts.pipeline import Pipeline

    if (options.pp, options.vpp) == (1, 1) and options.pipeline_layout is None:
        return None
    return Pipeline(
        num_layers,
        options.pp,
        options.vpp,
        options.first_stage_layers,
        options.last_stage_layers,
        options.account_embedding,
        options.account_loss,
        options.pipeline_layout,
    )


def _rows_of_pack(options: Layout) -> int:
    """Rows of each rank where xtuner pads a micro-batch to pack_max_length."""
    if options.framework != "xtuner":
        raise MismatchError(f"{options.framework} has no pack-max-length: it is xtuner's")
    if options.min_local_rows is not None:
        raise MismatchError("pack-max-length and min-local-rows cannot both be given")
    return -(-(options.pack_max_length or 0) // options.cp)


def packing_of(options: Layout, sizes: Lengths, num_layers: int) -> "Packing":
    """The Packing that the options describe. Raises RoutectlError where they do not fit."""
    from ...layouts.packing import Packing

    ranks = options.tp * options.cp * options.pp * options.dp
    if ranks > _MAX_RANKS:
        raise RoutectlError(f"tp x cp x pp x dp = {ranks} ranks: expected at most {_MAX_RANKS}")
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
    if options.pack_max_length is not None:
        given["min_local_rows"] = _rows_of_pack(options)
    try:
        pipeline = _pipeline(options, num_layers)
        packing = Packing(sizes.lens, **given, plan=_plan(options, sizes), pipeline=pipeline)
        for m in range(packing.num_micro_batches):
            for g in range(packing.dp * packing.cp):
                packing.share(m, *divmod(g, packing.cp))
    except ValueError as error:
        raise MismatchError(str(error)) from None
    return packing


def why_refused(
    layout: Layout, sizes: Lengths, dump: "Dump", num_layers: int, keys: Mapping[str, Any]
) -> str | None:
    """Why a layout would be refused with some keys in place of its own; None where it would not."""
    try:
        given = replace(layout, **keys)
        renumber(dump, given, num_layers, SILENT)
        packing_of(given, sizes, num_layers)
    except RoutectlError as error:
        return str(error)
    return None
