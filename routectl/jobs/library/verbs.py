"""diff, check, staleness, summarize and show, of dumps or of paths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from ...dump import Dump
from ...errors import MismatchError
from ..held import HeldDump
from ..progress import SILENT
from .answers import CheckAnswer, DiffAnswer, StalenessAnswer, SummaryAnswer, answer_of
from .asking import Source, asked_in, path_text, request_of
from .keywords import CheckKeywords, DiffKeywords, ShowKeywords, StalenessKeywords

if TYPE_CHECKING:
    import pyarrow as pa

    from ...ops.check.check import CheckOptions
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.options import StalenessOptions
    from ..staleness.request import StalenessRequest
    from .answers import CheckpointAnswer, OutlineAnswer

__all__ = ["check", "diff", "show", "staleness", "summarize"]


def diff(old: Source, new: Source, **options: Unpack[DiffKeywords]) -> DiffAnswer:
    """Compare the routes of two dumps of the same tokens, row by row as sets.

    old, new  dumps, or paths of them: as ``routectl diff`` takes them
    match     how samples are joined: auto (id, else tokens), id, tokens, prefix, order; rows join
              by absolute position
    tokens    all, prompt, or response (from the first generated token as an input)
    layers    0-based transformer layers to compare; None for all that both dumps have
    examples  how many mismatched rows to keep
    detail    whether to keep what a page and a notebook draw beside the figures

    Other keywords are those of the command: ``sample``, ``positions``, ``rerun``, ``eps``,
    ``logprobs``, ``allow_unmatched``, ``jobs``; results of ``shard="1/4"`` to ``"4/4"`` add up to
    that of the whole; ``fail_over`` and ``fail_under`` are held against the result
    by its ``verdict``, nothing is raised for them. ``model`` is that of paths; ``progress`` is told
    what the command says. Raises MismatchError when the dumps cannot be laid side by side or
    nothing was comparable. Metrics and their sources: docs/metrics.md.
    """
    from ..diff.request import DiffRequest, compare_dumps

    progress = options.pop("progress", SILENT)
    request = request_of(DiffRequest, options, old=path_text(old), new=path_text(new))
    rows: list[pa.RecordBatch] = []
    found = compare_dumps(request, progress, take=rows.extend)
    judged = {
        "compared_samples": tuple(rows),
        "limits": request.limits,
        "eps": found.verdict.eps,
        "allow_unmatched": request.allow_unmatched,
        "asked": asked_in(request),
    }
    return answer_of(DiffAnswer, found.result, noise=found.noise, **judged)


def check(
    dump: Source,
    reference: Source | None = None,
    *,
    options: "CheckOptions | None" = None,
    **more: Unpack[CheckKeywords],
) -> CheckAnswer:
    """Read every sample once and say what is wrong with it.

    dump       a dump, or the path of one
    reference  what is right: a dump of the same tokens, the path of one, or of a checkpoint that
               the tokens are pushed through once

    A sample that its reader refuses is a finding too. ``options`` says what is known of the model;
    without it, the model's config does where there is one. Other keywords are those of the
    command: ``select``, ``ignore``, ``ep``, ``eps``, ``fail_on``, ``model``. Raises MismatchError
    when no sample is in both, or E and K are others.
    """
    from ..check.request import CheckRequest, check_and_fix

    progress = more.pop("progress", SILENT)
    against = None if reference is None else path_text(reference)
    request = request_of(CheckRequest, more, dump=path_text(dump), against=against)
    found = check_and_fix(request, progress, options)
    told = {"reference": found.reference, "fail_on": request.fail_on, "asked": asked_in(request)}
    return answer_of(CheckAnswer, found.result, **told)


def staleness(
    dump: Source,
    versions: "Sequence[Version] | Mapping[str, Source | list[Source]]",
    options: "StalenessOptions | None" = None,
    **more: Unpack[StalenessKeywords],
) -> StalenessAnswer:
    """Compare a dump with recomputes of its tokens at several weights, and these with each other.

    versions  in the order of training, the last one the current weights: ``Version`` objects, or
              by name where their routes are, ``{"v0": "v0.parquet", "v1": "checkpoints/1"}``; a
              list for free and forced routes. A checkpoint is recomputed, of paths alone
    options   what is compared, in place of the keywords that say it

    Other keywords are those of the command. What the comparisons mean: docs/staleness.md. Raises
    MismatchError where nothing can be laid side by side.
    """
    from ..staleness.request import StalenessRequest, compare_versions, question_of

    progress = more.pop("progress", SILENT)
    at: list[tuple[str, str]] = []
    _refuse_unnamed(versions)
    if isinstance(versions, Mapping):
        for name, where in versions.items():
            parts = where if isinstance(where, list) else [where]
            at += [(name, path_text(part)) for part in parts]
    texts = tuple(f"{name}={where}" for name, where in at)
    request = request_of(StalenessRequest, more, dump=path_text(dump), at=texts)
    question = question_of(request, progress)
    options = question.options if options is None else options
    question = replace(question, options=replace(options, each=True))  # for a table of samples
    held = [where for _, where in at if isinstance(where, HeldDump)]
    if isinstance(versions, Mapping) and not held:
        result, document = compare_versions(request, question)
    else:
        known = _opened(request, at) if isinstance(versions, Mapping) else versions
        result, document = question.answer(request.reading.open(path_text(dump)), known)
    return answer_of(StalenessAnswer, result, document=document)


def _refuse_unnamed(versions: object) -> None:
    """Raise TypeError for what are neither versions by name nor Version objects."""
    from ...ops.staleness.attribution import Version

    if isinstance(versions, Mapping):
        return
    if not (isinstance(versions, Sequence) and all(isinstance(one, Version) for one in versions)):
        raise TypeError('staleness: expected versions by name, {"v0": "v0.parquet"}, or Versions')


def _opened(request: "StalenessRequest", at: Sequence[tuple[str, str]]) -> "list[Version]":
    """Versions of dumps, some of them in memory. Raises MismatchError for a checkpoint."""
    from ...checkpoints import is_checkpoint
    from ..staleness.versions import mode_of, version_of

    found: dict[str, dict[str, Dump]] = {}
    for name, where in at:
        if not isinstance(where, HeldDump) and is_checkpoint(where):
            raise MismatchError(
                f"version {name}: a checkpoint is recomputed beside versions that are paths too",
                hint="routectl.write makes files of dumps in memory",
            )
        dump = request.reading.open(where)
        found.setdefault(name, {})[mode_of(dump)] = dump
    return [version_of(name, of) for name, of in found.items()]


def summarize(
    dump: Source,
    on_read: Callable[[int, int], None] | None = None,
    **options: Unpack[ShowKeywords],
) -> SummaryAnswer:
    """Read every sample once and add up what a dump, or that of a path, holds.

    A sample that its reader refuses is counted as damaged, and the rest go on; the reader's
    FormatError comes through where every sample is. ``on_read`` is told of tokens in routes and
    samples as they are read, by this process alone; otherwise ``jobs`` or ``ray`` says who reads.
    """
    from ..show.request import ShowRequest, summarize_opened

    progress = options.pop("progress", SILENT)
    request = request_of(ShowRequest, options, path=path_text(dump))
    opened = request.reading.open(request.path, progress=progress)
    summary, lift = summarize_opened(request, opened, progress, on_read)
    return answer_of(SummaryAnswer, summary, lift=lift)


def show(
    path: Source, **options: Unpack[ShowKeywords]
) -> "SummaryAnswer | OutlineAnswer | CheckpointAnswer":
    """What a dump holds, as ``summarize`` says it, or what weights are in a checkpoint's folder.

    Of a dump whose model nothing tells, what can be told without it.
    """
    from ...checkpoints import is_checkpoint
    from ...formats.documents.facts import GUESSED, Guess
    from ...ops.outline import outline
    from ..show.request import ShowRequest, refuse_parts, summarize_opened
    from .answers import CheckpointAnswer, OutlineAnswer

    progress, where = options.pop("progress", SILENT), path_text(path)
    request = request_of(ShowRequest, options, path=where)
    if not isinstance(where, HeldDump) and is_checkpoint(where):
        from ...checkpoints import open_checkpoint
        from ...checkpoints.facts import checkpoint_facts

        refuse_parts(request, "a checkpoint")
        return answer_of(CheckpointAnswer, checkpoint_facts(open_checkpoint(where)))
    opened = request.reading.open(where, Guess(), progress)
    if GUESSED in (opened.meta.facts_source or ""):
        refuse_parts(request, "a dump that does not say its model")
        return answer_of(OutlineAnswer, outline(opened))
    summary, lift = summarize_opened(request, opened, progress)
    return answer_of(SummaryAnswer, summary, lift=lift)
