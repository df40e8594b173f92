"""``routectl predict``: routes of later versions out of today's router inputs."""

from dataclasses import replace

from ..jobs.predict.request import PredictRequest, answer_predict
from .desk import CommandLine, desk
from .terminal import TERMINAL

__all__ = ["predict_command"]


@desk(PredictRequest, "as_json force")
def predict_command(line: CommandLine) -> int:
    """Fit, judge and apply a predictor of later routes (PR2), beside freezing and extrapolating.

    --fit finds, per layer, the matrix that added to the old router's logits comes closest to the
    routers of the later versions, and judges it on held-out sequences. --eval judges it on another
    old version and the versions after it, and extrapolates weights from the version before. --emit
    writes predicted routes as a dump for `routectl pack`.

    Exit status: 0 done, 1 under --fail-under, 2 trouble.
    """
    from ..reports.predict.text import render_prediction

    request, voices = line.request(PredictRequest), line.voices
    if request.fit:
        voices = replace(voices, output=None)  # -o is the predictor's then
    voices.refuse()
    document = answer_predict(request, TERMINAL)
    if document is None:
        return 0
    voices.tell(document, render_prediction)
    return int(bool(document["verdict"]["failed"]))
