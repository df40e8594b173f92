"""``convert --to eplb``: a dump's expert load, as SGLang places its experts by."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RoutectlError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from ...dump import Dump

__all__ = ["EPLB", "refuse_unfit", "write_load"]

EPLB = "eplb"


def refuse_unfit(dst: "Path", *, of_rows: bool) -> None:
    """Raise RoutectlError for a DST that is neither JSON nor a torch file, or options of rows."""
    from ...formats.targets.eplb import SUFFIXES

    if of_rows:
        raise RoutectlError("--missing and --lossy: eplb has counts of the rows that are there")
    if dst.suffix not in SUFFIXES:
        raise RoutectlError(f"{dst}: eplb is written to NAME{' or NAME'.join(SUFFIXES)}")


def write_load(
    dump: "Dump", num_layers: int | None, zero_experts: int, dst: "Path", *, force: bool
) -> NDArray[np.int64]:
    """Count a dump's experts and write them at ``dst``; the counts, int64 [layers, experts].

    ``num_layers`` counts dense layers too; ``zero_experts`` are behind the routed ones, and have
    no place. Raises RoutectlError where the layers are not known, or no row is there.
    """
    from ...files.writing import replacing
    from ...formats.targets.eplb import write_counts
    from ...ops.summary import summarize

    meta = dump.meta
    if num_layers is None:
        raise RoutectlError(
            f"{meta.path}: how many layers the model has is not known, and eplb has counts of "
            "each, dense ones too",
            hint="--model CONFIG",
        )
    load: NDArray[Any] = np.zeros((num_layers, meta.num_experts - zero_experts), np.int64)
    load[list(meta.layers_L)] = summarize(dump).load_LE[:, : load.shape[1]]
    if not load.any():
        raise UnsupportedError(f"{meta.path}: no rows, of which experts could be counted")
    with replacing(dst, force=force) as stream:
        write_counts(load, stream, dst.suffix)
    return load
