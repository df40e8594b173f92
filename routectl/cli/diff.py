"""``routectl diff OLD NEW``."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..jobs.diff.request import DiffRequest, answer_diff, refuse_incomparable
from .desk import CommandLine, desk
from .terminal import TERMINAL

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.diff.schema import DiffDocument
    from ..reports.show.schema import LoadsDocument

__all__ = ["diff_command"]

_VOICES = "html tokenizer exit_zero as_json summary no_tokens output force"


@desk(DiffRequest, _VOICES)
def diff_command(line: CommandLine) -> int:
    """Compare the routes of two dumps of the same tokens.

    Rows are compared as sets of expert ids, by absolute position. Exit status: 0 the same or
    within the thresholds, 1 different or over one, 2 trouble (nothing was comparable, say).
    Samples, layers and rows that one side alone has are different whatever the thresholds say of
    the rest, unless --allow-unmatched; thresholds on unmatched and coverage say how many may be.

    Where a side has margins, mismatched rows are split into ties (margin 0), near-ties (up to
    --eps) and clear flips; the smallest margin known counts, of experts or of groups.

    Where a side has counts of experts and no routes (SGLang's recorder, modes stat and per_pass),
    the loads of the two are compared, and nothing else: load-only; 0 where their shares are the
    same, 1 where not.

    Metrics for thresholds: mismatch, overlap, order, zero_overlap, tie, near, clear,
    margin_coverage, load_shift, load_js, max_vio_old, max_vio_new, min_vio_old, min_vio_new,
    avg_vio_old, avg_vio_new, rows_mismatched, rows_missing (these take @LAYER, or @* for every
    layer), token_mismatch, coverage, unmatched; of log-probs k1, k3, k3_stable, abs_d, max_d,
    f1.1, f1.25, f1.5, f2, f5, f10, token_mult_prob_error, chi2, js, pearson, pearson_probs,
    equal_logprobs.
    """
    request, voices = line.request(DiffRequest), line.voices
    voices.refuse(tabled=True)
    if request.share.partial is not None:
        voices.refuse_report()
    request = replace(request, detail=voices.detailed, table=voices.table, force=voices.force)
    document = answer_diff(request, TERMINAL)
    if request.share.partial is not None:
        voices.tell_saved(document)
        return 0
    if document["schema"] == "routectl.loads/1":
        voices.tell(document, _render_loads)
        return voices.code(document)
    voices.tell(document, _render)
    refuse_incomparable(document)
    return voices.code(document)


def _render(document: "DiffDocument", console: "Console") -> None:
    """As render_diff does, which is not loaded for --json."""
    from ..reports.diff.text import render_diff

    render_diff(document, console)


def _render_loads(document: "LoadsDocument", console: "Console") -> None:
    from ..reports.show.loads import render_loads

    render_loads(document, console)
