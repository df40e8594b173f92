"""Findings of what a dump's own tokens say of its rows: ``alone`` estimates, this names.

With a reference both witnesses are heard: what the reference explains in a sample is not said
again; where the tokens say something else than the reference, either may be wrong (R720).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ...dump import DumpMeta
from .against.maps import IdMap, map_name
from .alone.judged import SCRIPTS, JudgedRows, Learnt, Seen, explained_script
from .alone.misfits import Named
from .alone.results import (
    ExchangedLayer,
    Power,
    RenumberedLayer,
    Script,
    StrangeLayer,
    TokenEdit,
)
from .book.ledger import Ledger
from .book.results import Book, Fact, Place, copied
from .book.scripts import BEGIN_AT_0

__all__ = ["Heard", "Witness"]

_SHIFT = 3  # positions beyond which a whole sample's lag is called a padding side
_KNOWN = ("R103", "R104", "R206", "R207", "R208", "R401")  # what else makes rows that fit nowhere
_LAYERS = (*_KNOWN, "R301", "R302", "R402", "R601")  # and layers
_SEEN = ("R402", "R601")  # what moved rows look like to other checks
_MANY = 0.1  # of the samples that are changed, from which a layer by itself says nothing
_SURE_IDS = 0.5  # of a layer's, from which the rule of a map is told
_BY = "by its tokens"


@dataclass(frozen=True, slots=True)
class Heard:
    """A sample's script that waits for what all misfits are, and the book that it goes into.

    denied says that a reference has seen the sample, and explains nothing of it.
    """

    script: Script
    book: Book
    denied: bool

    @property
    def index(self) -> int:
        """The index of the sample."""
        return self.script.index

    def add(self, layers: int, named: Named | None) -> None:
        """Add the findings to the book; ``named`` are the misfits of the dump."""
        script = self.script if named is None else explained_script(self.script, named)
        _add_script(script, layers, self.book, self.denied)

    def settle(self, layers: int, named: Named | None, ledger: Ledger) -> None:
        """Count the sample's findings, these among them; its own book stays as it is."""
        book = copied(self.book)
        replace(self, book=book).add(layers, named)
        ledger.take(book, self.index)


@dataclass(slots=True)
class Witness:
    """What the tokens of a dump say, sample by sample; shards add up.

    The first scripts with rows that fit no tokens wait until it is known whether those are of
    renumbered experts or exchanged layers.
    """

    seen: Seen = field(default_factory=Seen)
    waiting: tuple[Heard, ...] = ()

    def hear(
        self, judged: JudgedRows, book: Book, ledger: Ledger, layers: int, *, told: bool, seen: bool
    ) -> Book | None:
        """Add what a sample's tokens say to its book, which is returned; None where it waits.

        ``told`` says that its script is explained, ``seen`` that it was compared.
        """
        script = judged.script
        if script is None or told:
            self.seen.count(judged, quiet=seen or _quiet(judged, book))
            return book
        heard = Heard(script, book, seen)
        if any(part.kind == "nobody" for part in script.stretches):
            self.seen.count(judged, quiet=seen or _quiet(judged, book))
            self.waiting = _first((*self.waiting, heard), ledger, layers)
            return None
        heard.add(layers, None)
        self.seen.count(judged, quiet=seen or _quiet(judged, book))
        return book

    def joined(self, other: "Witness", ledger: Ledger, layers: int) -> "Witness":
        """Both; scripts that are no more among the first go into the ledger as they are."""
        waiting = _first((*self.waiting, *other.waiting), ledger, layers)
        return Witness(self.seen + other.seen, waiting)

    def close(self, learnt: Learnt, meta: DumpMeta, ledger: Ledger) -> Power:
        """Add the findings of all samples together, and say what could be seen."""
        power = self.seen.power(learnt.power)
        if not power.enough:
            return power
        named = self.seen.named(learnt)
        for heard in self.waiting:
            heard.settle(len(meta.layers_L), named, ledger)
        _add_layers(named, self.seen, ledger)
        return power


def _first(heard: Iterable[Heard], ledger: Ledger, layers: int) -> tuple[Heard, ...]:
    """The first scripts in the order of the dump; the others are named at once."""
    every = sorted(heard, key=lambda one: one.index)
    for late in every[SCRIPTS:]:
        late.settle(layers, None, ledger)
    return tuple(every[:SCRIPTS])


def _quiet(judged: JudgedRows, book: Book) -> bool:
    """Whether another finding says why layers of a sample fit nowhere."""
    return bool(judged.misfits) and any(
        book.has(c, judged.misfits[0][1].span.sample) for c in _LAYERS
    )


