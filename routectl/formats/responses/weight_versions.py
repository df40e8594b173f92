"""Which weights sampled which response tokens, in the forms of engines and trainers."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ...dump import WeightSpan
from ...errors import FormatError
from ...visible import quoted
from ..documents.fields import Doc, integer, mapping, sequence, text

__all__ = ["weight_spans"]

_A_TOKEN = ("output_versions", "response_model_steps")  # AReaL, xtuner
_STEPS = ("min_global_steps", "max_global_steps")  # verl


def weight_spans(doc: Doc, length: int | None, where: str) -> tuple[WeightSpan, ...]:
    """Half-open spans over response tokens; empty where nothing is said.

    weight_versions   spans {version, start, end} (SGLang 0.5.23, vLLM 0.32); or one version a
                      generation call (slime, miles)
    weight_version    of all response tokens (SGLang)
    output_versions, response_model_steps  one version a response token (AReaL, xtuner)
    min_global_steps, max_global_steps     the first and last of the sample (verl)

    Where a form does not say which tokens were whose (several calls, several steps), one span has
    all the names, "v3+v4" or "3..5": no version by that name is ever taken for one of them.
    Raises FormatError where spans are incomplete or a version a token is not one a token.
    """
    versions = sequence(doc.get("weight_versions"), where, "weight_versions") or ()
    if versions and all(type(item) in (str, int) for item in versions):
        return _whole(text("+".join(dict.fromkeys(map(str, versions)))) or "", length)
    if versions:
        return tuple(_span(item, where) for item in versions)
    for name in _A_TOKEN:
        each = sequence(doc.get(name), where, name)
        if each is not None:
            return _runs(each, length, f"{where}: {name}")
    lone = text(doc.get("weight_version"))
    first, last = (text(doc.get(name)) for name in _STEPS)
    if lone is None and first is not None:
        lone = first if last in (None, first) else f"{first}..{last}"
    return () if lone is None else _whole(lone, length)


def _whole(version: str, length: int | None) -> tuple[WeightSpan, ...]:
    return (WeightSpan(version, 0, length or 0),)


def _span(item: Any, where: str) -> WeightSpan:
    span = mapping(item, where, "weight_versions")
    start = integer(span.get("start"), where, "weight_versions.start")
    end = integer(span.get("end"), where, "weight_versions.end")
    if start is None or end is None or span.get("version") is None:
        raise FormatError(
            f"{where}: weight_versions: got {quoted(item)}, expected {{version, start, end}}"
        )
    return WeightSpan(text(span["version"]) or "", start, end)


def _runs(each: Sequence[Any], length: int | None, where: str) -> tuple[WeightSpan, ...]:
    """Runs of equal versions, one a response token."""
    if length is not None and len(each) != length:
        raise FormatError(f"{where}: got {len(each)} versions, expected {length}, one a token")
    spans, at = [], 0
    for version, run in groupby(each):
        end = at + len(list(run))
        if version is None:
            raise FormatError(f"{where}: got null for token {at}, expected a version")
        spans.append(WeightSpan(text(version) or "", at, end))
        at = end
    return tuple(spans)
