"""What ``routectl predict`` is asked: to fit a predictor, to judge one, or to write routes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError
from ...reports.text.wording import plural
from ..options import argument, check_bounds, option, threads_option
from ..progress import SILENT, Progress
from .runs import emit_predicted, fit_versions, judge_versions
from .versions import Sources, named_paths, open_versions

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["PredictRequest", "answer_predict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """Router inputs of an old version, the versions in order of age, and one thing to be done.

    evaluate judges, emit_to is where predicted routes go, inputs_of has router inputs of later
    versions. With fit, output is where the predictor goes. A file is replaced with ``force``
    alone. Raises RoutectlError where options do not go together.
    """

    inputs: Path = argument(
        metavar="INPUTS",
        help="Router inputs of the old version, as `recompute --router-inputs` writes them.",
    )
    at: tuple[str, ...] = option(
        metavar="NAME=CHECKPOINT",
        help="A version, in order of age; repeatable. Lags are differences of the numbers that "
        "end the names.",
    )
    fit: bool = option(False, help="Fit a predictor to the versions after the old one; -o has it.")
    evaluate: bool = option(
        False, name="eval", help="Judge --predictor on rows that it was not fitted on."
    )
    emit_to: Path | None = option(
        None, name="emit", metavar="DST", help="Write predicted routes: NAME.parquet."
    )
    predictor: Path | None = option(None, metavar="PATH", help="What --fit wrote.")
    old: str | None = option(
        None, metavar="NAME", help="The version of INPUTS; the first if not given."
    )
    inputs_of: tuple[str, ...] = option(
        (),
        name="inputs",
        metavar="NAME=PATH",
        help="Router inputs of a later version, of the same tokens; repeatable. Without, its "
        "checkpoint is run.",
    )
    frozen_inputs: bool = option(
        False, help="Give later routers the old hidden states: their own drift alone."
    )
    output: Path | None = option(
        None,
        short="o",
        metavar="PATH",
        help="With --fit the predictor: NAME.safetensors; with --eval the report; - is stdout.",
    )
    fail_under: str | None = option(
        None,
        metavar="gain:N[%]",
        help="Exit 1 when predicted routes gain less accuracy over frozen ones at any lag judged.",
    )
    device: str = option("auto", help="A torch device; auto is cuda where there is one.")
    threads: int | None = threads_option()
    force: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)
        fit, emit_to, output = self.fit, self.emit_to, self.output
        if [fit, self.evaluate, emit_to is not None].count(True) != 1:
            raise RoutectlError("expected one of --fit, --eval and --emit")
        if fit and (output is None or output.suffix != ".safetensors"):
            raise RoutectlError("--fit writes a predictor: expected -o NAME.safetensors")
        if fit and self.predictor is not None:
            raise RoutectlError("--fit begins at zero: --predictor is for --eval and --emit")
        if emit_to is not None and output is not None:
            raise RoutectlError("--emit says where routes go: -o is for --fit and --eval")
        if not fit and self.predictor is None:
            raise RoutectlError("expected --predictor PATH, which --fit wrote")
        if emit_to is not None and emit_to.suffix != ".parquet":
            raise UnsupportedError(f"{emit_to}: predict writes native files: expected NAME.parquet")


def answer_predict(request: PredictRequest, progress: Progress = SILENT) -> "Document | None":
    """The routectl.predict/1 document; None where routes are written."""
    from ...checkpoints.predictor import open_predictor, write_predictor
    from ...checkpoints.router_inputs import open_router_inputs
    from ...files.writing import refuse_existing
    from ...forward import pick_devices
    from ...ops.predict.scores import below, parse_gain
    from ...reports.predict.document import prediction_document

    limit = None if request.fail_under is None else parse_gain(request.fail_under)
    written = request.output if request.fit else request.emit_to
    if written is not None:
        refuse_existing(written, force=request.force)
    paths, files = named_paths("--at", request.at), named_paths("--inputs", request.inputs_of)
    name = next(iter(paths)) if request.old is None else request.old
    for known in (name, *files):
        if known not in paths:
            raise RoutectlError(f"version {known!r} is not one of --at: {', '.join(paths)}")
    where = pick_devices(request.device, request.threads)[0]
    hidden = open_router_inputs(request.inputs)
    held = None if request.predictor is None else open_predictor(request.predictor)
    versions = open_versions(paths, name, hidden, where)
    if request.emit_to is not None:
        assert held is not None
        count = emit_predicted(versions.old, hidden, held, request.emit_to, force=request.force)
        progress.note(f"wrote {request.emit_to}: {plural(count, 'sample')}")
        return None
    if not versions.later:
        raise RoutectlError(f"--at: no version after {name!r}: expected at least one")
    sources = Sources(
        base=hidden,
        files=files,
        frozen=request.frozen_inputs,
        device=where,
        progress=progress,
        how={},
    )
    with sources.later(versions.later) as later:
        if request.fit:
            held = fit_versions(versions, hidden, later, progress)
        assert held is not None
        scores = judge_versions(versions, hidden, later, held, progress)
    if request.fit and request.output is not None:
        write_predictor(held, request.output, force=request.force)
        progress.note(f"wrote {request.output}: {plural(len(held.weights), 'layer')}")
    failed = () if limit is None else below(scores, limit)
    return prediction_document(scores, held.facts, str(request.inputs), sources.how, failed)
