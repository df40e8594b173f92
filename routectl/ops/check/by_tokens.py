"""Findings of what a dump's own tokens say of its rows: ``alone`` estimates, this names.

With a reference both witnesses are heard: what the reference explains in a sample is not said
again; what the tokens alone say is, since a reference may have the same fault.
"""

from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass

from ...dump import DumpMeta, Sample
from ...errors import FormatError
from .alone.alone import Alone
from .alone.results import (
    AloneResult,
    ExchangedLayer,
    Power,
    RenumberedLayer,
    Script,
    StrangeLayer,
    TokenEdit,
)
from .book.legal import Legal
from .book.results import Book, Fact, Place

__all__ = ["TokenWitness"]

_SHIFT = 3  # positions beyond which a whole sample's lag is called a padding side
_FILLER = ("R206", "R207", "R208", "R401", "R402")  # what nobody's rows are known as already
_SEEN = ("R402", "R601")  # what moved rows look like to other checks
_MANY = 0.1  # of the samples that are changed, from which a layer by itself says nothing
_BY = "by its tokens"


@dataclass(slots=True)
class TokenWitness:
    """Takes every sample of a dump, then once more those that it is to judge."""

    meta: DumpMeta
    alone: Alone

    @classmethod
    def of(cls, meta: DumpMeta) -> "TokenWitness":
        """One that knows nothing yet."""
        return cls(meta, Alone(meta))

    def add(self, sample: Sample, index: int, legal: Legal) -> None:
        """Learn from a sample whose rows nothing else explains."""
        if legal.trusted:
            self.alone.add(sample, index)

    def close(
        self, again: Callable[[int], tuple[Sample, Legal]], samples: int, book: Book, told: Set[str]
    ) -> Power:
        """Read the samples again, add the findings, and say what could be seen.

        ``told`` are names of samples that a reference explains.
        """
        power = self.alone.learn()
        if power.enough:
            for index in range(samples):
                with suppress(FormatError):
                    sample, legal = again(index)
                    if legal.trusted:
                        self.alone.judge(sample, index)
            _add(self.alone.result(), self.meta, book, told)
        return power


def _add(result: AloneResult, meta: DumpMeta, book: Book, told: Set[str]) -> None:
    """All findings of a result."""
    for script in result.scripts:
        if script.sample not in told:
            _add_script(script, len(meta.layers_L), book)
    for one in result.renumbered:
        facts: dict[str, Fact] = {"by": _BY, "map": "renumbered"}
        detail = f"{_BY}, {sum(one.sure)} of {len(one.sure)} ids for certain"
        _add_layer(book, "R706", one, told, detail, facts)
    for other in result.exchanged:
        detail = f"{_BY}, it has the routes of layer {other.source}"
        facts = {"by": _BY, "layer": other.layer, "source": other.source}
        _add_layer(book, "R705", other, told, detail, facts)
    if result.changed <= _MANY * result.power.samples:
        for strange in result.strange:
            facts = {"by": _BY, "layer": strange.layer}
            _add_layer(book, "R705", strange, told, f"{_BY}, no layer has its routes", facts)


def _add_layer(
    book: Book,
    code: str,
    found: RenumberedLayer | ExchangedLayer | StrangeLayer,
    told: Set[str],
    detail: str,
    facts: dict[str, Fact],
) -> None:
    """A finding of one layer, in spans that the reference does not explain."""
    kept = [span for span in found.spans if span.sample not in told]
    size = max(sum(span.end - span.first for span in kept), 1)
    for span in kept:
        part = round(found.rows * (span.end - span.first) / size)
        place = Place(span.sample, span.first, found.layer)
        book.add(code, place, rows=part, layers=[found.layer], detail=detail, facts=facts)


def _add_script(script: Script, layers: int, book: Book) -> None:
    """The findings of one sample's script."""
    edits = [e for e in script.edits if e.kind not in ("renumbered", "exchanged")]
    if any(book.has(code, script.sample) for code in _FILLER[:-1]):
        edits = [e for e in edits if e.kind not in ("nobody", "inserted")]
    shifted = any(e.kind in ("late", "early") for e in edits)
    if book.has("R402", script.sample) and not shifted:
        edits = [e for e in edits if e.kind not in ("repeated", "nobody")]
    if not edits:
        return
    for code in _SEEN:
        book.retract(code, script.sample)
    begin = script.stretches[0].first
    for edit in edits:
        code, detail, facts = _named(edit, begin)
        note = f"rows of sample {edit.source}" if edit.kind == "other" else ""
        rows = layers * (edit.size if edit.kind != "hole" else _after(script, edit))
        book.add(
            code,
            Place(script.sample, edit.first, None, note),
            rows=rows,
            detail=detail,
            facts={"by": _BY, **facts},
        )


def _after(script: Script, edit: TokenEdit) -> int:
    """The tokens whose rows are off after a hole."""
    return max(script.stretches[-1].end - edit.first, 0)


def _named(edit: TokenEdit, begin: int) -> tuple[str, str, dict[str, Fact]]:
    """The code of an edit, its words and its facts."""
    if edit.kind in ("late", "early"):
        assert edit.lag is not None
        whole = abs(edit.first - begin) <= abs(edit.lag)
        code = "R707" if whole and abs(edit.lag) > _SHIFT else "R701"
        positions = "1 position" if abs(edit.lag) == 1 else f"{abs(edit.lag)} positions"
        words = f"rows of the token {positions} {'earlier' if edit.lag > 0 else 'later'}, {_BY}"
        return code, words, {"lag": edit.lag}
    if edit.kind == "hole":
        return "R405", f"the rows of {edit.size} tokens, {_BY}", {"size": edit.size}
    if edit.kind == "repeated":
        return "R402", f"the rows of {edit.size} tokens again, {_BY}", {"size": edit.size}
    if edit.kind == "inserted":
        return "R406", f"{edit.size} rows, {_BY}", {"size": edit.size}
    if edit.kind == "other":
        return "R710", _BY, {}
    return "R713", f"they fit no tokens of this dump, {_BY}", {"kind": "no tokens"}
