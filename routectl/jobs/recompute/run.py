"""A recompute written as native files: run what is not done, part by part, and join the parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ...reports.text.wording import bytes_text, plural
from ..progress import Progress
from .crew import DeviceCrew
from .parts import holding_parts
from .router_check import router_checker
from .router_inputs import keeping_inputs
from .samples import job_of, meta_of
from .share import DeviceWork, run_share, showing

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared
    from .parts import Parts

__all__ = ["Saving", "write_recompute"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Where the routes of each mode go, and router inputs, if anywhere; what may be gone on from
    or replaced.
    """

    targets: Mapping[str, Path]
    inputs: Path | None
    resume: bool
    force: bool

    def refuse(self) -> None:
        """Raise RoutectlError where a file would be replaced that must not be."""
        from ...files.writing import refuse_existing

        for target in self.targets.values():
            refuse_existing(target, force=self.force)


def write_recompute(
    work: DeviceWork, crew: DeviceCrew, saving: Saving
) -> tuple["Prepared", "Dump"]:
    """Run what is not done yet, part by part, and join the parts of each mode.

    Finished parts wait beside ``work.output``. Raises MismatchError where another run left parts.
    """
    prepared, source = crew.prepare(work), work.open_source()
    job = job_of(prepared, source, tokens=work.tokens)
    modes = tuple(saving.targets)
    with holding_parts(work.output, job, modes, resume=saving.resume) as parts:
        parts.tidy()
        todo = parts.todo(len(source))
        if todo:
            saving.refuse()  # else it is this job's, killed while it was joined
        _announce(prepared, crew)
        if len(todo) < len(source):
            done = plural(len(source) - len(todo), "sample")
            crew.progress.note(f"{done} done before; going on")
        try:
            if crew.size == 1 and crew.elsewhere is None:
                _run_alone(prepared, source, todo, parts, saving, crew.progress)
            else:
                crew.run(work, prepared, source, todo)
            if left := parts.todo(len(source)):
                raise RoutectlError(
                    f"{parts.folder}: sample {left[0]} is in no part", hint="--resume to go on"
                )
        except BaseException:
            parts.drop_if_empty()
            raise
        for mode, target in saving.targets.items():
            if todo or saving.force or not parts.is_joined(mode, target):
                parts.join(mode, meta_of(prepared, source, mode), target, force=saving.force)
            crew.progress.note(f"wrote {target}: {plural(len(source), 'sample')}")
        parts.drop()
    return prepared, source


def _announce(prepared: "Prepared", crew: DeviceCrew) -> None:
    about, free = prepared.provenance, prepared.free_bytes
    how = "streamed layer by layer" if prepared.streamed else "all weights in memory"
    each = f" by each of {crew.size} processes" if crew.size > 1 else ""
    why = "as asked for" if free is None else f"{bytes_text(free)} are free"
    crew.progress.note(
        f"{about['model_type']}, {bytes_text(prepared.store.total_bytes())}, {about['dtype']} on "
        f"{about['device']}: {how}{each} ({why})"
    )


def _run_alone(
    prepared: "Prepared",
    source: "Dump",
    todo: Sequence[int],
    parts: "Parts",
    saving: Saving,
    progress: Progress,
) -> None:
    """All samples in this process."""
    with (
        showing(len(todo), progress) as on_progress,
        keeping_inputs(prepared, source, saving.inputs, progress.note, force=saving.force) as keep,
    ):
        options = dataclasses.replace(prepared.options, on_progress=on_progress)
        check = router_checker(prepared, progress.note)
        shown = dataclasses.replace(prepared, options=options)
        run_share(shown, source, todo, parts, lambda result: check(keep(result)))
