"""``routectl recompute CHECKPOINT DUMP -o DST.parquet``."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError, UnsupportedError
from ..reports.wording import bytes_text, plural
from .crew import Crew, crew_of
from .noise import print_noise_floor
from .options import (
    Force,
    Format,
    Model,
    NumExperts,
    NumLayers,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import note
from .parts import open_parts, parts_folder
from .recomputed import job_of, meta_of, targets_of
from .router_check import CHECKED_TOKENS, router_checker
from .router_inputs import keeping_inputs, recompute_from_inputs
from .share import Work, run_share, showing

if TYPE_CHECKING:
    from ..dump import Dump
    from ..forward import Prepared
    from .parts import Parts

__all__ = ["recompute_command"]

_CHECKPOINT = typer.Argument(
    metavar="CHECKPOINT",
    show_default=False,
    help="A Hugging Face folder: config and safetensors. For router inputs, one of Megatron's too.",
)
_DUMP = typer.Argument(
    metavar="DUMP", show_default=False,
    help="The rollout: token ids, routes. Or a .safetensors of dumped router inputs.",
)  # fmt: skip
_DST = typer.Option("-o", "--output", metavar="DST", help="The native file: NAME.parquet.")
_MODE = typer.Option(
    "--mode", metavar="MODE",
    help="free: the model's own routes; forced: its choices while every layer is given the dump's "
    "routes; both: two files, DST and NAME.forced.parquet.",
)  # fmt: skip
_DEVICE = typer.Option(
    "--device",
    help="cpu, cuda (all of one kind), cuda:0,cuda:1: a process each. auto: cuda, else cpu.",
)
_DTYPE = typer.Option("--dtype", help="auto (as stored), float32, bfloat16 or float16.")
_STREAMING = typer.Option(
    "--streaming", metavar="HOW",
    help="plain: all weights in memory; stream: layer by layer; auto: plain where they fit.",
)  # fmt: skip
_PASS = typer.Option("--max-tokens-per-pass", min=1, help="Tokens for which weights are read once.")
_ATTENTION = typer.Option("--attention", help="transformers' attention: eager, sdpa, ...")
_EXPERTS = typer.Option("--experts", help="transformers' experts: eager, grouped_mm, ...")
_LOGPROBS = typer.Option("--logprobs", help="Log-probabilities of the response tokens too.")
_THREADS = typer.Option("--threads", min=1, help="CPU threads.")
_INPUTS = typer.Option(
    "--router-inputs", metavar="PATH", help="Also write what each router was given: .safetensors."
)
_NOISE = typer.Option(
    "--noise-floor",
    help="Then run again, and in padded batches, with the other experts, the other attention: how "
    "many rows change.",
)
_RESUME = typer.Option("--resume", help="Go on from the finished parts of a run that was killed.")


def recompute_command(
    checkpoint: Annotated[Path, _CHECKPOINT],
    dump: Annotated[str, _DUMP],
    output: Annotated[Path, _DST],
    mode: Annotated[str, _MODE] = "free",
    device: Annotated[str, _DEVICE] = "auto",
    dtype: Annotated[str, _DTYPE] = "auto",
    streaming: Annotated[str, _STREAMING] = "auto",
    max_tokens_per_pass: Annotated[int | None, _PASS] = None,
    attention: Annotated[str | None, _ATTENTION] = None,
    experts: Annotated[str | None, _EXPERTS] = None,
    logprobs: Annotated[bool, _LOGPROBS] = False,
    router_inputs: Annotated[Path | None, _INPUTS] = None,
    threads: Annotated[int | None, _THREADS] = None,
    noise_floor: Annotated[bool, _NOISE] = False,
    resume: Annotated[bool, _RESUME] = False,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Push a dump's tokens through a checkpoint and write what every router selects.

    The native file has, for every token and MoE layer, the ids in score order and the margins of
    experts and groups, so that `routectl diff DUMP DST` can tell near-ties from clear flips.

    With router inputs in place of a dump, the checkpoint's routers alone are applied to them:
    what they select is then free of everything upstream.
    """
    from ..checkpoints.router_inputs import is_router_inputs
    from ..forward import RunOptions

    if output.suffix != ".parquet":
        raise UnsupportedError(f"{output}: recompute writes native files: expected NAME.parquet")
    saving = _Saving(output=output, inputs=router_inputs, resume=resume, force=force)
    crew = crew_of(device, threads)
    if crew.leads and not (resume and parts_folder(output).exists()):
        saving.refuse(mode)
    if is_router_inputs(Path(dump)):
        if crew.leads:
            count = recompute_from_inputs(checkpoint, Path(dump), output, force=force, model=model)
            note(f"wrote {output}: {plural(count, 'sample')}")
        return 0
    if noise_floor and mode == "both":
        raise RoutectlError("--noise-floor is of one mode: expected --mode free or forced")
    if router_inputs is not None and (resume or mode == "both"):
        raise RoutectlError("--router-inputs cannot be written with --resume or --mode both")
    if router_inputs is not None:
        crew = crew.alone(device)
    facts = model_from(model or checkpoint, num_layers, top_k, num_experts)
    try:
        options = RunOptions(
            checkpoint=checkpoint, device=crew.devices[0], sharing=crew.sharing, dtype=dtype,
            mode=mode, streaming=streaming, max_tokens_per_pass=max_tokens_per_pass,
            attention=attention, experts=experts, want_logprobs=logprobs,
            want_inputs=router_inputs is not None, check_tokens=CHECKED_TOKENS,
        )  # fmt: skip
    except ValueError as error:
        raise RoutectlError(str(error)) from None
    work = Work(
        options=options, open_source=partial(open_input, dump, facts, form, start), indices=(),
        output=output,
    )  # fmt: skip
    if not crew.leads:
        crew.follow(work)
        return 0
    prepared, source = _write(work, crew, saving)
    if noise_floor:
        print_noise_floor(prepared, source, output)
    return 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Saving:
    """Where results go, router inputs too, if anywhere; what may be gone on from or replaced."""

    output: Path
    inputs: Path | None
    resume: bool
    force: bool

    def refuse(self, mode: str) -> None:
        """Raise RoutectlError where a file would be replaced that must not be."""
        from ..files import refuse_existing

        for target in targets_of(mode, self.output).values():
            refuse_existing(target, force=self.force)


