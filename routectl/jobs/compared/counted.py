"""What counting two dumps gives: figures that add up, before anything is judged."""

from dataclasses import dataclass, replace

from ...ops.diff.result import DiffResult

__all__ = ["CountedPairs"]


@dataclass(frozen=True, slots=True, eq=False)
class CountedPairs:
    """OLD against NEW, and against its rerun; None of what a part has nothing of."""

    result: DiffResult | None = None
    noise: DiffResult | None = None

    def __add__(self, other: "CountedPairs") -> "CountedPairs":
        return replace(
            self,
            result=_both(self.result, other.result),
            noise=_both(self.noise, other.noise),
        )


def _both(a: DiffResult | None, b: DiffResult | None) -> DiffResult | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b
