"""Rows against tokens: of each sample, and whether all samples follow one convention."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...columns.samples import NONE, SampleColumns
from ...dump import Sample
from ..pairs.align import name_at
from .book.bottom import Bottom, number_of
from .book.ledger import FindingTally, Ledger
from .book.results import PLACES, Book, Place

__all__ = ["RowsAgainstTokens", "guessed"]

_STARTS = 4096  # different ones whose counts are kept apart
_USUAL = (0, 1)  # starts that are never among the rest


@dataclass(frozen=True, slots=True)
class _Start:
    """Where samples begin, and what else would give that place: inferred, or 0, which may be too.

    start is None for many starts together; denied says that the response says otherwise.
    """

    start: int | None
    at_prompt_end: bool
    at_cached: bool
    inferred: bool
    denied: bool

    @property
    def rules(self) -> set[str]:
        """The rules that would give it."""
        found = set() if self.start is None else {f"{self.start}"}
        if self.at_prompt_end:
            found.add("the prompt's end")
        if self.at_cached:
            found.add("the cached tokens")
        return found


@dataclass(frozen=True, slots=True)
class _Starts:
    """Samples by where they begin; detail of a tally is what the first one's response says."""

    tallies: dict[_Start, FindingTally]
    least: int

    def __add__(self, other: "_Starts") -> "_Starts":
        tallies = dict(self.tallies)
        one = {s.start for s in (*tallies, *other.tallies)}
        several = len(one) > 1
        if several:
            tallies = {}
        for source in (self.tallies, other.tallies) if several else (other.tallies,):
            for start, tally in source.items():
                key = start
                if several:
                    ends = start.at_prompt_end, start.at_cached
                    key = _Start(None, *ends, start.inferred, start.denied)
                known = tallies.get(key)
                tallies[key] = tally if known is None else known + tally
        return _Starts(tallies, min(self.least, other.least))


def _cached_words(cached: int | None, prompt: int | None) -> str:
    return f"{cached} of {prompt} prompt tokens were cached"


def guessed(sample: Sample) -> bool:
    """Whether a sample's start was inferred, and nothing that it says gives that place."""
    routes = sample.routes
    known = (0, sample.prompt_length, sample.cached_tokens)
    return sample.start_inferred and routes is not None and routes.start not in known