def _add_layers(named: Named, seen: Seen, ledger: Ledger) -> None:
    """Findings of single layers in all samples together."""
    book, indices = Book(), dict[str, int]()
    kinds = {_map_of(one) for one in named.renumbered}
    kind = kinds.pop() if len(kinds) == 1 else "renumbered"
    said = "" if kind == "renumbered" else f" {kind},"
    for one in named.renumbered:
        facts: dict[str, Fact] = {"by": _BY, "map": kind}
        detail = f"{_BY},{said} {sum(one.sure)} of {len(one.sure)} ids for certain"
        indices |= _add_layer("R706", one, book, detail, facts)
    for other in named.exchanged:
        detail = f"{_BY}, it has the routes of layer {other.source}"
        facts = {"by": _BY, "layer": other.layer, "source": other.source}
        indices |= _add_layer("R705", other, book, detail, facts)
    if seen.changed <= _MANY * seen.samples:
        for strange in named.strange:
            facts = {"by": _BY, "layer": strange.layer}
            detail = f"{_BY}, no layer has its routes"
            indices |= _add_layer("R705", strange, book, detail, facts)
    ledger.take(book, indices)


def _map_of(one: RenumberedLayer) -> str:
    """What the map of a layer is, where half of its ids are sure."""
    sure_E = np.array(one.sure)
    if sure_E.mean() < _SURE_IDS:
        return "renumbered"
    to_E = np.where(sure_E, np.array(one.to, np.int64), -1)
    return map_name(IdMap(to_E, sure_E.astype(np.int64), True), len(to_E))


def _add_layer(
    code: str,
    found: RenumberedLayer | ExchangedLayer | StrangeLayer,
    book: Book,
    detail: str,
    facts: dict[str, Fact],
) -> dict[str, int]:
    """Add a finding of one layer, in spans that nothing else explains; its samples' indices."""
    kept = [span for span in found.spans if not span.quiet]
    size = max(sum(span.end - span.first for span in kept), 1)
    for span in kept:
        part = round(found.rows * (span.end - span.first) / size)
        place = Place(span.sample, span.first, found.layer)
        book.add(code, place, rows=part, layers=[found.layer], detail=detail, facts=facts)
    return {span.sample: span.index for span in kept}


def _known(book: Book, sample: str, codes: tuple[str, ...]) -> bool:
    """Whether another finding already says why a sample's rows fit nowhere."""
    return any(book.has(code, sample) for code in codes)


def _add_script(script: Script, layers: int, book: Book, denied: bool) -> None:
    """The findings of one sample's script; one alone where a reference denies it."""
    stood = script
    if not denied:
        script = stood.from_zero()
    if script is not stood and all(one.kind == "own" for one in script.stretches):
        _add_cut(script, layers, book)
        return
    edits = [e for e in script.edits if e.kind not in ("renumbered", "exchanged")]
    if _known(book, script.sample, _KNOWN):
        return
    again = book.has("R402", script.sample)
    if again and (book.has("R002", script.sample) or not _shifted(edits)):
        edits = [e for e in edits if e.kind in ("early", "hole", "other")]
    if not edits:
        return
    if denied:
        _, detail, facts = _named(edits[0], script)
        rows = layers * sum(e.size for e in edits)
        book.add(
            "R720", Place(script.sample, edits[0].first), rows=rows, detail=detail, facts=facts
        )
        return
    if any(e.kind != "nobody" for e in edits):
        for code in _SEEN:
            book.retract(code, script.sample)
    for edit in edits:
        code, detail, facts = _named(edit, script)
        end = edit.first + edit.size - 1
        note = BEGIN_AT_0 if script is not stood else ""
        if edit.kind == "other":
            note = f"to {end}, rows of sample {edit.source}"
        run = edit.kind == "hole" or code == "R701"  # rows that are early or late, all of them
        rows = layers * (_run(script, edit) if run else edit.size)
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


def _add_cut(script: Script, layers: int, book: Book) -> None:
    """Add that the last rows were cut off, of a script that is all rows of position 0 on."""
    size, end = script.lacking, script.stretches[-1].end
    place = Place(script.sample, end, None, f"the last {_count(size, 'token')}")
    detail = f"they begin at 0, {_BY}"
    book.add("R003", place, rows=size * layers, detail=detail, facts={"by": _BY})


def _run(script: Script, edit: TokenEdit) -> int:
    """The tokens whose rows have an edit's lag, from its place on to where another lag begins."""
    end = edit.first
    for one in script.stretches:
        if one.first >= edit.first and one.kind in ("own", "shifted"):
            if one.lag != edit.lag:
                break
            end = one.end
    return end - edit.first


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _named(edit: TokenEdit, script: Script) -> tuple[str, str, dict[str, Fact]]:
    """The code of an edit, its words and its facts."""
    if edit.kind in ("late", "early"):
        assert edit.lag is not None
        whole = abs(edit.first - script.stretches[0].first) <= abs(edit.lag)
        code = "R707" if whole and abs(edit.lag) > _SHIFT else "R701"
        when = f"{_count(abs(edit.lag), 'position')} {'earlier' if edit.lag > 0 else 'later'}"
        return code, f"rows of the token {when}, {_BY}", {"lag": edit.lag}
    shift = edit.kind in ("hole", "repeated") and edit.size <= _SHIFT
    lost = edit.kind == "hole" and edit.size <= script.lacking
    if shift and not lost and edit.lag is not None:
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
