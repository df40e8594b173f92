"""What samples say of themselves: counts, weight versions, groups that share a prompt."""

from collections import OrderedDict

from ...dump import Sample, SampleKey
from ...kernels.rows import diff_rows
from ...routes import Routes
from .results import Book, Place

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

    def check(self, sample: Sample, name: str, book: Book) -> None:
        """Add what the counts of one sample say, and whether its start was guessed."""
        routes, tokens = sample.routes, sample.num_tokens
        if routes is None:
            return
        layers = len(routes.layers_L)
        if sample.start_inferred:
            detail = "1: or N - 2 rows from 0 on, as --start 0 says" if routes.start == 1 else ""
            book.add("R006", Place(name, routes.start), detail=detail)
        if tokens is None:
            return
        over = routes.stop - tokens
        self._placed += 1
        if over > 0:
            book.add("R002", Place(name, tokens), rows=over * layers)
        elif over == 0:
            book.add("R004", Place(name, routes.stop - 1), rows=layers)
        elif sample.row_form == "N":
            book.add("R004", Place(name, routes.stop), rows=layers, detail="it was left out")
        elif over == -2:
            self._short.append((Place(name, routes.stop), layers))
        elif over < -2:
            book.add("R003", Place(name, routes.stop), rows=(-1 - over) * layers)

    def close(self, book: Book) -> None:
        """N - 2 rows everywhere are how an engine counts, here and there a step that is missing."""
        everywhere = len(self._short) == self._placed > 1
        for place, layers in self._short:
            if everywhere:
                book.add("R009", place, rows=layers)
            else:
                detail = "one row short: a step that was not captured"
                book.add("R003", place, rows=layers, detail=detail)


def check_segments(sample: Sample, name: str, book: Book) -> None:
    """Rows that several calls of a sample have: whether they agree."""
    for segment in sample.segments:
        if segment.first is None:
            continue
        rounding = segment.apart == 0 and segment.differing <= _ROUNDING * segment.shared
        versions = {span.version for span in sample.weight_spans}
        detail = "under several weight versions" if len(versions) > 1 and not rounding else ""
        book.add(
            "R404" if rounding else "R403",
            Place(name, *segment.first),
            rows=segment.differing,
            layers=segment.layers,
            detail=detail,
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
        _compare(known[1], sample.routes, end, name, book)

    def close(self, book: Book) -> None:
        """Say of the samples without routes whether a sibling has them all."""
        for group, names in self._without.items():
            alone = self._with.get(group) == 1
            for name in names:
                book.add("R007" if alone else "R005", Place(name))


def _compare(one: Routes, other: Routes, end: int, name: str, book: Book) -> None:
    lo = max(one.start, other.start)
    hi = min(end, one.stop, other.stop, lo + _PROMPT_ROWS)
    if hi <= lo or one.layers_L != other.layers_L:
        return
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
    if rows >= _LEAST_ROWS and wrong > _UNLIKE * rows:
        book.add("R601", Place(name, lo), rows=wrong)
