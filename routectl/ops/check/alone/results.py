"""What a dump's own tokens say of its rows: edit scripts, renumbered experts, exchanged layers.

One sign everywhere: a row at position p that carries the route of the token at p - lag has that
lag. A dump that is late by one has lag 1; rows after a hole of 40 lost rows have lag -40.
Shape suffixes: L MoE layers, E experts.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

__all__ = [
    "AloneResult",
    "ExchangedLayer",
    "Power",
    "RenumberedLayer",
    "Script",
    "Span",
    "StrangeLayer",
    "TokenEdit",
    "TokenStretch",
]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions ``first`` up to (not including) ``end`` of a sample, with its index in the dump.

    quiet says that something else explains the sample's rows: they are not named again.
    """

    sample: str
    first: int
    end: int
    index: int = -1
    quiet: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class TokenStretch:
    """Rows of a sample that belong together; positions are absolute, half open.

    kind is "own" (lag 0), "shifted" (the sample's own rows at another lag), "other" (the rows of
    the sample ``source``, at ``lag`` in its positions) or "nobody" (no token sequence fits; lag and
    source are None). score is in bits: how much better the rows fit so than where they stand, or
    for "nobody" than by the layers' frequencies.
    """

    first: int
    end: int
    kind: str
    lag: int | None
    source: str | None = None
    score: float = 0.0

    def earlier(self, by: int) -> "TokenStretch":
        """The same rows, counted from a start that is as much less."""
        lag = None if self.lag is None else self.lag - by
        kind = self.kind
        if kind in ("own", "shifted"):
            kind = "shifted" if lag else "own"
        return replace(self, first=self.first - by, end=self.end - by, kind=kind, lag=lag)


@dataclass(frozen=True, slots=True)
class TokenEdit:
    """What was done at one place of a sample.

    kind is one of "late", "early" (a block of rows of earlier or later tokens, after which rows are
    as before; or the whole sample), "hole" (rows lost before ``first``: those after it are early to
    the end), "repeated" (rows of tokens that came already put in before ``first``), "inserted"
    (rows of another sample or of nobody put in), "other" (another sample's rows in place of its
    own), "nobody", "renumbered", "exchanged". size counts rows, lost ones for a hole.
    """

    kind: str
    first: int
    size: int
    lag: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The edit script of one sample: its stretches in order, those of kind "own" among them.

    inferred says that nobody said the start; lacking counts the rows that are missing at the end.
    """

    sample: str
    index: int
    stretches: tuple[TokenStretch, ...]
    inferred: bool = field(default=False, compare=False)
    lacking: int = field(default=0, compare=False)

    def from_zero(self) -> "Script":
        """As if the start had been said to be 0, where nobody said it and the first rows ask so."""
        start = self.stretches[0].first
        placed = (one.lag for one in self.stretches if one.kind in ("own", "shifted"))
        if not self.inferred or not start or next(placed, None) != start:
            return self
        stretches = tuple(one.earlier(start) for one in self.stretches)
        return replace(self, stretches=stretches, inferred=False, lacking=self.lacking + start)

    def _aside(self, one: TokenStretch, step: int, now: int) -> bool:
        """Whether what is before a stretch is no more than what its lag pushes aside."""
        before, size = one.first - self.stretches[0].first, one.end - one.first
        return before < max(step, 2) or (before == step and size > step and not now)

    @property
    def edits(self) -> tuple[TokenEdit, ...]:
        """What was done to the sample, place by place."""
        made: list[TokenEdit] = []
        placed = [one for one in self.stretches if one.kind in ("own", "shifted")]
        following = dict(pairwise(placed))
        now = 0  # the lag of the rows before
        before: TokenStretch | None = None  # rows that are not the sample's own
        for one in self.stretches:
            size = one.end - one.first
            if one.lag is None or one.kind not in ("own", "shifted"):
                made.append(TokenEdit(one.kind, one.first, size, one.lag, one.source))
                before = one
                continue
            step = one.lag - now
            after = following.get(one)
            returns = after is not None and after.lag == now
            if step and before is not None and step == before.end - before.first:
                made[-1] = TokenEdit("inserted", before.first, step, one.lag, before.source)
            elif step > 0 and self._aside(one, step, now):
                made.append(TokenEdit("late", one.first, size, one.lag))  # what is before is filler
            elif step and (returns or one is self.stretches[0]):
                made.append(TokenEdit("late" if step > 0 else "early", one.first, size, one.lag))
            elif step:
                made.append(
                    TokenEdit("repeated" if step > 0 else "hole", one.first, abs(step), one.lag)
                )
            now, before = now if returns else one.lag, None
        return tuple(made)


@dataclass(frozen=True, slots=True)
class Power:
    """What could have been seen.

    samples and rows (tokens with a route) that were laid against their tokens; learnt counts the
    rows that routes by token were learnt from, tokens the different ones of these. lift_L, bits an
    id: the mean of log2 P(id | token) / P(id) in rows that the probabilities were not learnt from.
    smallest_run is the least number of rows of another token, in a row, that would be named as
    such; None where not even all rows of a sample are enough. reason says why nothing can be
    told, "" where it can. thresholds are in bits: of another lag, of nobody's rows.
    """

    samples: int
    rows: int
    learnt: int
    tokens: int
    layers: tuple[int, ...]
    lift_L: tuple[float, ...]
    smallest_run: int | None
    reason: str = ""
    thresholds: tuple[float, float] = (0.0, 0.0)

    @property
    def enough(self) -> bool:
        """Whether anything could be told."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class RenumberedLayer:
    """A layer whose experts have other numbers in some spans.

    to[dump id] is the number that the larger part of the dump gives the expert; sure tells which
    of them fit no other expert nearly as well (16 bits): the rest of the map is a guess.
    """

    layer: int
    to: tuple[int, ...]
    sure: tuple[bool, ...]
    spans: tuple[Span, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class ExchangedLayer:
    """Some spans of ``layer`` hold the routes of layer ``source``."""

    layer: int
    source: int
    spans: tuple[Span, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class StrangeLayer:
    """Some spans of ``layer`` hold routes that fit no layer, nor renumbered experts."""

    layer: int
    spans: tuple[Span, ...]
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class AloneResult:
    """What a dump's tokens say of its rows.

    lag is that of the dump as a whole, 0 for a sound one. scripts are of the samples that are not
    wholly their own rows, in the dump's order, the first 1,024; changed counts all of those.
    unlike says that rows nowhere follow their tokens as a given dictionary says: they are nobody's,
    or of other weights. without counts samples without token ids or routes, or that their
    reader refuses.
    """

    power: Power
    lag: int = 0
    scripts: tuple[Script, ...] = ()
    renumbered: tuple[RenumberedLayer, ...] = ()
    exchanged: tuple[ExchangedLayer, ...] = ()
    strange: tuple[StrangeLayer, ...] = ()
    changed: int = 0
    unlike: bool = False
    without: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found; also where nothing could be: see ``power``."""
        return not (
            self.unlike
            or self.lag
            or self.changed
            or self.renumbered
            or self.exchanged
            or self.strange
        )
