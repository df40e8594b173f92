"""``routectl recompute CHECKPOINT DUMP -o DST.parquet``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RoutectlError, UnsupportedError
from ..jobs.recompute.crew import crew_of
from ..jobs.recompute.noise import print_noise_floor
from ..jobs.recompute.parts import parts_folder
from ..jobs.recompute.router_check import CHECKED_TOKENS
from ..jobs.recompute.router_inputs import recompute_from_inputs
from ..jobs.recompute.run import Saving, write_recompute
from ..jobs.recompute.samples import targets_of
from ..jobs.recompute.share import Work
from ..reports.text.wording import plural
from .options import (
    Device,
    Dtype,
    Force,
    Format,
    Html,
    Model,
    NumExperts,
    NumLayers,
    Start,
    Streaming,
    Threads,
    TopK,
    model_from,
    open_input,
)
from .output import note
from .pages import Page, page_at

__all__ = ["recompute_command"]

_CHECKPOINT = typer.Argument(
    metavar="CHECKPOINT",
    show_default=False,
    help="A Hugging Face folder: config and safetensors. For router inputs, one of Megatron's too.",
)
_DUMP = typer.Argument(
    metavar="DUMP",
    show_default=False,
    help="The rollout: token ids, routes. Or a .safetensors of dumped router inputs.",
)
_DST = typer.Option("-o", "--output", metavar="DST", help="The native file: NAME.parquet.")
_MODE = typer.Option(
    "--mode",
    metavar="MODE",
    help="free: the model's own routes; forced: its choices while every layer is given the dump's "
    "routes; both: two files, DST and NAME.forced.parquet.",
)
_PASS = typer.Option("--max-tokens-per-pass", min=1, help="Tokens for which weights are read once.")
_ATTENTION = typer.Option("--attention", help="transformers' attention: eager, sdpa, ...")
_EXPERTS = typer.Option("--experts", help="transformers' experts: eager, grouped_mm, ...")
_LOGPROBS = typer.Option("--logprobs", help="Log-probabilities of the response tokens too.")
_GATES = typer.Option(
    "--gate-logprobs", help="How probable this router finds the dump's experts, for router shift."
)
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
    device: Device = "auto",
    dtype: Dtype = "auto",
    streaming: Streaming = "auto",
    max_tokens_per_pass: Annotated[int | None, _PASS] = None,
    attention: Annotated[str | None, _ATTENTION] = None,
    experts: Annotated[str | None, _EXPERTS] = None,
    logprobs: Annotated[bool, _LOGPROBS] = False,
    gate_logprobs: Annotated[bool, _GATES] = False,
    router_inputs: Annotated[Path | None, _INPUTS] = None,
    threads: Threads = None,
    noise_floor: Annotated[bool, _NOISE] = False,
    resume: Annotated[bool, _RESUME] = False,
    html: Html = None,
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
    saving = Saving(
        targets=targets_of(mode, output), inputs=router_inputs, resume=resume, force=force
    )
    page = page_at(html, force)
    crew = crew_of(device, threads)
    if crew.leads and not (resume and parts_folder(output).exists()):
        saving.refuse()
    if is_router_inputs(Path(dump)):
        if gate_logprobs:
            raise RoutectlError("--gate-logprobs needs the routes of a dump: got router inputs")
        if crew.leads:
            count = recompute_from_inputs(checkpoint, Path(dump), output, force=force, model=model)
            note(f"wrote {output}: {plural(count, 'sample')}")
            _write_summary(output, page)
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
            checkpoint=checkpoint,
            device=crew.devices[0],
            sharing=crew.sharing,
            dtype=dtype,
            mode=mode,
            streaming=streaming,
            max_tokens_per_pass=max_tokens_per_pass,
            attention=attention,
            experts=experts,
            want_logprobs=logprobs,
            want_inputs=router_inputs is not None,
            check_tokens=CHECKED_TOKENS,
        )
    except ValueError as error:
        raise RoutectlError(str(error)) from None
    work = Work(
        options=options,
        open_source=partial(open_input, dump, facts, form, start),
        indices=(),
        output=output,
        gates=gate_logprobs,
    )
    if not crew.leads:
        crew.follow(work)
        return 0
    prepared, source = write_recompute(work, crew, saving)
    _write_summary(output, page)
    if noise_floor:
        print_noise_floor(prepared, source, output)
    return 0


def _write_summary(output: Path, page: Page) -> None:
    """What `routectl show --html` says of the file that was written."""
    if page.path is None:
        return
    from ..ops.summary import summarize
    from ..reports.show.document import summary_document

    summary = summarize(open_input(str(output), None, None, None))
    page.write(summary_document(summary, detail=True))
