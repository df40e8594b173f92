"""``routectl predict``: routes of later versions out of today's router inputs."""

from ..jobs.predict.request import (
    PredictFitRequest,
    PredictJudgeRequest,
    PredictWriteRequest,
    fit_later,
    judge_later,
    write_predicted,
)
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["predict_commands"]


@desk(PredictFitRequest, "html as_json output summary force")
def _fit(line: CommandLine) -> int:
    """Fit a predictor of later routes (PR2), and judge it on held-out sequences.

    It is, per layer, the matrix that added to the old router's logits comes closest to the routers
    of the later versions.
    """
    from ..reports.predict.text import render_prediction

    request, voices = line.request(PredictFitRequest), line.voices
    voices.refuse()
    voices.tell(fit_later(request, TERMINAL), render_prediction)
    return 0


@desk(PredictJudgeRequest, "html as_json output summary exit_zero force")
def _judge(line: CommandLine) -> int:
    """Judge a predictor on an old version and the versions after it, beside freezing.

    Rows that it was fitted on are left out. Where a version before the old one is named, weights
    extrapolated from the two stand beside it.

    Exit status: 0 done, 1 under --fail-under, 2 trouble.
    """
    from ..reports.predict.text import render_prediction

    request, voices = line.request(PredictJudgeRequest), line.voices
    voices.refuse()
    document = judge_later(request, TERMINAL)
    voices.tell(document, render_prediction)
    return voices.code(document)


@desk(PredictWriteRequest, "as_json")
def _write(line: CommandLine) -> int:
    """Write predicted routes as a dump, for `routectl pack`."""
    line.voices.tell_saved(write_predicted(line.request(PredictWriteRequest), TERMINAL))
    return 0


predict_commands = {"fit": _fit, "judge": _judge, "write": _write}
