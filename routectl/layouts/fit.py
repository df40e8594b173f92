"""Whether sizes, options and lengths of a Packing fit together; messages have both numbers."""

from typing import TYPE_CHECKING

import numpy as np

from . import rules

if TYPE_CHECKING:
    from .packing import Packing

__all__ = ["FORMS", "check_fit", "check_options", "check_ranks"]

FORMS = ("thd", "bshd", "bshd-b-major")
_SIZES = ("tp", "cp", "pad_multiplier", "sample_multiple", "min_local_rows", "bucket", "seq_len")
_THD_ONLY = ("sample_multiple", "min_local_rows", "bucket")


def check_ranks(**ranks: tuple[int, int]) -> None:
    """Raise ValueError unless every rank, given with its size, is in 0..size - 1."""
    for name, (rank, size) in ranks.items():
        if not 0 <= rank < size:
            raise ValueError(f"no rank {name}={rank}: {name} is {size}")


def check_options(packing: "Packing") -> None:
    """Raise ValueError on unknown names, sizes below 1, and options that have no effect."""
    rule = packing.rule
    sizes = {name: getattr(packing, name) for name in _SIZES}
    sizes |= {f"lens[{i}]": n for i, n in enumerate(packing.lens)}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if packing.pad_multiplier is not None and "mult" not in rule.total:
        raise ValueError(f"{packing.framework} has no pad_multiplier")
    rules.check_fp8(packing.framework, packing.fp8)
    if packing.form not in FORMS:
        raise ValueError(f"form {packing.form!r} is not known: {', '.join(FORMS)}")
    if packing.form == "thd":
        if packing.seq_len is not None:
            raise ValueError(f"form thd has no seq_len, got {packing.seq_len}")
        return
    for name in _THD_ONLY:
        if getattr(packing, name) is not None:
            raise ValueError(f"form {packing.form} has no {name}: give seq_len")
    if packing.fp8 is not None and rule.fp8 != "verl":
        raise ValueError(f"{packing.framework} has no fp8 padding in {packing.form}: give seq_len")


def check_fit(packing: "Packing") -> None:
    """Raise ValueError unless the stream divides into the ranks' pieces."""
    tp, cp = packing.tp, packing.cp
    own = rules.sample_multiple(packing.rule, tp, cp, packing.fp8)
    if packing.alignment % own:
        raise ValueError(
            f"sample_multiple {packing.alignment} is not a multiple of {own}, which "
            f"{packing.framework} needs for tp {tp}, cp {cp}"
        )
    if packing.form != "thd":
        longest = max(packing.lens, default=0)
        rules.check_bshd(packing.padded_seq_len, packing.sizes, longest, packing.is_zigzag)
    elif packing.is_zigzag:
        places = np.diff(packing.cu_seqlens_padded).tolist()
        if "mult" in packing.rule.total:  # slime pads each rank's rows, after the split
            places = places[: len(packing.lens)]
        for i, n in enumerate(places):
            if n % (2 * cp):
                what = f"sample {i}" if i < len(packing.lens) else "padding after the samples"
                raise ValueError(f"{what} takes {n} places, not divisible by 2 x cp = {2 * cp}")
    if packing.num_local_rows % tp:
        raise ValueError(f"{packing.num_local_rows} rows of a CP rank do not divide by tp {tp}")
