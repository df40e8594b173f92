"""What pack warns of: samples beyond a micro-batch's tokens, rows that no router gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...reports.text.wording import plural
from .layout import Layout

if TYPE_CHECKING:
    from ...dump import DumpMeta, Sample

__all__ = ["Odd", "OddRows", "odd_in", "told_odd", "told_over"]


@dataclass(frozen=True, slots=True, order=True)
class OddRows:
    """Rows of a kind; the first: its position and layer."""

    position: int
    layer: int
    rows: int


@dataclass(frozen=True, slots=True)
class Odd:
    """Rows of a sample that no router gives, in the layers that it has, which are so many.

    kinds are by those of ``count_odd``, None where there are no such rows; tokens has the sample.
    """

    kinds: tuple[OddRows | None, ...]
    tokens: int
    layers: int


def odd_in(sample: "Sample") -> Odd | None:
    """Those of a sample; None where there are none."""
    from ...kernels.odd_rows import count_odd

    held = sample.routes
    if held is None:
        return None
    kinds = tuple(
        OddRows(held.start + token, held.layers_L[column], rows) if rows else None
        for rows, token, column in count_odd(held.ids_TLK, held.num_experts, held.missing_TL)
    )
    return Odd(kinds, held.num_tokens, len(held.layers_L)) if any(kinds) else None


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


def told_odd(
    found: Mapping[tuple[int, int], Odd], names: Callable[[int], str], meta: "DumpMeta"
) -> Iterator[str]:
    """Of rows that no router gives how many, and the first, a line a kind; by (sample, stage).

    What may be so by chance is not told; ``check`` has what that is.
    """
    from ...kernels.odd_rows import ALIKE, ORDERED, TWICE

    for kind, told in (
        (TWICE, "an expert twice, so that a router is given fewer than top_k"),
        (ORDERED, "experts 0, 1, 2, ..., which are filler and no routes"),
        (ALIKE, "the same experts in every layer, which are filler and no routes"),
    ):
        held: dict[int, list[OddRows]] = {}
        for (sample, _), odd in found.items():
            rows = odd.kinds[kind]
            if rows is not None and not (kind == ALIKE and _alike_by_chance(odd, meta)):
                held.setdefault(sample, []).append(rows)
        if kind == ORDERED:
            tokens = {sample: odd.tokens for (sample, _), odd in found.items()}
            held = {i: rows for i, rows in held.items() if _beyond_chance(rows, tokens[i], meta)}
        if held:
            yield _told(held, told, names)


def _beyond_chance(found: Sequence[OddRows], tokens: int, meta: "DumpMeta") -> bool:
    """Whether a sample has more rows 0, 1, 2, ... than by chance."""
    from ...ops.check.rows import rare_by_chance

    rows, size = sum(one.rows for one in found), tokens * len(meta.layers_L)
    return bool(rare_by_chance(rows, size, meta.num_experts, meta.top_k))


def _alike_by_chance(odd: Odd, meta: "DumpMeta") -> bool:
    from ...ops.check.rows import uniform_by_chance

    return bool(uniform_by_chance(odd.tokens, odd.layers, meta.num_experts, meta.top_k))


def _told(found: Mapping[int, Sequence[OddRows]], told: str, names: Callable[[int], str]) -> str:
    """Rows of some samples in words, and the first of them."""
    rows = sum(one.rows for held in found.values() for one in held)
    one, of = min(found[min(found)]), plural(len(found), "sample")
    verb = "names" if rows == 1 else "name"
    return (
        f"{plural(rows, 'row')} of {of} {verb} {told}: the first is of sample "
        f"{names(min(found))}, position {one.position}, layer {one.layer}; routectl check DUMP "
        "tells more"
    )
