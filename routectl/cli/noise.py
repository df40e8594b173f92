"""``routectl recompute --noise-floor``: rows that change when nothing but the arithmetic does."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from ..reports.wording import percent
from .output import note

if TYPE_CHECKING:
    from ..dump import Dump, DumpMeta, Sample
    from ..forward import Forwarded, Prepared

__all__ = ["print_noise_floor"]

_OTHERS = {"experts": ("eager", "grouped_mm"), "attention": ("eager", "sdpa")}


def print_noise_floor(
    prepared: "Prepared",
    source: "Dump",
    written: Path,
    recomputed: "Callable[[Sample, Forwarded, DumpMeta], Sample]",
) -> None:
    """Run the same tokens again, with other implementations too, and print the rows that change.

    Mismatch rates below these say nothing about a rollout. Each line is one more whole run.
    """
    from ..formats.native import open_native
    from ..ops.diff import diff

    base = open_native(written)
    print(f"{'noise floor':<24}rows that change against {written.name}")
    for name, other in _variants(prepared):
        result = diff(base, _again(other, source, base.meta, recomputed))
        rate = percent(result.rows_mismatched / result.rows if result.rows else None)
        print(f"{name:<24}{result.rows_mismatched:,} of {result.rows:,} ({rate})")


def _variants(prepared: "Prepared") -> "Iterator[tuple[str, Prepared]]":
    """The same run, and runs with one other implementation each."""
    from ..forward import prepare

    yield "the same again", prepared
    for kind, known in _OTHERS.items():
        now = str(prepared.provenance[kind])
        for name in (name for name in known if name != now):
            changed: dict[str, Any] = {kind: name}
            try:
                yield f"{kind} {name}", prepare(replace(prepared.options, **changed))
            except UnsupportedError as error:
                note(f"{kind} {name}: not run: {error}")


def _again(
    prepared: "Prepared",
    source: "Dump",
    meta: "DumpMeta",
    recomputed: "Callable[[Sample, Forwarded, DumpMeta], Sample]",
) -> "Dump":
    """Another run's routes, in memory."""
    from ..dump import Dump
    from ..forward import run_forward

    plain = replace(prepared, options=replace(prepared.options, want_inputs=False, check_tokens=0))
    samples = [recomputed(source[r.index], r, meta) for r in run_forward(plain, source)]
    return Dump(meta, source.keys, samples.__getitem__)
