"""What samples say of themselves: counts, weight versions, groups that share a prompt."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ...dump import Sample, SampleKey
from ...kernels.rows import diff_rows
from ...routes import Routes
from .book.results import Book, Place

__all__ = ["Groups", "RowsAgainstTokens", "WeightVersions", "check_segments"]

_PROMPT_ROWS = 256  # of a prompt that siblings are compared on
_LEAST_ROWS = 32
_ROUNDING = 0.25  # of the rows that two calls have, more than any rounding flips
_UNLIKE = 0.5  # siblings' prompts differ in more rows than any rounding explains
_OPEN_GROUPS = 16


class RowsAgainstTokens:
    """Rows against tokens: of each sample, and whether all samples follow one convention."""

    def __init__(self) -> None:
        self._placed = 0
        self._short: list[tuple[Place, int]] = []
        self._starts: list[_Start] = []
        self._astray: set[str] = set()

    def check(self, sample: Sample, name: str, book: Book) -> None:
        """Add what the counts of one sample say, and whether its start was guessed."""
        routes, tokens = sample.routes, sample.num_tokens
        if routes is None:
            return
        layers = len(routes.layers_L)
        if sample.start_inferred or routes.start == 0:
            place = Place(name, routes.start)
            known = (sample.prompt_length, sample.cached_tokens)
            self._starts.append(_Start(place, routes.start, *known, sample.start_inferred))
        if tokens is None:
            return
        over = routes.stop - tokens
        self._placed += 1
        if over > 0:
            detail = f"{over} beyond the last token"
            facts = {"surplus": over}
            book.add("R002", Place(name, tokens), rows=over * layers, detail=detail, facts=facts)
        elif over == 0:
            book.add("R004", Place(name, routes.stop - 1), rows=layers)
        elif sample.row_form == "N":
            book.add("R004", Place(name, routes.stop), rows=layers, detail="it was left out")
        elif over == -2:
            self._short.append((Place(name, routes.stop), layers))
        elif over < -2:
            book.add("R003", Place(name, routes.stop), rows=(-1 - over) * layers)
            self._astray.add(name)

    def close(self, book: Book) -> set[str]:
        """N - 2 rows everywhere are how an engine counts, here and there a step that is missing.

        Starts that nobody gave follow from the row counts, as long as one rule makes them all.
        Returns the samples whose rows may be in other places than it seems.
        """
        everywhere = len(self._short) == self._placed > 1
        for place, layers in self._short:
            if everywhere:
                book.add("R009", place, rows=layers)
            else:
                detail = "one row short: a step that was not captured"
                book.add("R003", place, rows=layers, detail=detail)
        return self._astray | _judge_starts(self._starts, book)


@dataclass(frozen=True, slots=True)
class _Start:
    """The start of a sample: inferred from its row count, or 0, which may be as well."""

    place: Place
    start: int
    prompt: int | None
    cached: int | None
    inferred: bool

    @property
    def rules(self) -> set[str]:
        """The rules that would give it."""
        found = {f"{self.start}"}
        if self.start == self.prompt:
            found.add("the prompt's end")
        if self.start == self.cached:
            found.add("the cached tokens")
        return found

    @property
    def denied(self) -> bool:
        """Whether what the response says of cached tokens is another start."""
        return self.cached is not None and len(self.rules) == 1


def _judge_starts(starts: Sequence[_Start], book: Book) -> set[str]:
    """Say which starts were inferred, and which of them no rule of the dump gives: the samples."""
    if not any(one.inferred for one in starts):
        return set()
    astray = set()
    counts = Counter(rule for one in starts for rule in one.rules)
    whole = [rule for rule, count in counts.items() if count == len(starts)]
    if whole or not counts["0"]:
        rule = max(whole or counts, key=lambda name: (counts[name], not name.isdigit()))
    else:
        rule = "0"
    for one in starts:
        if rule not in one.rules:
            among = f"{counts[rule]} of {len(starts)} samples"
            why = f"at {one.start}, while {among} begin at {rule}"
        elif not one.inferred:
            continue
        elif rule == "1":
            why = "one row short: a step is missing (PATH::start=0 says so), or they begin at 1"
        elif one.denied:
            said = f"{one.cached} of {one.prompt} prompt tokens were cached"
            why = f"at {one.start}, while {said}"
        else:
            book.add("R006", one.place)
            continue
        book.add("R013", one.place, detail=why, facts={"start": one.place.position or 0})
        astray.add(one.place.sample)
    return astray


def check_segments(sample: Sample, name: str, book: Book) -> None:
    """Rows that several calls of a sample have: whether they agree."""
    versions = {span.version for span in sample.weight_spans}
    versions |= {part.version for part in sample.segments if part.version is not None}
    for segment in sample.segments:
        if segment.first is None:
            continue
        rounding = segment.apart == 0 and segment.differing <= _ROUNDING * segment.shared
        several = len(versions) > 1
        book.add(
            "R404" if rounding and not several else "R403",
            Place(name, *segment.first),
            rows=segment.differing,
            layers=segment.layers,
            detail="under several weight versions" if several else "",
        )


class WeightVersions:
    """Weight versions of the samples so far, in order of first sight."""

    def __init__(self) -> None:
        self.seen: dict[str, None] = {}

    def check(self, sample: Sample, name: str, book: Book) -> None:
        """Add what versions, retractions and cached tokens say of one sample."""
        own = [span.version for span in sample.weight_spans]
        first = next(iter(self.seen), None)
        self.seen |= dict.fromkeys(own)
        several = len(set(own)) > 1
        if several:
            book.add("R501", Place(name))
        if sample.retractions:
            book.add("R502" if several else "R504", Place(name))
        if sample.cached_tokens and own and first is not None and own[0] != first:
            book.add("R503", Place(name, 0))


class Groups:
    """Samples of one group: those without routes, and the rows of the prompt that they share."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[bytes, tuple[str, Routes]] = OrderedDict()
        self._with: dict[str, int] = {}
        self._without: dict[str, list[str]] = {}
        self._unlike: list[tuple[str, Place, int]] = []

    def check(self, sample: Sample, key: SampleKey, name: str, book: Book) -> None:
        """Compare a sample's prompt rows with those of the first sibling."""
        group = sample.group_id or (sample.sample_id or "").rpartition("/")[0]
        if sample.routes is None:
            self._without.setdefault(group, []).append(name)
            return
        if group:
            first = group not in self._without
            self._with[group] = self._with.get(group, 0) + 1 if first else 2
        end = sample.prompt_length
        if key.prompt is None or end is None:
            return
        known = self._prompts.get(key.prompt)
        if known is None:
            self._prompts[key.prompt] = (name, sample.routes)
            if len(self._prompts) > _OPEN_GROUPS:
                self._prompts.popitem(last=False)
            return
        begin, wrong = _compare(known[1], sample.routes, end)
        if wrong:
            self._unlike.append((known[0], Place(name, begin), wrong))

    def close(self, book: Book, astray: set[str]) -> None:
        """Say of the samples without routes whether a sibling has them all, and who disagrees.

        Of samples whose rows went ``astray`` that is no news.
        """
        for sibling, place, rows in self._unlike:
            if not astray & {sibling, place.sample}:
                book.add("R601", place, rows=rows)
        for group, names in self._without.items():
            alone = self._with.get(group) == 1
            for name in names:
                book.add("R007" if alone else "R005", Place(name))


def _compare(one: Routes, other: Routes, end: int) -> tuple[int, int]:
    """Where two siblings' prompts are first compared, and the rows that differ; 0 where few do."""
    lo = max(one.start, other.start)
    hi = min(end, one.stop, other.stop, lo + _PROMPT_ROWS)
    if hi <= lo or one.layers_L != other.layers_L:
        return lo, 0
    sides = [slice(lo - r.start, hi - r.start) for r in (one, other)]
    skip = None
    for routes, part in zip((one, other), sides, strict=True):
        if routes.missing_TL is not None:
            mask = routes.missing_TL[part]
            skip = mask if skip is None else skip | mask
    counts = diff_rows(
        one.ids_TLK[sides[0]], other.ids_TLK[sides[1]], one.num_experts, skip_TL=skip
    )
    rows = int(counts.swaps_LS.sum())
    wrong = int(counts.swaps_LS[:, 1:].sum())
    return lo, wrong if rows >= _LEAST_ROWS and wrong > _UNLIKE * rows else 0
