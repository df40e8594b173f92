"""How each framework pads and splits a packed micro-batch, and what its replay tensor looks like.

The table is data; docs/layouts.md has it with the sources. A sample is padded to a multiple, then
the stream of all samples to another; CP splits the stream, SP each CP rank's rows.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import unknown

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "DEFAULT_PAD_MULTIPLIER",
    "DTYPES",
    "FORMS",
    "FP8_RECIPES",
    "FRAMEWORKS",
    "PADDINGS",
    "Rule",
    "Sizes",
    "bshd_len",
    "check_bshd",
    "check_form",
    "check_fp8",
    "padded_lens",
    "replay_dtype",
    "round_up",
    "rule_of",
    "sample_multiple",
]

FP8_RECIPES = {"blockwise": 128, "mxfp8": 32, "tensorwise": 16}  # rows in a scaling block
PADDINGS = ("zero", "arange", "spread", "minus-one", "repeat", "random")  # what padding rows hold
FORMS = ("thd", "bshd", "bshd-b-major")
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DEFAULT_PAD_MULTIPLIER = 128  # slime's and miles' data_pad_size_multiplier
_PAGE_ROWS = 256  # AReaL's N_TOKENS_PER_PAGE


@dataclass(frozen=True, slots=True)
class Rule:
    """What a framework does.

    order      zigzag: a CP rank has the r-th and the r-th last of 2 cp pieces of every sample;
               contiguous: the r-th of cp pieces of the stream
    sample     what a sample's length is padded to a multiple of, the product of: tp; cp; pieces
               (2 cp, and 1 when cp is 1)
    total      what the stream is padded to a multiple of, the product of: tp, cp, mult; or page
               (256 rows and whole samples)
    last       the last token of a sample has no row of its own: it has no route
    extends    total padding belongs to the last sample; otherwise it is one more sequence
    fp8        whose fp8 padding, None where there is none
    dtype      of the replay tensor; ``signed`` and ``unsigned`` are the narrowest that holds E,
               ``value`` is uint8 where the batch's greatest id is at most 255, else int16,
               ``byte`` is uint8 for E <= 256, else int32
    padding    the policy of its own padding rows
    alone      the framework whose rule holds where cp is 1, None for this one
    moe_last   an integer moe_layer_freq N makes the last of each N layers MoE, not the first
    unfed      the last token of a sample has no place either: the model is fed N - 1 tokens
    form       how the framework lays samples out where it has one way alone, else thd
    """

    order: str
    sample: tuple[str, ...]
    total: tuple[str, ...] = ()
    last: bool = False
    extends: bool = True
    fp8: str | None = None
    dtype: str = "int64"
    padding: str = "zero"
    alone: str | None = None
    moe_last: bool = False
    unfed: bool = False
    form: str = "thd"


_ZIGZAG = ("tp", "pieces")
_CONTIGUOUS = ("tp", "cp")


def _slime(order: str, sample: tuple[str, ...], padding: str, dtype: str = "int32") -> Rule:
    """slime's rule, of which miles, Relax and vime are descendants."""
    return Rule(order, sample, ("tp", "cp", "mult"), True, False, None, dtype, padding)


_SKYRL = Rule("zigzag", _ZIGZAG, fp8="skyrl", dtype="int32", padding="arange")
_SWIFT = Rule("zigzag", ("pieces",), ("tp", "cp"), extends=False, fp8="ms-swift")

