"""diff: where two dumps of the same tokens took different experts, and by how much."""

from collections.abc import Sequence

from ...dump import Dump
from ..pairs.align import common_layers
from ..pairs.join import join_keys
from ..pairs.parts import whole_join
from .options import DiffOptions
from .part import diff_part
from .result import DiffResult
from .tally import OnCompared

__all__ = ["DiffOptions", "DiffResult", "diff", "diff_as"]


def diff(
    old: Dump,
    new: Dump,
    *,
    match: str = "auto",
    tokens: str = "all",
    layers: Sequence[int] | None = None,
    examples: int = 10,
) -> DiffResult:
    """Compare the routes of two dumps of the same tokens, row by row as sets.

    match     how samples are joined: see ``join_keys``; rows join by absolute position
    tokens    all, prompt, or response (from the first generated token as an input)
    layers    0-based transformer layers to compare; None for all that both dumps have
    examples  how many mismatched rows to keep

    Raises MismatchError when the dumps cannot be laid side by side or nothing was comparable.
    Metrics and their sources: docs/metrics.md.
    """
    return diff_as(old, new, DiffOptions(match, tokens, layers, examples))


def diff_as(
    old: Dump, new: Dump, options: DiffOptions, on_compared: OnCompared | None = None
) -> DiffResult:
    """``diff`` with its options as one value, those for a page among them.

    ``on_compared`` is told of each compared sample, in the order of OLD.
    """
    common_layers(old.meta, new.meta, options.layers)  # what cannot be compared is not joined
    part = whole_join(join_keys(old.keys, new.keys, options.match))
    result = diff_part(old, new, options, part, on_compared)
    result.refuse_nothing()
    return result
