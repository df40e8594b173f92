"""Findings of what a dump's own tokens say of its rows: ``alone`` estimates, this names.

With a reference both witnesses are heard: what the reference explains in a sample is not said
again; where the tokens say something else than the reference, either may be wrong (R720).
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
from .alone.tables import Dictionary
from .book.legal import Legal
from .book.results import Book, Fact, Place

__all__ = ["Heard", "TokenWitness"]

_SHIFT = 3  # positions beyond which a whole sample's lag is called a padding side
_KNOWN = ("R103", "R104", "R206", "R207", "R208", "R401")  # what else makes rows that fit nowhere
_LAYERS = (*_KNOWN, "R301", "R302", "R402", "R601")  # and layers
_SEEN = ("R402", "R601")  # what moved rows look like to other checks
_MANY = 0.1  # of the samples that are changed, from which a layer by itself says nothing
_BY = "by its tokens"


@dataclass(frozen=True, slots=True)
class Heard:
    """Names of samples that a reference explains, and of all that it has seen, those included."""

    explained: Set[str] = frozenset()
    seen: Set[str] = frozenset()


@dataclass(slots=True)
class TokenWitness:
    """Takes every sample of a dump, then once more those that it is to judge."""

    meta: DumpMeta
    alone: Alone

    @classmethod
    def of(cls, meta: DumpMeta, prior: Dictionary | None) -> "TokenWitness":
        """One that knows nothing yet, or what another dump of the same weights taught."""
        return cls(meta, Alone(meta, prior))

    def add(self, sample: Sample, index: int, legal: Legal) -> None:
        """Learn from a sample whose rows nothing else explains."""
        if legal.trusted:
            self.alone.add(sample, index)

    def close(
        self, again: Callable[[int], tuple[Sample, Legal]], samples: int, book: Book, told: Heard
    ) -> Power:
        """Read the samples again, add the findings, and say what could be seen.

        ``told`` are names of samples that a reference explains, and of those that it has seen.
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


def _add(result: AloneResult, meta: DumpMeta, book: Book, told: Heard) -> None:
    """All findings of a result."""
    for script in result.scripts:
        if script.sample not in told.explained:
            _add_script(script, len(meta.layers_L), book, script.sample in told.seen)
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
    told: Heard,
    detail: str,
    facts: dict[str, Fact],
) -> None:
    """A finding of one layer, in spans that the reference does not explain."""
    kept = [
        s for s in found.spans if s.sample not in told.seen and not _known(book, s.sample, _LAYERS)
    ]
    size = max(sum(span.end - span.first for span in kept), 1)
    for span in kept:
        part = round(found.rows * (span.end - span.first) / size)
        place = Place(span.sample, span.first, found.layer)
        book.add(code, place, rows=part, layers=[found.layer], detail=detail, facts=facts)


def _known(book: Book, sample: str, codes: tuple[str, ...]) -> bool:
    """Whether another finding already says why a sample's rows fit nowhere."""
    return any(book.has(code, sample) for code in codes)


def _add_script(script: Script, layers: int, book: Book, denied: bool) -> None:
    """The findings of one sample's script; one alone where a reference denies it."""
    edits = [e for e in script.edits if e.kind not in ("renumbered", "exchanged")]
    if _known(book, script.sample, _KNOWN):
        return
    again = book.has("R402", script.sample)
    if again and (book.has("R002", script.sample) or not _shifted(edits)):
        edits = [e for e in edits if e.kind in ("early", "hole", "other")]
    if not edits:
        return
    if denied:
        _, detail, facts = _named(edits[0], script.stretches[0].first)
        rows = layers * sum(e.size for e in edits)
        book.add(
            "R720", Place(script.sample, edits[0].first), rows=rows, detail=detail, facts=facts
        )
        return
    if any(e.kind != "nobody" for e in edits):
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


def _shifted(edits: list[TokenEdit]) -> bool:
    """Whether rows are late or early: a block that is there twice is then no repetition."""
    return any(e.kind in ("late", "early") for e in edits)


def _after(script: Script, edit: TokenEdit) -> int:
    """The tokens whose rows are off after a hole."""
    return max(script.stretches[-1].end - edit.first, 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(edit: TokenEdit, begin: int) -> tuple[str, str, dict[str, Fact]]:
    """The code of an edit, its words and its facts."""
    if edit.kind in ("late", "early"):
        assert edit.lag is not None
        whole = abs(edit.first - begin) <= abs(edit.lag)
        code = "R707" if whole and abs(edit.lag) > _SHIFT else "R701"
        when = f"{_count(abs(edit.lag), 'position')} {'earlier' if edit.lag > 0 else 'later'}"
        return code, f"rows of the token {when}, {_BY}", {"lag": edit.lag}
    if edit.kind in ("hole", "repeated") and edit.size <= _SHIFT and edit.lag is not None:
        words = "later" if edit.kind == "hole" else "earlier"
        detail = f"rows of tokens {edit.size} {words}, from a position on, {_BY}"
        return "R701", detail, {"lag": edit.lag}
    if edit.kind == "hole":
        return "R405", f"the rows of {_count(edit.size, 'token')}, {_BY}", {"size": edit.size}
    if edit.kind == "repeated":
        return "R402", f"the rows of {_count(edit.size, 'token')} again, {_BY}", {"size": edit.size}
    if edit.kind == "inserted":
        return "R406", f"{_count(edit.size, 'row')}, {_BY}", {"size": edit.size}
    if edit.kind == "other":
        return "R710", _BY, {}
    return "R713", f"they fit no tokens of this dump, {_BY}", {"kind": "no tokens"}
