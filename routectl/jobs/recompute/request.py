"""What ``routectl recompute`` is asked, the files that it writes, and the document about them."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError
from ...reports.text.wording import plural
from ..compared.compared import Judging, metric_names, parsed_limits
from ..options import (
    argument,
    check_bounds,
    no_tokens_option,
    option,
    save_option,
    threshold_option,
)
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS, Reading, refuse_relative
from ..shards.crew import Crew
from .crew import DeviceCrew, crew_of
from .figures import Against, compare_written, open_source
from .forwarding import Forwarding, run_options
from .noise import NoiseRun, noise_runs
from .parts import parts_folder
from .router_inputs import is_inputs, recompute_from_inputs
from .run import Saving, write_recompute
from .samples import targets_of
from .share import DeviceWork
from .weights import folder_of

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared
    from ...ops.diff.thresholds import Threshold
    from ...reports.diff.schema import DiffDocument
    from ...reports.recompute.schema import NoiseRunEntry, RecomputeDocument, WrittenEntry
    from ..cluster.tasks import Cluster

__all__ = ["RecomputeRequest", "Recomputed", "recompute_dump"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecomputeRequest:
    """A checkpoint, the dump whose tokens are pushed through it, and the native file to be written.

    In place of a dump, router inputs: the checkpoint's routers alone are applied to them. A file
    is replaced with ``force`` alone. detail asks for what a page shows beside the figures.
    """

    checkpoint: Path = argument(
        metavar="CHECKPOINT",
        help="A Hugging Face folder: config and safetensors; ORG/NAME is one of the local HF "
        "cache. For router inputs, one of Megatron's too.",
    )
    dump: str = argument(
        metavar="DUMP",
        help="The rollout: token ids, and routes to compare with. Or dumped router inputs: "
        "a .safetensors, a trace of Megatron-Core.",
    )
    save: Path = save_option(
        "the routes: NAME.parquet, and NAME.forced.parquet for --mode both,", dataclasses.MISSING
    )
    forwarding: Forwarding = dataclasses.field(default_factory=Forwarding)
    router_inputs: Path | None = option(
        None, metavar="PATH", help="Also write what each router was given: .safetensors."
    )
    noise_floor: bool = option(
        False,
        help="Then run again, and in padded batches, with the other experts, the other "
        "attention: how many rows change.",
    )
    resume: bool = option(False, help="Go on from the finished parts of a run that was killed.")
    fail_over: tuple[str, ...] = threshold_option(
        "Exit 1 when the dump is over, held against DST", metric_names
    )
    fail_under: tuple[str, ...] = threshold_option("Exit 1 when the dump is under", metric_names)
    no_tokens: bool = no_tokens_option("DST, its parts and the page")
    force: bool = False
    detail: bool = False
    crew: Crew = dataclasses.field(default_factory=Crew)
    reading: Reading = dataclasses.field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.save.suffix != ".parquet":
            raise UnsupportedError(
                f"--save {self.save}: recompute writes native files: expected NAME.parquet"
            )
        if self.no_tokens and self.router_inputs is not None:
            raise RoutectlError("--no-tokens: a file of --router-inputs has token ids")
        refuse_relative(self.limits)

    @property
    def targets(self) -> Mapping[str, Path]:
        """The file of each mode that is run."""
        return targets_of(self.forwarding.mode, self.save)

    @property
    def limits(self) -> "tuple[Threshold, ...]":
        """The thresholds, upper ones first."""
        return parsed_limits(self.fail_over, self.fail_under)


@dataclasses.dataclass(frozen=True, slots=True)
class Recomputed:
    """What was written, by mode, with --noise-floor how many rows change without a cause, and the
    routectl.recompute/1 document: these, and the dump against them.
    """

    files: Mapping[str, Path]
    document: "RecomputeDocument"
    noise: tuple[NoiseRun, ...] = ()


def recompute_dump(request: RecomputeRequest, progress: Progress = SILENT) -> Recomputed | None:
    """Write what a checkpoint's routers select for a dump's tokens, or for router inputs.

    Runs of the noise floor are told to ``progress.part`` as they are done. None in a process of
    torchrun that does not lead.
    """
    from ...reports.document import dump_document
    from ...reports.recompute.document import RecomputedFrom, recompute_document

    request = dataclasses.replace(request, checkpoint=folder_of(request.checkpoint))
    saving = Saving(
        targets=request.targets,
        inputs=request.router_inputs,
        resume=request.resume,
        force=request.force,
    )
    how = request.forwarding
    crew = crew_of(how.device, how.threads, progress, _cluster(request))
    if crew.leads and not (request.resume and parts_folder(request.save).exists()):
        saving.refuse()
    if is_inputs(request.dump):
        return _from_inputs(request, progress) if crew.leads else None
    _refuse_mixed(request)
    if request.router_inputs is not None:
        crew = crew.alone(how.device)
    work = _work(request, crew)
    if not crew.leads:
        crew.follow(work)
        return None
    prepared, source = write_recompute(work, crew, saving)
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    noise = _noise(prepared, source, request.save, progress) if request.noise_floor else ()
    made = RecomputedFrom(
        str(request.checkpoint),
        prepared.provenance,
        dump_document(source.meta, len(source)),
        [_written(mode, path) for mode, path in request.targets.items()],
        [_noise_entry(run) for run in noise],
    )
    compared = _compared(request, source, progress)
    document = recompute_document(made, compared, (*request.fail_over, *request.fail_under))
    return Recomputed(request.targets, document, noise)


def _compared(
    request: RecomputeRequest, source: "Dump", progress: Progress
) -> "dict[str, DiffDocument] | str":
    """The dump against the routes of each mode, or why there is nothing to compare."""
    reading, judging = _reading(request), Judging(limits=request.limits)
    against = Against(request.dump, reading, judging, request.detail)
    return compare_written(against, source, request.targets, request.crew, progress)


def _written(mode: str, path: Path) -> "WrittenEntry":
    from ...formats.native.container import open_native

    opened = open_native(path)
    small = opened.select(layers=opened.meta.layers_L[:1])
    return {
        "mode": mode,
        "path": str(path),
        "samples": len(opened),
        "tokens": sum(sample.num_tokens or 0 for sample in small),
        "file_bytes": path.stat().st_size,
    }


def _noise_entry(run: NoiseRun) -> "NoiseRunEntry":
    return {
        "name": run.name,
        "rows": run.rows,
        "rows_mismatched": run.rows_mismatched,
        "mismatch_rate": run.mismatch_rate,
        "refused": run.refused,
    }


def _from_inputs(request: RecomputeRequest, progress: Progress) -> Recomputed:
    from ...formats.native.container import open_native
    from ...reports.recompute.document import RecomputedFrom, recompute_document

    if request.forwarding.gate_logprobs:
        raise RoutectlError("--gate-logprobs needs the routes of a dump: got router inputs")
    if request.limits:
        raise RoutectlError(f"--fail-over and --fail-under: {request.dump} has no routes")
    if request.reading.expert_map is not None:
        raise RoutectlError(f"--expert-map: {request.dump} are router inputs, which have no ids")
    model = request.reading.facts
    if model is not None and not isinstance(model, Path):
        raise RoutectlError("--model: router inputs need a recipe: expected a config.json")
    output = request.save
    count = recompute_from_inputs(
        request.checkpoint,
        request.dump,
        output,
        force=request.force,
        model=model,
        tokens=not request.no_tokens,
    )
    progress.note(f"wrote {output}: {plural(count, 'sample')}")
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    made = RecomputedFrom(
        str(request.checkpoint),
        open_native(output).meta.provenance,
        request.dump,
        [_written("router inputs", output)],
    )
    document = recompute_document(made, "router inputs have no routes")
    return Recomputed({"router inputs": output}, document)


def _cluster(request: RecomputeRequest) -> "Cluster | None":
    """The Ray cluster that runs the checkpoint; None: this machine does. Raises RoutectlError."""
    if request.crew.ray is None:
        return None
    for name, asked in (
        ("--noise-floor", request.noise_floor),
        ("--router-inputs", request.router_inputs is not None),
        (f"{request.dump}, router inputs,", is_inputs(request.dump)),
    ):
        if asked:
            raise RoutectlError(f"{name} is of one process: expected no --ray")
    return request.crew.cluster


def _refuse_mixed(request: RecomputeRequest) -> None:
    """Refuse options that do not go together."""
    if request.noise_floor and request.forwarding.mode == "both":
        raise RoutectlError("--noise-floor is of one mode: expected --mode free or forced")
    if request.router_inputs is not None and (request.resume or request.forwarding.mode == "both"):
        raise RoutectlError("--router-inputs cannot be written with --resume or --mode both")


def _work(request: RecomputeRequest, crew: DeviceCrew) -> DeviceWork:
    """What is to be run; the checkpoint says the dump's layers, unless something else does."""
    opened = partial(open_source, request.dump, _reading(request))
    return DeviceWork(
        options=run_options(
            request.checkpoint,
            request.forwarding,
            crew,
            want_inputs=request.router_inputs is not None,
        ),
        open_source=opened,
        indices=(),
        output=request.save,
        gates=request.forwarding.gate_logprobs is True,
        tokens=not request.no_tokens,
    )


def _reading(request: RecomputeRequest) -> Reading:
    """How the dump is read; the checkpoint says its layers, unless something else does."""
    reading = request.reading
    if reading.model is not None:
        return reading
    return dataclasses.replace(reading, model=request.checkpoint)


def _noise(
    prepared: "Prepared", source: "Dump", written: Path, progress: Progress
) -> tuple[NoiseRun, ...]:
    """The noise floor of a file that was just written, told as each run is done."""
    from ...formats.native.container import open_native

    found = []
    for run in noise_runs(prepared, source, open_native(written), progress):
        progress.part(run)
        found.append(run)
    return tuple(found)
