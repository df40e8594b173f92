"""How each framework pads and splits a packed micro-batch, and what its replay tensor looks like.

The table is data; docs/layouts.md has it with the sources. A sample is padded to a multiple, then
the stream of all samples to another; CP splits the stream, SP each CP rank's rows.
"""

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "DEFAULT_PAD_MULTIPLIER",
    "FP8_RECIPES",
    "FRAMEWORKS",
    "Rule",
    "Sizes",
    "bshd_len",
    "check_bshd",
    "check_fp8",
    "padded_lens",
    "replay_dtype",
    "round_up",
    "rule_of",
    "sample_multiple",
]

FP8_RECIPES = {"blockwise": 128, "mxfp8": 32, "tensorwise": 16}  # rows in a scaling block
DEFAULT_PAD_MULTIPLIER = 128  # slime's and miles' data_pad_size_multiplier


@dataclass(frozen=True, slots=True)
class Rule:
    """What a framework does.

    order      zigzag: a CP rank has the r-th and the r-th last of 2 cp pieces of every sample;
               contiguous: the r-th of cp pieces of the stream
    sample     what a sample's length is padded to a multiple of, the product of: tp; cp (2 cp
               with zigzag, 1 when cp is 1)
    total      what the stream is padded to a multiple of, the product of: tp, cp, mult
    last       the last token of a sample has no row of its own: it has no route
    extends    total padding belongs to the last sample; otherwise it is one more sequence
    fp8        whose fp8 padding, None where there is none
    dtype      of the replay tensor; ``signed`` and ``unsigned`` are the narrowest that holds E
    padding    the policy of its own padding rows
    """

    order: str
    sample: tuple[str, ...]
    total: tuple[str, ...] = ()
    last: bool = False
    extends: bool = True
    fp8: str | None = None
    dtype: str = "int64"
    padding: str = "zero"


_TP_CP = ("tp", "cp")


def _slime(order: str, sample: tuple[str, ...], padding: str) -> Rule:
    """slime's rule, of which miles and Relax are descendants."""
    return Rule(order, sample, ("tp", "cp", "mult"), True, False, None, "int32", padding)


# Sources: verl 0.9.1 preprocess_thd_engine; SkyRL align_token_metadata; NeMo-RL
# _pack_sequences_for_megatron and _shard_routed_experts_for_cp; slime and miles
# prepare_routed_experts_for_routing_replay and fill_replay_data; Relax (of slime) and its VL
# bridge; ms-swift 4.6 get_padding_to with mcore_bridge 1.6.5 split_cp_inputs; prime-rl
# shard_for_cp; ROLL's sequence packing guide; Megatron-Core 0.16.1 get_thd_batch_on_this_cp_rank.
_RULES = {
    "verl": Rule("zigzag", _TP_CP, fp8="verl", dtype="int16"),
    "verl-contiguous": Rule("contiguous", _TP_CP, fp8="verl", dtype="int16"),
    "skyrl": Rule("zigzag", _TP_CP, fp8="skyrl", dtype="int32", padding="arange"),
    "nemo-rl": Rule("zigzag", _TP_CP, fp8="nemo-rl", dtype="signed", padding="arange"),
    "slime": _slime("zigzag", ("cp",), "spread"),
    "slime-allgather": _slime("contiguous", (), "spread"),
    "miles": _slime("zigzag", ("cp",), "minus-one"),
    "miles-allgather": _slime("contiguous", (), "minus-one"),
    "relax": _slime("zigzag", ("cp",), "spread"),
    "relax-vl": Rule("zigzag", _TP_CP, last=True, dtype="int32", padding="spread"),
    "ms-swift": Rule("zigzag", ("cp",), ("tp", "cp"), extends=False, fp8="ms-swift"),
    "roll": Rule("zigzag", _TP_CP, dtype="unsigned"),
    "prime-rl": Rule("contiguous", (), ("tp", "cp"), extends=False, dtype="unsigned"),
    "ulysses": Rule("contiguous", (), ("tp", "cp"), extends=False),
    "megatron": Rule("zigzag", _TP_CP, padding="spread"),
}
FRAMEWORKS = tuple(_RULES)


def rule_of(framework: str) -> Rule:
    """The rule of a framework. Raises ValueError with the names that there are."""
    if framework not in _RULES:
        raise ValueError(f"framework {framework!r} is not known: {', '.join(FRAMEWORKS)}")
    return _RULES[framework]


def check_fp8(framework: str, recipe: str | None) -> None:
    """Raise ValueError for a recipe that is not known, or where the framework pads for none."""
    if recipe is None:
        return
    if recipe not in FP8_RECIPES:
        raise ValueError(f"fp8 {recipe!r} is not known: {', '.join(FP8_RECIPES)}")
    if rule_of(framework).fp8 is None:
        raise ValueError(f"{framework} has no fp8 padding")


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``number``."""
    return -(-number // multiple) * multiple


def _product(parts: tuple[str, ...], sizes: dict[str, int]) -> int:
    return math.prod(sizes[part] for part in parts)


def sample_multiple(rule: Rule, tp: int, cp: int, fp8: str | None = None) -> int:
    """What every sample's length is padded to a multiple of.

    verl's fp8 needs multiples of 16 per sample; SkyRL's a multiple of 16 rows on each CP rank.
    """
    pieces = 2 * cp if rule.order == "zigzag" and cp > 1 else cp
    multiple = _product(rule.sample, {"tp": tp, "cp": pieces})
    if fp8 is not None and rule.fp8 == "verl":
        return math.lcm(16, multiple)
    if fp8 is not None and rule.fp8 == "skyrl":
        return math.lcm(multiple, 16 * cp)
    return multiple


def _total_multiple(rule: Rule, tp: int, cp: int, fp8: str | None, pad_multiplier: int) -> int:
    """What the stream is padded to a multiple of. verl pads for 128-row blocks of each rank."""
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


def replay_dtype(rule: Rule, num_experts: int) -> np.dtype[np.integer]:
    """The dtype of a framework's replay tensor for E experts."""
    if rule.dtype == "unsigned":
        return np.dtype(np.uint8) if num_experts <= 256 else np.dtype(np.uint16)
    if rule.dtype == "signed":
        return np.dtype(
            np.int8 if num_experts <= 128 else np.int16 if num_experts <= 32768 else np.int32
        )
    return np.dtype(rule.dtype)
