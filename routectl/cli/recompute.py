"""``routectl recompute CHECKPOINT DUMP -o DST.parquet``."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RoutectlError, UnsupportedError
from ..reports.wording import bytes_text, plural
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
from .output import note, progress_line, tokens_rate
from .parts import open_parts
from .router_check import CHECKED_TOKENS, router_checker
from .router_inputs import keeping_inputs, recompute_from_inputs

if TYPE_CHECKING:
    from ..dump import Dump, DumpMeta, Sample
    from ..forward import Forwarded, PassProgress, Prepared, RunOptions
    from .parts import Parts

__all__ = ["recompute_command"]

_PART_TOKENS = 65_536  # results held before they are written as a finished part

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
_DEVICE = typer.Option("--device", help="A torch device; auto is cuda where there is one.")
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
    from ..files import refuse_existing
    from ..forward import RunOptions, pick_device, prepare

    if output.suffix != ".parquet":
        raise UnsupportedError(f"{output}: recompute writes native files: expected NAME.parquet")
    for target in _targets(mode, output).values():
        refuse_existing(target, force=force)
    if is_router_inputs(Path(dump)):
        count = recompute_from_inputs(checkpoint, Path(dump), output, force=force, model=model)
        note(f"wrote {output}: {plural(count, 'sample')}")
        return 0
    if noise_floor and mode == "both":
        raise RoutectlError("--noise-floor is of one mode: expected --mode free or forced")
    if router_inputs is not None and (resume or mode == "both"):
        raise RoutectlError("--router-inputs cannot be written with --resume or --mode both")
    device = pick_device(device, threads)
    facts = model_from(model or checkpoint, num_layers, top_k, num_experts)
    source = open_input(dump, facts, form, start)
    try:
        options = RunOptions(
            checkpoint=checkpoint, device=device, dtype=dtype, mode=mode, streaming=streaming,
            max_tokens_per_pass=max_tokens_per_pass, attention=attention, experts=experts,
            want_logprobs=logprobs, want_inputs=router_inputs is not None,
            check_tokens=CHECKED_TOKENS,
        )  # fmt: skip
    except ValueError as error:
        raise RoutectlError(str(error)) from None
    prepared = prepare(options)
    saving = _Saving(inputs=router_inputs, resume=resume, force=force)
    for path, count in _write(prepared, source, output, saving):
        note(f"wrote {path}: {plural(count, 'sample')}")
    if noise_floor:
        print_noise_floor(prepared, source, output)
    return 0


def _announce(prepared: "Prepared") -> None:
    about = prepared.provenance
    how = "streamed" if prepared.streamed else "all weights in memory"
    note(
        f"{about['model_type']}, {bytes_text(prepared.store.total_bytes())}, {about['dtype']} on "
        f"{about['device']}: {how} ({about['streamed_because']})"
    )


@contextmanager
def _showing(options: "RunOptions") -> Iterator["RunOptions"]:
    """The options, with a progress line on stderr on a terminal."""
    with progress_line("", "layers") as show:
        if show is None:
            yield options
            return

        def on_progress(done: "PassProgress") -> None:
            def words(elapsed: float) -> str:
                return f"{tokens_rate(done.tokens / elapsed)}, {bytes_text(done.read_bytes)} read"

            show(done.layer, done.layers, words)

        yield dataclasses.replace(options, on_progress=on_progress)


def _targets(mode: str, output: Path) -> dict[str, Path]:
    """The file of each mode that is run."""
    if mode != "both":
        return {mode: output}
    return {"free": output, "forced": output.with_suffix(".forced.parquet")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Saving:
    """Where router inputs go, if anywhere, and what may be gone on from or replaced."""

    inputs: Path | None
    resume: bool
    force: bool


def _write(
    prepared: "Prepared", source: "Dump", output: Path, saving: _Saving
) -> Iterator[tuple[Path, int]]:
    """Run what is not done yet, part by part, and join the parts of each mode."""
    from ..forward import run_forward

    targets = _targets(prepared.options.mode, output)
    metas = {mode: _meta(prepared, source, mode) for mode in targets}
    parts = {
        mode: open_parts(target, _job(prepared, source, mode), resume=saving.resume)
        for mode, target in targets.items()
    }
    _announce(prepared)
    whole = min(len(part.done()) for part in parts.values())
    for part in parts.values():
        part.keep(whole)
    done = parts[next(iter(parts))].count()
    if done:
        note(f"{plural(done, 'sample')} done before; going on")
    rest = source.subset(range(done, len(source)))
    try:
        with (
            _showing(prepared.options) as options,
            keeping_inputs(prepared, rest, saving.inputs, force=saving.force) as keep,
        ):
            results = run_forward(dataclasses.replace(prepared, options=options), rest)
            checked = map(router_checker(prepared), map(keep, results))
            _write_parts(checked, rest, parts, metas)
    except BaseException:
        for part in parts.values():
            part.drop_if_empty()
        raise
    for mode, target in targets.items():
        yield target, parts[mode].join(metas[mode], target, force=saving.force)


def _write_parts(
    results: "Iterable[Forwarded]",
    source: "Dump",
    parts: "dict[str, Parts]",
    metas: "dict[str, DumpMeta]",
) -> None:
    """Write results as they come, each part at a sample that is done in every mode."""
    held: dict[str, list[Sample]] = {mode: [] for mode in parts}
    tokens = 0

    def flush() -> None:
        for mode, samples in held.items():
            if samples:
                parts[mode].add(samples, metas[mode])
            held[mode] = []

    for result in results:
        sample = source[result.index]
        held[result.mode].append(_recomputed(sample, result, metas[result.mode]))
        tokens += len(result.ids_TLK)
        whole = len({len(samples) for samples in held.values()}) == 1
        if tokens >= _PART_TOKENS and whole:
            flush()
            tokens = 0
    flush()


def _recomputed(sample: "Sample", result: "Forwarded", meta: "DumpMeta") -> "Sample":
    """The sample with the model's own choices; what only the engine knew is let go."""
    from ..margins import margins_to_float16
    from ..routes import Routes

    ids_TLK = result.ids_TLK if result.live_TLK is None else result.live_TLK
    both = (result.margins_TL, result.group_margins_TL)
    margins = [None if m is None else margins_to_float16(m) for m in both]
    routes = Routes(ids_TLK, meta.layers_L, meta.num_experts, 0, None, *margins)
    return dataclasses.replace(
        sample, routes=routes, logprobs=result.logprobs_G, weight_spans=(), finish_reason=None,
        cached_tokens=None, retractions=None, start_inferred=False,
    )  # fmt: skip


def _meta(prepared: "Prepared", source: "Dump", mode: str) -> "DumpMeta":
    """What the written file says of itself."""
    from ..dump import DumpMeta

    first = prepared.routers[0]
    about = {name: str(value) for name, value in prepared.provenance.items()}
    return DumpMeta(
        path=source.meta.path, format=source.meta.format, layers_L=prepared.layers,
        num_experts=first.num_choices, top_k=first.top_k, engine="transformers",
        engine_version=about["transformers"], model=about["model_type"],
        facts_source="the checkpoint", file_bytes=source.meta.file_bytes, order="score",
        margins=True, provenance={**about, "mode": mode},
    )  # fmt: skip


def _job(prepared: "Prepared", source: "Dump", mode: str) -> dict[str, Any]:
    """What must be the same for a run to go on from another's parts."""
    about = {n: str(v) for n, v in prepared.provenance.items() if n != "streamed_because"}
    return {
        "checkpoint": str(prepared.options.checkpoint.resolve()),
        "dump": source.meta.path, "dump_bytes": source.meta.file_bytes, "samples": len(source),
        **about, "mode": mode, "logprobs": prepared.options.want_logprobs,
    }  # fmt: skip
