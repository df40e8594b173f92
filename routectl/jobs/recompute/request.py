"""What ``routectl recompute`` is asked, and the files that it writes."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError
from ...reports.text.wording import plural
from ..options import argument, check_bounds, no_tokens_option, option, threads_option
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS, Reading
from .crew import Crew, crew_of
from .noise import NoiseRun, noise_runs
from .parts import parts_folder
from .router_check import CHECKED_TOKENS
from .router_inputs import recompute_from_inputs
from .run import Saving, write_recompute
from .samples import targets_of
from .share import Work

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared, RunOptions

__all__ = ["Forwarding", "RecomputeRequest", "Recomputed", "recompute_dump"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """Where and how a checkpoint is run."""

    device: str = option(
        "auto",
        help="cpu, cuda (all of one kind), cuda:0,cuda:1: a process each. auto: cuda, else cpu.",
    )
    dtype: str = option("auto", help="auto (as stored), float32, bfloat16 or float16.")
    streaming: str = option(
        "auto",
        metavar="HOW",
        help="plain: all weights in memory; stream: layer by layer; auto: plain where they fit.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecomputeRequest:
    """A checkpoint, the dump whose tokens are pushed through it, and the native file to be written.

    In place of a dump, router inputs: the checkpoint's routers alone are applied to them. A file
    is replaced with ``force`` alone.
    """

    checkpoint: Path = argument(
        metavar="CHECKPOINT",
        help="A Hugging Face folder: config and safetensors. For router inputs, one of "
        "Megatron's too.",
    )
    dump: str = argument(
        metavar="DUMP",
        help="The rollout: token ids, routes. Or a .safetensors of dumped router inputs.",
    )
    output: Path = option(short="o", metavar="DST", help="The native file: NAME.parquet.")
    mode: str = option(
        "free",
        metavar="MODE",
        help="free: the model's own routes; forced: its choices while every layer is given the "
        "dump's routes; both: two files, DST and NAME.forced.parquet.",
    )
    forwarding: Forwarding = dataclasses.field(default_factory=Forwarding)
    max_tokens_per_pass: int | None = option(
        None, least=1, help="Tokens for which weights are read once."
    )
    attention: str | None = option(None, help="transformers' attention: eager, sdpa, ...")
    experts: str | None = option(None, help="transformers' experts: eager, grouped_mm, ...")
    logprobs: bool = option(False, help="Log-probabilities of the response tokens too.")
    gate_logprobs: bool = option(
        False, help="How probable this router finds the dump's experts, for router shift."
    )
    router_inputs: Path | None = option(
        None, metavar="PATH", help="Also write what each router was given: .safetensors."
    )
    threads: int | None = threads_option()
    noise_floor: bool = option(
        False,
        help="Then run again, and in padded batches, with the other experts, the other "
        "attention: how many rows change.",
    )
    resume: bool = option(False, help="Go on from the finished parts of a run that was killed.")
    no_tokens: bool = no_tokens_option("DST, its parts and the page")
    force: bool = False
    reading: Reading = dataclasses.field(default_factory=Reading)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.output.suffix != ".parquet":
            raise UnsupportedError(
                f"{self.output}: recompute writes native files: expected NAME.parquet"
            )
        if self.no_tokens and self.router_inputs is not None:
            raise RoutectlError("--no-tokens: a file of --router-inputs has token ids")
        _ = self.targets

    @property
    def targets(self) -> Mapping[str, Path]:
        """The file of each mode that is run."""
        return targets_of(self.mode, self.output)


@dataclasses.dataclass(frozen=True, slots=True)
class Recomputed:
    """What was written, by mode, and with --noise-floor how many rows change without a cause."""

    files: Mapping[str, Path]
    noise: tuple[NoiseRun, ...] = ()


def recompute_dump(request: RecomputeRequest, progress: Progress = SILENT) -> Recomputed | None:
    """Write what a checkpoint's routers select for a dump's tokens, or for router inputs.

    Runs of the noise floor are told to ``progress.part`` as they are done. None in a process of
    torchrun that does not lead.
    """
    from ...checkpoints.router_inputs import is_router_inputs

    saving = Saving(
        targets=request.targets,
        inputs=request.router_inputs,
        resume=request.resume,
        force=request.force,
    )
    crew = crew_of(request.forwarding.device, request.threads, progress)
    if crew.leads and not (request.resume and parts_folder(request.output).exists()):
        saving.refuse()
    if is_router_inputs(Path(request.dump)):
        return _from_inputs(request, progress) if crew.leads else None
    _refuse_mixed(request)
    if request.router_inputs is not None:
        crew = crew.alone(request.forwarding.device)
    work = _work(request, crew)
    if not crew.leads:
        crew.follow(work)
        return None
    prepared, source = write_recompute(work, crew, saving)
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    noise = _noise(prepared, source, request.output, progress) if request.noise_floor else ()
    return Recomputed(request.targets, noise)


def _from_inputs(request: RecomputeRequest, progress: Progress) -> Recomputed:
    if request.gate_logprobs:
        raise RoutectlError("--gate-logprobs needs the routes of a dump: got router inputs")
    model = request.reading.facts
    if model is not None and not isinstance(model, Path):
        raise RoutectlError("--model: router inputs need a recipe: expected a config.json")
    output = request.output
    count = recompute_from_inputs(
        request.checkpoint,
        Path(request.dump),
        output,
        force=request.force,
        model=model,
        tokens=not request.no_tokens,
    )
    progress.note(f"wrote {output}: {plural(count, 'sample')}")
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return Recomputed({"router inputs": output})


def _refuse_mixed(request: RecomputeRequest) -> None:
    """Refuse options that do not go together."""
    if request.noise_floor and request.mode == "both":
        raise RoutectlError("--noise-floor is of one mode: expected --mode free or forced")
    if request.router_inputs is not None and (request.resume or request.mode == "both"):
        raise RoutectlError("--router-inputs cannot be written with --resume or --mode both")


def _options(request: RecomputeRequest, crew: Crew) -> "RunOptions":
    from ...forward import RunOptions

    how = request.forwarding
    try:
        return RunOptions(
            checkpoint=request.checkpoint,
            device=crew.devices[0],
            sharing=crew.sharing,
            dtype=how.dtype,
            mode=request.mode,
            streaming=how.streaming,
            max_tokens_per_pass=request.max_tokens_per_pass,
            attention=request.attention,
            experts=request.experts,
            want_logprobs=request.logprobs,
            want_inputs=request.router_inputs is not None,
            check_tokens=CHECKED_TOKENS,
        )
    except ValueError as error:
        raise RoutectlError(str(error)) from None


def _work(request: RecomputeRequest, crew: Crew) -> Work:
    """What is to be run; the checkpoint says the dump's layers, unless something else does."""
    reading = request.reading
    if reading.model is None:
        reading = dataclasses.replace(reading, model=request.checkpoint)
    opened = partial(reading.open, request.dump)
    return Work(
        options=_options(request, crew),
        open_source=opened,
        indices=(),
        output=request.output,
        gates=request.gate_logprobs,
        tokens=not request.no_tokens,
    )


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
