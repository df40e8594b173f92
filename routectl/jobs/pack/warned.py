"""What pack warns of: samples beyond a micro-batch's tokens, rows that name an expert twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...reports.text.wording import plural
from .layout import Layout

if TYPE_CHECKING:
    from ...dump import Sample

__all__ = ["Twice", "told_over", "told_twice", "twice_in"]


@dataclass(frozen=True, slots=True, order=True)
class Twice:
    """Rows of a sample that name an expert twice; the first: its position and layer."""

    position: int
    layer: int
    rows: int


def twice_in(sample: "Sample") -> Twice | None:
    """Those of a sample, in the layers that it has; None where there are none."""
    from ...kernels.twice import count_twice

    held = sample.routes
    if held is None:
        return None
    rows, token, column = count_twice(held.ids_TLK, held.num_experts, held.missing_TL)
    return Twice(held.start + token, held.layers_L[column], rows) if rows else None


def told_over(layout: Layout, lens: Sequence[int], names: Callable[[int], str]) -> list[str]:
    """Of samples that are longer than a micro-batch may be how many, and the first."""
    from ...layouts.rules import rule_of

    if layout.max_tokens_per_gpu is None:
        return []
    count = len(lens)
    most, unfed = layout.max_tokens_per_gpu * layout.cp, rule_of(layout.framework).unfed
    over = [i for i, tokens in enumerate(lens) if tokens - unfed > most]
    if not over:
        return []
    by = "max-tokens-per-gpu" + (" x cp" if layout.cp > 1 else "")
    verb = "is" if len(over) == 1 else "are"
    return [
        f"{len(over):,} of {plural(count, 'sample')} {verb} longer than the {most:,} tokens of a "
        f"micro-batch ({by}), and alone in one: the first is {names(over[0])}, of "
        f"{lens[over[0]]:,} tokens"
    ]


def told_twice(found: Mapping[tuple[int, int], Twice], names: Callable[[int], str]) -> list[str]:
    """Of rows that name an expert twice how many, and the first; by (sample, stage)."""
    if not found:
        return []
    rows = sum(one.rows for one in found.values())
    sample = min(i for i, _ in found)
    one = min(one for (i, _), one in found.items() if i == sample)
    told = "1 row names" if rows == 1 else f"{rows:,} rows name"
    return [
        f"{told} an expert twice, so that a router is given fewer than top_k: the first is of "
        f"sample {names(sample)}, position {one.position}, layer {one.layer}"
    ]