def _write(work: Work, crew: Crew, saving: _Saving) -> tuple["Prepared", "Dump"]:
    """Run what is not done yet, part by part, and join the parts of each mode."""
    from ..forward import prepare

    prepared, source = prepare(work.options), work.open_source()
    targets = targets_of(work.options.mode, saving.output)
    parts = open_parts(
        saving.output, job_of(prepared, source), tuple(targets), resume=saving.resume
    )
    parts.tidy()
    todo = parts.todo(len(source))
    if todo:
        saving.refuse(work.options.mode)  # else it is this job's, killed while it was joined
    _announce(prepared, crew)
    if len(todo) < len(source):
        note(f"{plural(len(source) - len(todo), 'sample')} done before; going on")
    try:
        if crew.size == 1:
            _run_alone(prepared, source, todo, parts, saving)
        else:
            crew.run(work, prepared, source, todo)
        if left := parts.todo(len(source)):
            raise RoutectlError(
                f"{parts.folder}: sample {left[0]} is in no part", hint="--resume to go on"
            )
    except BaseException:
        parts.drop_if_empty()
        raise
    for mode, target in targets.items():
        meta = meta_of(prepared, source, mode)
        count = parts.join(mode, meta, target, force=saving.force or not todo)
        note(f"wrote {target}: {plural(count, 'sample')}")
    parts.drop()
    return prepared, source


def _announce(prepared: "Prepared", crew: Crew) -> None:
    about = prepared.provenance
    how = "streamed" if prepared.streamed else "all weights in memory"
    each = f" by each of {crew.size} processes" if crew.size > 1 else ""
    note(
        f"{about['model_type']}, {bytes_text(prepared.store.total_bytes())}, {about['dtype']} on "
        f"{about['device']}: {how}{each} ({about['streamed_because']})"
    )


def _run_alone(
    prepared: "Prepared", source: "Dump", todo: Sequence[int], parts: "Parts", saving: _Saving
) -> None:
    """All samples in this process."""
    with (
        showing(len(todo)) as on_progress,
        keeping_inputs(prepared, source, saving.inputs, force=saving.force) as keep,
    ):
        options = dataclasses.replace(prepared.options, on_progress=on_progress)
        check = router_checker(prepared)
        shown = dataclasses.replace(prepared, options=options)
        run_share(shown, source, todo, parts, lambda result: check(keep(result)))