# Sources: verl 0.9.1 preprocess_thd_engine; SkyRL 0.4.0 align_packed_token_metadata and
# get_packed_seq_align_size, 0.3.0 _pack_replay_indices; NeMo-RL _pack_sequences_for_megatron and
# _shard_routed_experts_for_cp; slime and miles prepare_routed_experts_for_routing_replay and
# fill_replay_data; Relax (of slime) fill_routing_replay and maybe_padded_total_lengths, which
# pads for the VL bridge under CP alone; ms-swift 4.6 get_padding_to and cp_partition_mode with
# mcore_bridge 1.6.5 split_cp_inputs; prime-rl shard_for_cp; ROLL's sequence packing guide and
# get_routed_experts_dtype; AReaL cbff54d6 pad_packed_tensor_dict,
# split_packed_seqs_for_context_parallel and, for moe_layer_freq, its pipeline_parallel, its #1496
# _pack_routing_to_padded_order (r3/layout.py); vime 2b83ea20
# prepare_routed_experts_for_routing_replay; xtuner b934f462 _packing and SequenceContext.split;
# NeMo-RL models/automodel/router_replay.py microbatch_routed_experts and replay_routes;
# Megatron-Core 0.16.1 get_thd_batch_on_this_cp_rank.
_RULES = {
    "verl": Rule("zigzag", _ZIGZAG, fp8="verl", dtype="int16"),
    "verl-contiguous": Rule("contiguous", _CONTIGUOUS, fp8="verl", dtype="int16"),
    "skyrl": _SKYRL,
    "skyrl-0.3": replace(_SKYRL, fp8="skyrl-0.3", padding="zero"),
    "nemo-rl": Rule("zigzag", _ZIGZAG, fp8="nemo-rl", dtype="signed", padding="arange"),
    "nemo-rl-automodel": Rule(
        "contiguous", (), dtype="signed", padding="minus-one", form="bshd-b-major"
    ),
    "slime": _slime("zigzag", ("pieces",), "spread"),
    "slime-allgather": _slime("contiguous", (), "spread"),
    "miles": _slime("zigzag", ("pieces",), "minus-one"),
    "miles-allgather": _slime("contiguous", (), "minus-one"),
    "relax": _slime("zigzag", ("pieces",), "spread"),
    "relax-vl": Rule("zigzag", _ZIGZAG, last=True, dtype="int32", padding="spread", alone="relax"),
    "vime": _slime("zigzag", ("pieces",), "spread", "byte"),
    "vime-allgather": _slime("contiguous", (), "spread", "byte"),
    "ms-swift": _SWIFT,
    "ms-swift-contiguous": replace(_SWIFT, order="contiguous"),
    "roll": Rule("zigzag", _ZIGZAG, dtype="value"),
    "areal": Rule(
        *("zigzag", _ZIGZAG, ("page",)),
        extends=False,
        fp8="areal",
        dtype="int32",
        padding="repeat",
        moe_last=True,
    ),
    "prime-rl": Rule("contiguous", (), ("tp", "cp"), extends=False, dtype="unsigned"),
    "xtuner": Rule(
        *("contiguous", (), ("tp", "cp")),
        last=True,
        extends=False,
        padding="random",
        unfed=True,
    ),
    "ulysses": Rule("contiguous", (), ("tp", "cp"), extends=False),
    "megatron": Rule("zigzag", _ZIGZAG, padding="spread"),
}
FRAMEWORKS = tuple(_RULES)


def rule_of(framework: str, cp: int = 1) -> Rule:
    """The rule of a framework for this CP size. Raises ValueError with the names that there are."""
    if framework not in _RULES:
        raise unknown("framework", framework, FRAMEWORKS, ValueError)
    rule = _RULES[framework]
    return _RULES[rule.alone] if rule.alone is not None and cp == 1 else rule


