"""What each report comes to, line by line: its verdict, what was compared, the figures that matter.

At most nine lines each; the tenth says how to see more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..check.schema import CheckDocument
from ..check.text import check_headline, checked_rows, finding_size, unseen_text
from ..ci.schema import CiDocument
from ..ci.text import ci_headline
from ..diff.flips import margin_lines
from ..diff.schema import DiffDocument, RowFigures
from ..diff.text import diff_headline
from ..document import Document, FailureEntry
from ..pack.schema import PackDocument, VerifyDocument
from ..pack.text import packed_headline, packed_lines, verified_firsts, verified_headline
from ..predict.schema import PredictDocument
from ..predict.text import prediction_headline
from ..recompute.schema import RecomputeDocument
from ..recompute.text import recompute_headline
from ..show.schema import ShowDocument
from ..show.text import show_headline, show_lines
from ..staleness.gain import gain_sentence
from ..staleness.schema import SeriesDocument, StalenessDocument
from ..staleness.series_text import last_step_text, series_verdict
from ..staleness.tables import headlines, level_text
from ..staleness.text import drift_lines, staleness_verdict
from ..text.tables import Labelled, TextLine
from ..text.wording import (
    amount,
    dump_line,
    failure_text,
    figure,
    layers_text,
    logprob_figure,
    percent,
    plural,
)

__all__ = ["summary_of", "verdict_of"]

Lines = Iterator[TextLine]


def summary_of(document: Document) -> list[TextLine] | None:
    """The lines of a document; None for one whose schema has no summary."""
    summarized = _SUMMARIES.get(document.get("schema", "routectl.pack/1"))
    return None if summarized is None else list(summarized(document))


def verdict_of(document: Document) -> str:
    """The verdict of a document in a line; nothing for one whose schema has no summary."""
    summarized = _SUMMARIES.get(document.get("schema", "routectl.pack/1"))
    return "" if summarized is None else next(summarized(document)).text.plain


def _failed(failed: Sequence[FailureEntry]) -> Lines:
    """The first threshold that was crossed."""
    if failed:
        more = f"; {len(failed) - 1} more" if failed[1:] else ""
        yield TextLine(f"  {failure_text(failed[0])}{more}", 4, "red")


def _worst_layer(layers: Sequence[RowFigures | Mapping[str, Any]]) -> Lines:
    worst: Any = max(layers, key=lambda layer: layer["mismatch_rate"] or 0.0)
    if worst["rows_mismatched"]:
        count = f"{amount(worst['rows_mismatched'])} of {plural(worst['rows'], 'row')}"
        rate = percent(worst["mismatch_rate"])
        yield Labelled("worst", f"layer {worst['layer']}: {count} ({rate})")


def _diff(doc: DiffDocument) -> Lines:
    yield diff_headline(doc)
    yield from _failed(doc["verdict"]["failed"])
    yield Labelled("old", dump_line(doc["old"]))
    yield Labelled("new", dump_line(doc["new"]))
    layers = layers_text([layer["layer"] for layer in doc["layers"]])
    yield Labelled(
        "compared",
        f"{plural(doc['samples']['compared'], 'sample')}, {doc['token_selection']} tokens, "
        f"{layers}; overlap {percent(doc['overlap_rate'])}",
    )
    yield from _worst_layer(doc["layers"])
    for label, text in margin_lines(doc)[:1]:
        yield Labelled(label, text)
    if doc["logprobs"] is not None:
        k3, tokens = logprob_figure(doc["logprobs"], "k3"), doc["logprobs"]["tokens"]
        yield Labelled("log-probs", f"{plural(tokens, 'token')}: k3 {k3}")
    for e in doc["examples"][:1]:
        where = f"sample {e['sample']} position {e['position']} layer {e['layer']}"
        old, new = set(e["old"]), set(e["new"])
        yield Labelled("first", f"{where}: only old {_ids(old - new)}, only new {_ids(new - old)}")


def _ids(ids: set[int]) -> str:
    return " ".join(map(str, sorted(ids))) or "-"


def _check(doc: CheckDocument) -> Lines:
    yield check_headline(doc)
    yield Labelled("dump", dump_line(doc["dump"]))
    if doc["reference"] is not None:
        yield Labelled("against", dump_line(doc["reference"]))
    told = f"{plural(doc['dump']['samples'], 'sample')}, {checked_rows(doc)}"
    found = doc["explanation"]
    if found is not None:
        told += f"; {amount(found['rows_mismatched'])} differ ({percent(found['mismatch_rate'])})"
    yield Labelled("checked", told)
    if unseen_text(doc):
        yield Labelled("unseen", unseen_text(doc))
    for finding in doc["findings"][:1]:
        detail = f": {finding['detail']}" if finding["detail"] else ""
        yield Labelled(
            finding["severity"],
            f"{finding['code']}  {finding['title']}{detail}  "
            f"({', '.join(finding_size(finding)) or 'all'})",
        )
        yield Labelled("do", finding["action"])
    for finding in doc["findings"][1:3]:
        yield Labelled(finding["severity"], f"{finding['code']}  {finding['title']}")
    if doc["findings"][3:]:
        yield Labelled("", f"{plural(len(doc['findings'][3:]), 'finding')} more")


def _recompute(doc: RecomputeDocument) -> Lines:
    yield recompute_headline(doc)
    yield from _failed(doc["verdict"]["failed"])
    yield Labelled("weights", doc["checkpoint"])
    for file in doc["files"][:2]:
        size = f"{plural(file['samples'], 'sample')}, {plural(file['tokens'], 'token')}"
        yield Labelled("written", f"{file['path']}  ({file['mode']}, {size})")
    for one in doc["comparisons"][:1]:
        yield from _worst_layer(one["diff"]["layers"])
    for run in doc["noise"][:1]:
        rate = f"{percent(run['mismatch_rate'])} of {plural(run['rows'], 'row')}"
        yield Labelled("noise", f"{run['name']}: {rate} change")


def _show(doc: ShowDocument) -> Lines:
    yield show_headline(doc)
    for label, text in show_lines(doc):
        if label in ("dump", "model", "tokens", "rows", "size", "weights", "damaged"):
            yield Labelled(label, text)
    full = [layer for layer in doc["layers"] if layer["max_vio"] is not None]
    if full:
        worst = max(full, key=lambda layer: layer["max_vio"] or 0.0)
        dead = sum(layer["dead_experts"] for layer in full)
        vio = f"max_vio {figure(worst['max_vio'])} in layer {worst['layer']}, the greatest"
        yield Labelled("load", f"{vio}; {plural(dead, 'dead expert')} in all layers")


def _staleness(doc: StalenessDocument) -> Lines:
    yield staleness_verdict(doc)
    yield from _failed(doc["verdict"]["failed"])
    yield Labelled("dump", dump_line(doc["dump"]))
    names = ", ".join(version["name"] for version in doc["versions"])
    total = headlines(doc)[-1]
    layers = layers_text([layer["layer"] for layer in total["layers"]])
    yield Labelled("compared", f"versions {names}; {doc['token_selection']} tokens, {layers}")
    yield from _worst_layer(total["layers"])
    gain = gain_sentence(doc["gain"], level_text(doc))
    if gain is not None:
        yield Labelled("gain", gain)
    for label, text in drift_lines(doc)[: 2 if gain is None else 1]:
        yield Labelled(label, text)
    found = sorted(doc["advice"]["findings"], key=lambda finding: not finding["alarm"])
    for finding in found[:2]:
        yield Labelled("ALARM" if finding["alarm"] else "advice", finding["text"])


def _series(doc: SeriesDocument) -> Lines:
    yield series_verdict(doc)
    yield from _failed(doc["verdict"]["failed"])
    yield Labelled("series", doc["path"])
    yield Labelled("last", last_step_text(doc))
    for crossing in doc["crossings"][:2]:
        step = crossing["first_step"]
        when = "never" if step is None else f"first at step {step}"
        yield Labelled("crossed", f"{crossing['threshold']}: {when}")
    for alarm in doc["steps"][-1]["alarms"][:2]:
        yield Labelled("ALARM", alarm)


def _predict(doc: PredictDocument) -> Lines:
    yield prediction_headline(doc)
    yield Labelled("inputs", f"{doc['inputs']}  (of {doc['old']})")
    told = f"{plural(doc['tokens'], 'token')} of {plural(doc['sequences'], 'sequence')}"
    yield Labelled("judged on", f"{told}, {layers_text(doc['layers'])}, top-{doc['top_k']}")
    for one in doc["comparisons"][:5]:
        frozen, predicted = one["frozen"], one["predicted"]
        yield Labelled(
            one["version"],
            f"{percent(frozen['mismatch']['value'])} of rows stale; accuracy "
            f"{percent(frozen['accuracy']['value'])} frozen, "
            f"{percent(predicted['accuracy']['value'])} predicted",
        )


def _pack(doc: PackDocument) -> Lines:
    yield packed_headline(doc)
    for label, text in packed_lines(doc):
        yield Labelled(label, text)


def _verify(doc: VerifyDocument) -> Lines:
    yield verified_headline(doc)
    labels = ("tensors", "dump", "layout", "file", "wrong", "holds", "matches", "hint", "once")
    for label, text in verified_firsts(doc, labels):
        yield Labelled(label, text)


def _ci(doc: CiDocument) -> Lines:
    yield ci_headline(doc)
    bad = [run for run in doc["runs"] if run["status"] != "passed"]
    for run in bad[:4]:
        yield Labelled(run["status"], f"{run['name']}  {run['summary']}")
        if run["details"] and len(bad) <= 4:
            more = f"; {len(run['details']) - 1} more" if run["details"][1:] else ""
            yield Labelled("", f"{run['details'][0]}{more}")
    if bad[4:]:
        yield Labelled("", f"{len(bad) - 4} more did not pass")


_SUMMARIES: dict[str, Callable[[Any], Lines]] = {
    "routectl.diff/1": _diff,
    "routectl.check/1": _check,
    "routectl.recompute/1": _recompute,
    "routectl.show/1": _show,
    "routectl.staleness/1": _staleness,
    "routectl.staleness_series/1": _series,
    "routectl.predict/1": _predict,
    "routectl.pack/1": _pack,
    "routectl.verify/1": _verify,
    "routectl.ci/1": _ci,
}
