"""``routectl predict``: routes of later versions out of today's router inputs."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RoutectlError, UnsupportedError
from ..jobs.predict.runs import emit_predicted, fit_versions, judge_versions
from ..jobs.predict.versions import Sources, named_paths, open_versions
from ..reports.text.wording import plural
from .options import Force, Json, Plain
from .output import check_output, emit, note

__all__ = ["predict_command"]

_INPUTS = typer.Argument(
    metavar="INPUTS",
    show_default=False,
    help="Router inputs of the old version, as `recompute --router-inputs` writes them.",
)
_AT = typer.Option(
    "--at",
    metavar="NAME=CHECKPOINT",
    show_default=False,
    help="A version, in order of age; repeatable. Lags are differences of the numbers that end the "
    "names.",
)
_OLD = typer.Option("--old", metavar="NAME", help="The version of INPUTS; the first if not given.")
_OF = typer.Option(
    "--inputs",
    metavar="NAME=PATH",
    help="Router inputs of a later version, of the same tokens; repeatable. Without, its "
    "checkpoint is run.",
)
_FROZEN = typer.Option(
    "--frozen-inputs",
    help="Give later routers the old hidden states: their own drift alone.",
)
_FIT = typer.Option("--fit", help="Fit a predictor to the versions after the old one; -o has it.")
_EVAL = typer.Option("--eval", help="Judge --predictor on rows that it was not fitted on.")
_EMIT = typer.Option("--emit", metavar="DST", help="Write predicted routes: NAME.parquet.")
_PREDICTOR = typer.Option("--predictor", metavar="PATH", help="What --fit wrote.")
_OUTPUT = typer.Option(
    "-o",
    "--output",
    metavar="PATH",
    help="With --fit the predictor: NAME.safetensors; with --eval the report; - is stdout.",
)
_UNDER = typer.Option(
    "--fail-under",
    metavar="gain:N[%]",
    help="Exit 1 when predicted routes gain less accuracy over frozen ones at any lag judged.",
)
_DEVICE = typer.Option("--device", help="A torch device; auto is cuda where there is one.")
_THREADS = typer.Option("--threads", min=1, help="CPU threads.")


def predict_command(
    inputs: Annotated[Path, _INPUTS],
    at: Annotated[list[str], _AT],
    fit: Annotated[bool, _FIT] = False,
    evaluate: Annotated[bool, _EVAL] = False,
    emit_to: Annotated[Path | None, _EMIT] = None,
    predictor: Annotated[Path | None, _PREDICTOR] = None,
    old: Annotated[str | None, _OLD] = None,
    inputs_of: Annotated[list[str] | None, _OF] = None,
    frozen_inputs: Annotated[bool, _FROZEN] = False,
    output: Annotated[Path | None, _OUTPUT] = None,
    fail_under: Annotated[str | None, _UNDER] = None,
    device: Annotated[str, _DEVICE] = "auto",
    threads: Annotated[int | None, _THREADS] = None,
    as_json: Json = False,
    plain: Plain = False,
    force: Force = False,
) -> int:
    """Fit, judge and apply a predictor of later routes (PR2), beside freezing and extrapolating.

    --fit finds, per layer, the matrix that added to the old router's logits comes closest to the
    routers of the later versions, and judges it on held-out sequences. --eval judges it on another
    old version and the versions after it, and extrapolates weights from the version before. --emit
    writes predicted routes as a dump for `routectl pack`.

    Exit status: 0 done, 1 under --fail-under, 2 trouble.
    """
    from ..checkpoints.predictor import open_predictor, write_predictor
    from ..checkpoints.router_inputs import open_router_inputs
    from ..files import refuse_existing
    from ..forward import pick_devices
    from ..ops.predict.scores import below, parse_gain
    from ..reports.predict.document import prediction_document
    from ..reports.predict.text import render_prediction

    _check_mode(fit, evaluate, emit_to, predictor, output)
    limit = None if fail_under is None else parse_gain(fail_under)
    report = None if fit else check_output(output, force)
    written = output if fit else emit_to
    if written is not None:
        refuse_existing(written, force=force)
    paths, files = named_paths("--at", at), named_paths("--inputs", inputs_of)
    name = next(iter(paths)) if old is None else old
    for known in (name, *files):
        if known not in paths:
            raise RoutectlError(f"version {known!r} is not one of --at: {', '.join(paths)}")
    where = pick_devices(device, threads)[0]
    hidden = open_router_inputs(inputs)
    held = None if predictor is None else open_predictor(predictor)
    versions = open_versions(paths, name, hidden, where)
    if emit_to is not None:
        assert held is not None
        count = emit_predicted(versions.old, hidden, held, emit_to, force=force)
        note(f"wrote {emit_to}: {plural(count, 'sample')}")
        return 0
    if not versions.later:
        raise RoutectlError(f"--at: no version after {name!r}: expected at least one")
    sources = Sources(base=hidden, files=files, frozen=frozen_inputs, device=where, how={})
    with sources.later(versions.later) as later:
        if fit:
            held = fit_versions(versions, hidden, later)
        assert held is not None
        scores = judge_versions(versions, hidden, later, held)
    if fit and output is not None:
        write_predictor(held, output, force=force)
        note(f"wrote {output}: {plural(len(held.weights), 'layer')}")
    failed = () if limit is None else below(scores, limit)
    document = prediction_document(scores, held.facts, str(inputs), sources.how, failed)
    emit(document, render_prediction, as_json=as_json, plain=plain, output=report, force=force)
    return int(bool(failed))


def _check_mode(
    fit: bool, evaluate: bool, emit_to: Path | None, predictor: Path | None, output: Path | None
) -> None:
    """Refuse options that do not go together."""
    if [fit, evaluate, emit_to is not None].count(True) != 1:
        raise RoutectlError("expected one of --fit, --eval and --emit")
    if fit and (output is None or output.suffix != ".safetensors"):
        raise RoutectlError("--fit writes a predictor: expected -o NAME.safetensors")
    if fit and predictor is not None:
        raise RoutectlError("--fit begins at zero: --predictor is for --eval and --emit")
    if emit_to is not None and output is not None:
        raise RoutectlError("--emit says where routes go: -o is for --fit and --eval")
    if not fit and predictor is None:
        raise RoutectlError("expected --predictor PATH, which --fit wrote")
    if emit_to is not None and emit_to.suffix != ".parquet":
        raise UnsupportedError(f"{emit_to}: predict writes native files: expected NAME.parquet")
