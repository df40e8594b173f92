"""``routectl staleness DUMP --at v0=WHERE --at v1=WHERE``."""

from pathlib import Path
from typing import Annotated

import typer

from ..jobs.reading import Reading
from ..jobs.staleness.request import StalenessRequest, answer_staleness
from .dashboards import Step, Tensorboard, Wandb, dashboards_to
from .options import (
    Detail,
    Device,
    Dtype,
    Eps,
    ExitZero,
    Force,
    Format,
    Html,
    Json,
    Layers,
    Model,
    NumExperts,
    NumLayers,
    Output,
    Plain,
    Start,
    Streaming,
    Threads,
    Tokens,
    TopK,
)
from .output import check_output, emit, pictured
from .pages import page_at

__all__ = ["staleness_command"]

_DUMP = typer.Argument(
    metavar="DUMP", show_default=False, help="The rollout: token ids, routes, weight versions."
)
_AT = typer.Option(
    "--at",
    metavar="NAME=WHERE",
    show_default=False,
    help="A version, oldest first, the current weights last; repeatable. WHERE is a dump of its "
    "recomputed routes (twice for one name: free and forced), or a Hugging Face folder, which is "
    "recomputed once.",
)
_SERIES = typer.Option(
    "--series",
    metavar="DIR",
    show_default=False,
    help="In place of DUMP: a folder of steps, each a JSON report of this command, or a folder of "
    "a rollout.* and a dump a version. Prints the trend; thresholds are of the last step.",
)
_MAP = typer.Option(
    "--version-map",
    metavar="FROM=TO",
    show_default=False,
    help="The dump's weight version FROM is --at TO; repeatable.",
)
_OWN = typer.Option("--own", metavar="NAME", help="The version of samples that do not say theirs.")
_STEPS = typer.Option(
    "--mini-steps",
    min=1,
    metavar="N",
    help="Global batch / mini-batch: says whether the run needs no replay, R2 or R3.",
)
_NOISE = typer.Option(
    "--noise-floor",
    help="Run the last checkpoint again, padded, with other experts, other attention: how many "
    "rows change.",
)
_CACHE = typer.Option(
    "--cache",
    metavar="DIR",
    show_default=False,
    help="Where recomputed routes are kept, by what they were made of; REPORT.versions/ beside "
    "-o REPORT when not given.",
)
_MODE = typer.Option(
    "--mode",
    metavar="MODE",
    help="Of checkpoints: free, forced (along the dump's routes: each layer's own flips) or both.",
)
_LOGPROBS = typer.Option(
    "--logprobs/--no-logprobs",
    show_default=False,
    help="Of checkpoints: log-probs too; as the dump has them when not given.",
)
_GATES = typer.Option(
    "--gate-logprobs/--no-gate-logprobs",
    show_default=False,
    help="Of checkpoints: router shift (gamma) too; where the family allows it when not given.",
)
_MATCH = typer.Option("--match", help="Join samples by: auto (id, else tokens), id, tokens, order.")
_ROWS = typer.Option("--rows", help="Staleness of the rows of the dump, or of all.")
_CACHED = typer.Option(
    "--cached",
    help="Rows of reused prefixes: apart from the mismatch, own (in it), or auto: apart where the "
    "dump has several versions.",
)
_CLUSTERS = typer.Option(
    "--clusters", help="What intervals draw: sequence, or prompt (with all its samples)."
)
_LEVEL = typer.Option("--level", help="Confidence of the intervals, between 0 and 1.")
_EXAMPLES = typer.Option("--examples", min=0, help="Mismatched rows to list in --json.")
_OVER = typer.Option(
    "--fail-over", metavar="METRIC[@lagN][@LAYER]:N[%]", help="Exit 1 when over; repeatable."
)
_UNDER = typer.Option(
    "--fail-under", metavar="METRIC[@lagN][@LAYER]:N[%]", help="Exit 1 when under; repeatable."
)


def staleness_command(
    dump: Annotated[str | None, _DUMP] = None,
    at: Annotated[list[str] | None, _AT] = None,
    series: Annotated[Path | None, _SERIES] = None,
    version_map: Annotated[list[str] | None, _MAP] = None,
    own: Annotated[str | None, _OWN] = None,
    mini_steps: Annotated[int | None, _STEPS] = None,
    fail_over: Annotated[list[str] | None, _OVER] = None,
    fail_under: Annotated[list[str] | None, _UNDER] = None,
    noise_floor: Annotated[bool, _NOISE] = False,
    cache: Annotated[Path | None, _CACHE] = None,
    mode: Annotated[str, _MODE] = "free",
    logprobs: Annotated[bool | None, _LOGPROBS] = None,
    gate_logprobs: Annotated[bool | None, _GATES] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    streaming: Streaming = "auto",
    threads: Threads = None,
    tokens: Tokens = "all",
    layers: Layers = None,
    match: Annotated[str, _MATCH] = "auto",
    rows: Annotated[str, _ROWS] = "dump",
    cached: Annotated[str, _CACHED] = "auto",
    clusters: Annotated[str, _CLUSTERS] = "sequence",
    level: Annotated[float, _LEVEL] = 0.95,
    eps: Eps = None,
    examples: Annotated[int, _EXAMPLES] = 0,
    exit_zero: ExitZero = False,
    as_json: Json = False,
    plain: Plain = False,
    detail: Detail = False,
    html: Html = None,
    tensorboard: Tensorboard = None,
    wandb_offline: Wandb = None,
    step: Step = None,
    output: Output = None,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Tell apart what differs between a dump and the current weights: mismatch or staleness.

    Mismatch is the dump against the weights that made it, staleness these weights against later
    ones, total the dump against the last. Each has intervals over sequences, by layer and
    position; then drift, and which replay the run needs. Exit status: 0 measured, or within the
    thresholds, 1 over one, 2 trouble.

    Metrics for thresholds: staleness (with @lagN of one lag), total, mismatch and, of the
    mismatch, every metric of `routectl diff`; total_METRIC is that of the total: total_f2, say.

    -o NAME.json writes the report as JSON, which --series reads.
    """
    from ..reports.staleness.text import render_series, render_staleness

    target = check_output(output, force)
    beside = None if target is None else target.with_name(f"{target.name}.versions")
    request = StalenessRequest(
        dump=dump,
        at=tuple(at or ()),
        series=series,
        version_map=tuple(version_map or ()),
        own=own,
        mini_steps=mini_steps,
        fail_over=tuple(fail_over or ()),
        fail_under=tuple(fail_under or ()),
        noise_floor=noise_floor,
        cache=cache or beside,
        mode=mode,
        logprobs=logprobs,
        gate_logprobs=gate_logprobs,
        device=device,
        dtype=dtype,
        streaming=streaming,
        threads=threads,
        tokens=tokens,
        layers=layers,
        match=match,
        rows=rows,
        cached=cached,
        clusters=clusters,
        level=level,
        eps=eps,
        examples=examples,
        reading=Reading(
            model=model,
            num_layers=num_layers,
            top_k=top_k,
            num_experts=num_experts,
            format=form,
            start=start,
        ),
    )
    page = page_at(html, force)
    boards = dashboards_to(tensorboard, wandb_offline, step)
    as_json = as_json or (target is not None and target.suffix == ".json")
    seen = detail or pictured(as_json, plain, target)
    document = answer_staleness(request, detail=seen)
    page.write(document)
    boards.write(document)
    render = render_staleness if series is None else render_series
    emit(document, render, as_json=as_json, plain=plain, output=target, force=force)
    return 0 if exit_zero else int(document["verdict"]["exit_code"])
