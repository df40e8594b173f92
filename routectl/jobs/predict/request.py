"""What ``routectl predict`` is asked: to fit a predictor, to judge one, to write routes."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError, check_choice
from ...reports.text.wording import plural
from ..options import (
    argument,
    check_bounds,
    force_option,
    no_tokens_option,
    option,
    save_option,
    threads_option,
)
from ..progress import SILENT, Progress
from ..reading import WITHOUT_TOKENS
from ..recompute.router_inputs import inputs_at
from .runs import emit_predicted, fit_versions, judge_versions
from .versions import Sources, named_paths, open_versions

if TYPE_CHECKING:
    from ...checkpoints.predictor import Predictor
    from ...checkpoints.router_inputs import RouterInputs
    from ...ops.predict.scores import PredictionScores
    from ...reports.document import Document
    from .versions import OpenVersions

__all__ = [
    "PredictFitRequest",
    "PredictJudgeRequest",
    "PredictVersions",
    "PredictWriteRequest",
    "fit_later",
    "judge_later",
    "write_predicted",
]


_LATER = {  # --inputs of what compares with later versions
    "name": "inputs",
    "metavar": "NAME=PATH",
    "help": "Router inputs of a later version, of the same tokens; repeatable. Without, its "
    "checkpoint is run.",
}
_FROZEN = "Give later routers the old hidden states: their own drift alone."
_PREDICTOR = {"metavar": "PATH", "help": "What predict fit saved."}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictVersions:
    """Router inputs of an old version, and the versions in order of age."""

    inputs: Path = argument(
        metavar="INPUTS",
        help="Router inputs of the old version, as recompute --router-inputs writes them, or a "
        "trace of Megatron-Core with its TRACE::tokens=FILE.",
    )
    at: tuple[str, ...] = option(
        metavar="NAME=CHECKPOINT",
        help="A version, in order of age; repeatable. Lags are differences of the numbers that "
        "end the names.",
    )
    old: str | None = option(
        None, metavar="NAME", help="The version of INPUTS; the first if not given."
    )
    device: str = option("auto", help="A torch device; auto is cuda where there is one.")
    threads: int | None = threads_option()

    def __post_init__(self) -> None:
        check_bounds(self)

    def opened(self, files: Iterable[str] = ()) -> "tuple[RouterInputs, OpenVersions, str]":
        """The router inputs, the versions, and the device that they are on.

        Raises RoutectlError for a name of ``files``, or an old version, that is none of them.
        """
        from ...forward import pick_devices

        paths = named_paths("--at", self.at)
        name = next(iter(paths)) if self.old is None else self.old
        for known in (name, *files):
            check_choice("version", known, paths)
        where = pick_devices(self.device, self.threads)[0]
        hidden = inputs_at(str(self.inputs))
        return hidden, open_versions(paths, name, hidden, where), where


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictFitRequest(PredictVersions):
    """Versions, and where the predictor goes that is fitted to those after the old one."""

    save: Path = save_option("the predictor, NAME.safetensors,", MISSING)
    inputs_of: tuple[str, ...] = option((), **_LATER)
    frozen_inputs: bool = option(False, help=_FROZEN)
    force: bool = force_option()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.save.suffix != ".safetensors":
            raise UnsupportedError(f"--save {self.save}: a predictor: expected NAME.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictJudgeRequest(PredictVersions):
    """Versions, and the predictor that is judged on rows that it was not fitted on."""

    predictor: Path = option(**_PREDICTOR)
    inputs_of: tuple[str, ...] = option((), **_LATER)
    frozen_inputs: bool = option(False, help=_FROZEN)
    fail_under: str | None = option(
        None,
        metavar="gain:N[%]",
        help="Exit 1 when predicted routes gain less accuracy over frozen ones at any lag judged.",
    )
    fail_over: str | None = option(
        None,
        metavar="replaced@RATIO:N[%]",
        help="Exit 1 when more of frozen routes' slots are replaced at any lag: below RATIO of the "
        "weakest own expert's score.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictWriteRequest(PredictVersions):
    """Router inputs, the version that they are of, and the dump that is predicted from them."""

    predictor: Path = option(**_PREDICTOR)
    save: Path = save_option("the dump, NAME.parquet,", MISSING)
    no_tokens: bool = no_tokens_option("the dump")
    force: bool = force_option()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.save.suffix != ".parquet":
            raise UnsupportedError(f"--save {self.save}: a native file: expected NAME.parquet")


def _compared(
    request: PredictFitRequest | PredictJudgeRequest, progress: Progress, held: "Predictor | None"
) -> "tuple[PredictionScores, Predictor, Mapping[str, str]]":
    """Scores of a predictor, fitted here where ``held`` is None, and whence hidden states are."""
    files = named_paths("--inputs", request.inputs_of)
    hidden, versions, where = request.opened(files)
    if not versions.later:
        raise RoutectlError(f"--at: no version after {versions.old.name!r}: expected at least one")
    sources = Sources(
        base=hidden,
        files=files,
        frozen=request.frozen_inputs,
        device=where,
        progress=progress,
        how={},
    )
    with sources.later(versions.later) as later:
        if held is None:
            held = fit_versions(versions, hidden, later, progress)
        scores = judge_versions(versions, hidden, later, held, progress)
    return scores, held, sources.how


def fit_later(request: PredictFitRequest, progress: Progress = SILENT) -> "Document":
    """Write a predictor; returns the routectl.predict/1 document of it, on held-out sequences."""
    from ...checkpoints.predictor import write_predictor
    from ...files.writing import refuse_existing
    from ...reports.predict.document import prediction_document

    refuse_existing(request.save, force=request.force)
    scores, fitted, sources = _compared(request, progress, None)
    write_predictor(fitted, request.save, force=request.force)
    progress.note(f"wrote {request.save}: {plural(len(fitted.weights), 'layer')}")
    return prediction_document(scores, fitted.facts, str(request.inputs), sources)


def judge_later(request: PredictJudgeRequest, progress: Progress = SILENT) -> "Document":
    """The routectl.predict/1 document of a predictor."""
    from ...checkpoints.predictor import open_predictor
    from ...ops.predict.scores import above, below, parse_gain, parse_replaced
    from ...reports.predict.document import prediction_document

    limit = None if request.fail_under is None else parse_gain(request.fail_under)
    most = None if request.fail_over is None else parse_replaced(request.fail_over)
    held = open_predictor(request.predictor)
    scores, _, sources = _compared(request, progress, held)
    failed = () if limit is None else below(scores, limit)
    failed += () if most is None else above(scores, most)
    return prediction_document(scores, held.facts, str(request.inputs), sources, failed)


def write_predicted(request: PredictWriteRequest, progress: Progress = SILENT) -> "Document":
    """Write predicted routes as a native file; returns the routectl.written/1 document."""
    from ...checkpoints.predictor import open_predictor
    from ...files.writing import refuse_existing
    from ...reports.dumps import written_document

    refuse_existing(request.save, force=request.force)
    held = open_predictor(request.predictor)
    hidden, versions, _ = request.opened()
    count = emit_predicted(
        (versions.old, hidden, held),
        request.save,
        force=request.force,
        without_tokens=request.no_tokens,
    )
    progress.note(f"wrote {request.save}: {plural(count, 'sample')}")
    if request.no_tokens:
        progress.note(WITHOUT_TOKENS)
    return written_document(str(request.inputs), str(request.save), count)