@dataclass(slots=True)
class RowsAgainstTokens:
    """Counts of samples; those of shards add up."""

    placed: int = 0
    short: FindingTally | None = None
    starts: Bottom[_Starts] = field(default_factory=lambda: Bottom(_STARTS))

    def check(self, sample: Sample, place: tuple[int, str], book: Book) -> bool:
        """Add what the counts of a sample (its index and name) say.

        Returns whether its rows may be in other places than it seems.
        """
        routes, tokens = sample.routes, sample.num_tokens
        if routes is None:
            return False
        (index, name), layers = place, len(routes.layers_L)
        astray = guessed(sample)
        if tokens is None:
            return astray
        over = routes.stop - tokens
        self.placed += 1
        if over > 0:
            detail = f"{over} beyond the last token"
            facts = {"surplus": over}
            book.add("R002", Place(name, tokens), rows=over * layers, detail=detail, facts=facts)
        elif over == 0:
            book.add("R004", Place(name, routes.stop - 1), rows=layers)
        elif sample.row_form == "N":
            book.add("R004", Place(name, routes.stop), rows=layers, detail="it was left out")
        elif over == -2:
            short = FindingTally.of(index, Place(name, routes.stop), layers)
            self.short = short if self.short is None else self.short + short
        elif over < -2:
            book.add("R003", Place(name, routes.stop), rows=(-1 - over) * layers)
        return astray or over < -2

    def check_together(self, columns: SampleColumns, places_S: NDArray[np.int64]) -> None:
        """Add samples at some places of columns, of which ``check`` finds nothing."""
        self.placed += int((columns.num_tokens_S[places_S] != NONE).sum())
        places_S = places_S[columns.start_S[places_S] == 0]
        at_end_S, cached_S = columns.prompt_length_S[places_S] == 0, columns.cached_S[places_S]
        kinds = at_end_S + 2 * (cached_S == 0) + 4 * columns.inferred_S[places_S]
        kinds = kinds + 8 * ((cached_S > 0) & ~at_end_S)
        for kind in np.unique(kinds).tolist():
            of = places_S[kinds == kind].tolist()
            start = _Start(0, bool(kind & 1), bool(kind & 2), bool(kind & 4), kind >= 8)
            told = [(columns.first + at, 0, Place(name_at(columns, at), 0)) for at in of[:PLACES]]
            cached, prompt = columns.cached_S[of[0]], columns.prompt_length_S[of[0]]
            said = _cached_words(int(cached), None if prompt == NONE else int(prompt))
            tally = FindingTally(
                told[0][:2], said if kind >= 8 else "", 0, len(of), frozenset(), tuple(told)
            )
            self.starts.add(0, _Starts({start: tally}, 0))

    def begin(self, sample: Sample, place: tuple[int, str], book: Book) -> None:
        """Count where a sample begins, unless its book says that rows were cut off at its end.

        Those begin elsewhere than they seem to.
        """
        routes = sample.routes
        if routes is None or not (sample.start_inferred or routes.start == 0):
            return
        begin = routes.start
        if begin and book.has("R003", place[1]):
            return
        at_end, at_cached = begin == sample.prompt_length, begin == sample.cached_tokens
        denied = sample.cached_tokens is not None and not at_end and not at_cached
        start = _Start(begin, at_end, at_cached, sample.start_inferred, denied)
        said = _cached_words(sample.cached_tokens, sample.prompt_length)
        tally = FindingTally.of(place[0], Place(place[1], begin), detail=said if denied else "")
        number = begin if begin in _USUAL else number_of(str(begin))
        self.starts.add(number, _Starts({start: tally}, begin))

    def __add__(self, other: "RowsAgainstTokens") -> "RowsAgainstTokens":
        short = self.short or other.short
        if self.short is not None and other.short is not None:
            short = self.short + other.short
        return RowsAgainstTokens(self.placed + other.placed, short, self.starts + other.starts)

    def close(self, ledger: Ledger) -> None:
        """N - 2 rows everywhere are how an engine counts, here and there a step that is missing.

        Starts that nobody gave follow from the row counts, as long as one rule makes them all.
        """
        if self.short is not None and self.short.samples == self.placed > 1:
            ledger.put("R009", self.short)
        elif self.short is not None:
            words = "one row short: a step that was not captured"
            ledger.put("R003", self.short, {"kind": words}, words)
        self._judge_starts(ledger)

    def _every(self) -> Iterator[tuple[_Start, FindingTally, int]]:
        self.starts.trim()
        rest = [] if self.starts.rest is None else [self.starts.rest]
        for starts in (*self.starts.held.values(), *rest):
            for start, tally in starts.tallies.items():
                yield start, tally, starts.least

    def _judge_starts(self, ledger: Ledger) -> None:
        """Say which starts were inferred, and which of them no rule of the dump gives."""
        every = list(self._every())
        if not any(start.inferred for start, _, _ in every):
            return
        counts: Counter[str] = Counter()
        for start, tally, _ in every:
            counts.update(dict.fromkeys(start.rules, tally.samples))
        total = sum(tally.samples for _, tally, _ in every)
        whole = [rule for rule, count in counts.items() if count == total]
        if whole or not counts["0"]:
            names = sorted(whole or counts)
            rule = max(names, key=lambda name: (counts[name], not name.isdigit()))
        else:
            rule = "0"
        for start, tally, least in every:
            at = least if start.start is None else start.start
            if rule not in start.rules:
                among = f"{counts[rule]} of {total} samples"
                why = f"at {at}, while {among} begin at {rule}"
            elif not start.inferred:
                continue
            elif rule == "1":
                why = "one row short: a step is missing (PATH::start=0 says so), or they begin at 1"
            elif start.denied and len(start.rules) == 1:
                why = f"at {at}, while {tally.detail}"
            else:
                ledger.put("R006", tally, {}, "")
                continue
            ledger.put("R013", tally, {"start": at}, why)
