"""Samples pushed through a checkpoint by one process, written as finished parts."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...reports.text.wording import bytes_text
from ..progress import Progress, tokens_rate
from .gates import open_gates
from .parts import open_parts
from .router_check import router_checker
from .samples import job_of, meta_of, modes_of, recomputed_sample

if TYPE_CHECKING:
    from ...dump import Dump, Sample
    from ...forward import Forwarded, Prepared, RunOptions, RunProgress
    from .parts import Parts

__all__ = ["DeviceWork", "cut_shares", "do_work", "run_share", "showing"]

_PART_TOKENS = 65_536  # results held before they are written as a finished part
_PART_S = 30.0  # that results are held at most while others come


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWork:
    """What one process does: some samples of a dump, into the parts of an output.

    gates tells that gate log-probabilities are wanted; each process opens the routers for them.
    tokens tells that what is written has the token ids.
    """

    options: "RunOptions"
    open_source: "Callable[[], Dump]"
    indices: tuple[int, ...]
    output: Path
    gates: bool = False
    tokens: bool = True

    def prepare(self) -> "Prepared":
        """The checkpoint opened by its headers."""
        from ...forward import prepare

        options = self.options
        gates = open_gates(options.checkpoint, options.device) if self.gates else None
        return prepare(dataclasses.replace(options, gates=gates))

    def given(self, indices: Sequence[int], **changes: Any) -> "DeviceWork":
        """The same work on these samples, with other options."""
        options = dataclasses.replace(self.options, **changes)
        return dataclasses.replace(self, indices=tuple(indices), options=options)


def do_work(work: DeviceWork, say: Callable[[str], None]) -> None:
    """Open checkpoint and dump anew and finish the parts; the job must be that of the parts.

    Samples that are in finished parts already are not run again. Raises MismatchError where it is
    another job: where devices differ, say.
    """
    prepared, source = work.prepare(), work.open_source()
    modes = modes_of(work.options)
    job = job_of(prepared, source, tokens=work.tokens)
    parts = open_parts(work.output, job, modes, resume=True)
    left = set(parts.todo(len(source)))
    indices = [index for index in work.indices if index in left]
    run_share(prepared, source, indices, parts, router_checker(prepared, say))


def cut_shares(indices: Sequence[int], tokens: Sequence[int], number: int) -> list[tuple[int, ...]]:
    """Samples cut, in order, into so many runs of about equally many tokens; some may be empty.

    A sample goes where the middle of its tokens falls. ``tokens`` are those of each sample, 1 or
    more.
    """
    shares: list[list[int]] = [[] for _ in range(number)]
    before, total = 0, sum(tokens)
    for index, own in zip(indices, tokens, strict=True):
        shares[number * (2 * before + own) // (2 * total)].append(index)
        before += own
    return [tuple(share) for share in shares]


def run_share(
    prepared: "Prepared",
    source: "Dump",
    indices: Sequence[int],
    parts: "Parts",
    through: "Callable[[Forwarded], Forwarded]",
) -> None:
    """Run some samples of a dump, each result ``through`` a function, and finish their parts."""
    from ...forward import run_forward

    if not indices:
        return
    rest = source.select(samples=indices)
    results = map(through, run_forward(prepared, rest))
    _write_parts(results, prepared, source, indices, parts)


@contextmanager
def showing(total: int, progress: Progress) -> Iterator[Callable[["RunProgress"], None] | None]:
    """What shows how far a run over so many samples is; None where nobody looks."""
    with progress.line("recomputing", "samples") as show:
        if show is None:
            yield None
            return
        show(0, total, lambda elapsed: "")

        def on_progress(done: "RunProgress") -> None:
            def words(elapsed: float) -> str:
                layer = f"layer {done.layer} of {done.layers}, " if done.layer < done.layers else ""
                rate = tokens_rate(done.tokens / elapsed if elapsed else 0.0)
                read = bytes_text(done.read_bytes)
                return f"{layer}{rate}, {read} read"

            show(done.samples, total, words)

        yield on_progress


def _write_parts(
    results: "Iterable[Forwarded]",
    prepared: "Prepared",
    source: "Dump",
    indices: Sequence[int],
    parts: "Parts",
) -> None:
    """Write results as they come, each part consecutive samples that are done in every mode.

    Where the run is ended, what is done is written before.
    """
    modes = modes_of(prepared.options)
    metas = {mode: meta_of(prepared, source, mode) for mode in modes}
    held: dict[str, list[Sample]] = {mode: [] for mode in modes}
    first, tokens, since = -1, 0, time.monotonic()
    try:
        for result in results:
            index = indices[result.index]
            samples = held[result.mode]
            if not held[modes[0]]:
                first = index
            samples.append(recomputed_sample(source[index], result, metas[result.mode]))
            tokens += len(result.ids_TLK)
            following = indices[result.index + 1] if result.index + 1 < len(indices) else None
            enough = tokens >= _PART_TOKENS or time.monotonic() - since >= _PART_S
            if (enough or following != index + 1) and result.mode == modes[-1]:
                parts.add(first, held, metas)
                held, tokens, since = {mode: [] for mode in modes}, 0, time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        whole = min(map(len, held.values()))
        if whole:
            parts.add(first, {mode: samples[:whole] for mode, samples in held.items()}, metas)
        raise
