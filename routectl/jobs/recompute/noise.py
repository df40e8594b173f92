"""``routectl recompute --noise-floor``: rows that change when nothing but the arithmetic does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedError
from ..progress import SILENT, Progress, tokens_rate

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared

__all__ = ["NoiseRun", "noise_floor", "noise_runs"]

_OTHERS = {"experts": ("eager", "grouped_mm"), "attention": ("eager", "sdpa")}
_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class NoiseRun:
    """One more run of the same tokens: rows compared with the first run's, and those that changed.

    name says what was not as in the first run; refused is why it could not be run, with no rows.
    """

    name: str
    rows: int = 0
    rows_mismatched: int = 0
    refused: str | None = None

    @property
    def mismatch_rate(self) -> float | None:
        """Share of the rows that changed; None where none was compared."""
        return self.rows_mismatched / self.rows if self.rows else None


def noise_floor(prepared: "Prepared", source: "Dump", base: "Dump") -> tuple[NoiseRun, ...]:
    """How many rows a run changes against itself: the same again, then one thing changed each.

    source has the tokens; base is what a run of prepared gave for them, in mode "free" or "forced":
    its live routes, sample by sample, a row for every token. Each entry is one more whole run:
    sequences together in padded batches, other experts, another attention. Mismatch rates below
    these say nothing about a rollout. Raises ValueError for mode "both" and for another base.
    """
    return tuple(noise_runs(prepared, source, base))


def noise_runs(
    prepared: "Prepared", source: "Dump", base: "Dump", progress: Progress = SILENT
) -> Iterator[NoiseRun]:
    """The runs of noise_floor, each as it is done."""
    from ...forward import prepare

    if prepared.options.mode == "both":
        raise ValueError("the noise floor is of one mode")
    yield _run("the same again", prepared, source, base, progress)
    for name, changed in _variations(prepared):
        if "batch" in changed and len(source) < 2:
            yield NoiseRun(name, refused="one sequence has none to run with")
            continue
        try:
            other = prepare(replace(prepared.options, **changed))
        except UnsupportedError as error:
            yield NoiseRun(name, refused=str(error))
            continue
        yield _run(name, other, source, base, progress)


def _variations(prepared: "Prepared") -> Iterator[tuple[str, dict[str, Any]]]:
    """What is changed, one thing at a time, and its name."""
    yield "padded batches", {"batch": _TOGETHER}
    for kind, known in _OTHERS.items():
        now = str(prepared.provenance[kind])
        yield from ((f"{kind} {name}", {kind: name}) for name in known if name != now)


def _run(
    name: str, prepared: "Prepared", source: "Dump", base: "Dump", progress: Progress
) -> NoiseRun:
    """The rows of one more run, counted sample by sample."""
    import numpy as np

    from ...forward import run_forward

    options = replace(
        prepared.options, want_inputs=False, want_logprobs=False, gates=None, check_tokens=0
    )
    results = run_forward(replace(prepared, options=options), source)
    rows = mismatched = 0
    with progress.counting(f"running, {name}:", len(source), "samples", tokens_rate) as advance:
        for result, sample in zip(results, base, strict=True):
            ids_TLK = result.ids_TLK if result.live_TLK is None else result.live_TLK
            routes = sample.routes
            if (
                routes is None
                or routes.missing_TL is not None
                or routes.ids_TLK.shape != ids_TLK.shape
            ):
                raise ValueError(f"sample {result.index}: the base is of another run")
            differs_TLK = np.sort(ids_TLK, axis=2) != np.sort(routes.ids_TLK, axis=2)
            rows += differs_TLK[..., 0].size
            mismatched += int(differs_TLK.any(axis=2).sum())
            advance(len(ids_TLK))
    return NoiseRun(name, rows, mismatched)