def check_form(framework: str, form: str, tp: int, cp: int) -> None:
    """Raise ValueError for a form that is not known, and where a framework that lays samples out in
    one way is asked for another.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS, ValueError)
    own = rule_of(framework).form
    if own == "thd":
        return
    if form != own:
        raise ValueError(f"{framework} has form {own}, got {form}")
    for name, size in {"tp": tp, "cp": cp}.items():
        if size != 1:
            raise ValueError(f"{framework} has no {name}, got {size}")


def check_fp8(framework: str, recipe: str | None) -> None:
    """Raise ValueError for a recipe that is not known, or where the framework pads for none."""
    if recipe is None:
        return
    if recipe not in FP8_RECIPES:
        raise unknown("fp8", recipe, FP8_RECIPES, ValueError)
    if rule_of(framework).fp8 is None:
        raise ValueError(f"{framework} has no fp8 padding")


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``number``."""
    return -(-number // multiple) * multiple


def _product(parts: tuple[str, ...], sizes: dict[str, int]) -> int:
    return math.prod(sizes[part] for part in parts)


def _skyrl_rows(tp: int, cp: int, fp8: str) -> int:
    """What SkyRL 0.4 pads a sample for: whole tiles on each rank.

    mxfp8 has tiles of 32 rows, others of 128 under sequence parallelism and of 16 without.
    """
    if fp8 == "mxfp8":
        return FP8_RECIPES[fp8] * tp * cp
    return 128 * tp * cp if tp > 1 else 16 * cp


def sample_multiple(rule: Rule, tp: int, cp: int, fp8: str | None = None) -> int:
    """What every sample's length is padded to a multiple of.

    verl's and AReaL's fp8 need multiples of 16 per sample, SkyRL 0.3's of 16 rows on each CP rank,
    SkyRL 0.4's whole tiles on each rank.
    """
    multiple = _product(rule.sample, {"tp": tp, "cp": cp, "pieces": 2 * cp if cp > 1 else 1})
    if fp8 is None:
        return multiple
    rows = {"verl": 16, "areal": 16, "skyrl-0.3": 16 * cp, "skyrl": _skyrl_rows(tp, cp, fp8)}
    return math.lcm(multiple, rows.get(rule.fp8 or "", 1))


def _total_multiple(rule: Rule, tp: int, cp: int, fp8: str | None, pad_multiplier: int) -> int:
    """What the stream is padded to a multiple of. verl pads for 128-row blocks of each rank."""
    if rule.total == ("page",):
        return math.lcm(_PAGE_ROWS, sample_multiple(rule, tp, cp, fp8))
    multiple = _product(rule.total, {"tp": tp, "cp": cp, "mult": pad_multiplier})
    if fp8 is not None and rule.fp8 == "verl":
        return 128 * sample_multiple(rule, tp, cp)
    if fp8 is not None and rule.fp8 == "nemo-rl":
        return FP8_RECIPES[fp8] * sample_multiple(rule, tp, cp)
    if fp8 is not None and rule.fp8 == "ms-swift":
        return FP8_RECIPES[fp8] * multiple
    return multiple


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes and options that padding depends on, as ``Packing`` names them."""

    tp: int
    cp: int
    pad_multiplier: int
    fp8: str | None
    multiple: int
    min_local_rows: int | None
    bucket: int | None


def padded_lens(rule: Rule, lens: tuple[int, ...], sizes: Sizes) -> list[int]:
    """The places that each sample takes in the stream, then total padding as one more sequence.

    The order is verl's: each sample, the stream, at least min_local_rows on each CP rank, whole
    buckets.
    """
    padded = [round_up(n, sizes.multiple) for n in lens]
    total = sum(padded)
    multiple = _total_multiple(rule, sizes.tp, sizes.cp, sizes.fp8, sizes.pad_multiplier)
    wanted = round_up(total, multiple)
    wanted = max(wanted, sizes.cp * (sizes.min_local_rows or 0))
    if sizes.bucket is not None:
        whole = math.lcm(sizes.bucket, sizes.cp, multiple)
        wanted = round_up(wanted, whole)
    if wanted == total:
        return padded
    if rule.extends and padded:
        padded[-1] += wanted - total
        return padded
    return [*padded, wanted - total]


def bshd_len(rule: Rule, lens: tuple[int, ...], sizes: Sizes) -> int:
    """S of BSHD: the longest sample rounded up to whole CP pieces and SP runs.

    verl's fp8 rounds up until a rank's B x S / (tp x cp) rows are whole 128-row blocks.
    """
    pieces = 2 * sizes.cp if rule.order == "zigzag" and sizes.cp > 1 else sizes.cp
    multiple = math.lcm(sizes.tp * pieces, sizes.multiple)
    if sizes.fp8 is not None and rule.fp8 == "verl":
        block = 128 * sizes.tp * sizes.cp
        plain = sample_multiple(rule, sizes.tp, sizes.cp)
        multiple = math.lcm(block // math.gcd(len(lens), block), plain)
    return round_up(max(lens, default=0), multiple)


def check_bshd(seq_len: int, sizes: Sizes, longest: int, zigzag: bool) -> None:
    """Raise ValueError when S is too short or does not divide into CP pieces and SP runs."""
    if seq_len < longest:
        raise ValueError(f"a sample of {longest} tokens is longer than seq_len {seq_len}")
    pieces = 2 * sizes.cp if zigzag else sizes.cp
    if seq_len % pieces or seq_len // sizes.cp % sizes.tp:
        raise ValueError(
            f"seq_len {seq_len} does not divide into {pieces} CP pieces and tp {sizes.tp} runs"
        )


def replay_dtype(
    rule: Rule, num_experts: int, greatest: int | None = None
) -> "np.dtype[np.integer]":
    """The dtype of a framework's replay tensor for E experts.

    greatest is the greatest id of the batch, for a framework that goes by it; E - 1 when None.
    """
    import numpy as np

    if rule.dtype == "value":
        last = num_experts - 1 if greatest is None else greatest
        return np.dtype(np.uint8 if last <= 255 else np.int16)
    if rule.dtype == "unsigned":
        return np.dtype(np.uint8) if num_experts <= 256 else np.dtype(np.uint16)
    if rule.dtype == "byte":
        return np.dtype(np.uint8 if num_experts <= 256 else np.int32)
    if rule.dtype == "signed":
        return np.dtype(
            np.int8 if num_experts <= 128 else np.int16 if num_experts <= 32768 else np.int32
        )
    return np.dtype(rule.dtype)
