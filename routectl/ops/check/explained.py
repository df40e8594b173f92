"""What a comparison with a reference came to: mismatch as it is, and under each hypothesis."""

from dataclasses import dataclass

__all__ = ["Explanation", "Score"]


@dataclass(frozen=True, slots=True)
class Score:
    """Rows that a hypothesis was tried on, and those that differ with and without it.

    rows is the region's rows that both sides have under the hypothesis.
    """

    code: str
    name: str
    rows: int
    mismatched: int
    before: int

    @property
    def rate(self) -> float | None:
        """The mismatch that the hypothesis would leave."""
        return self.mismatched / self.rows if self.rows else None

    @property
    def rate_before(self) -> float | None:
        """The mismatch of these rows as they stand."""
        return self.before / self.rows if self.rows else None

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.code,
            self.name,
            self.rows + other.rows,
            self.mismatched + other.mismatched,
            self.before + other.before,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The comparison: rows and mismatched rows, in all and outside of what was explained.

    layers, rows_L and mismatched_L are of the compared layers; scores of hypotheses, the best
    first; permutations are of layers whose experts are renumbered, ``to[dump id] = reference id``.
    """

    rows: int
    mismatched: int
    explained: int
    layers: tuple[int, ...]
    rows_L: tuple[int, ...]
    mismatched_L: tuple[int, ...]
    scores: tuple[Score, ...]
    permutations: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __add__(self, other: "Explanation") -> "Explanation":
        if self.layers != other.layers:
            raise ValueError("explanations of other layers do not add up")
        merged: dict[tuple[str, str], Score] = {}
        for score in (*self.scores, *other.scores):
            key = (score.code, score.name)
            merged[key] = merged[key] + score if key in merged else score
        pairs = zip(self.rows_L, other.rows_L, strict=True)
        wrong = zip(self.mismatched_L, other.mismatched_L, strict=True)
        return Explanation(
            self.rows + other.rows,
            self.mismatched + other.mismatched,
            self.explained + other.explained,
            self.layers,
            tuple(a + b for a, b in pairs),
            tuple(a + b for a, b in wrong),
            tuple(merged.values()),
            tuple(dict([*self.permutations, *other.permutations]).items()),
        )
