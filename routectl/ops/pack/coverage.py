"""Which tokens have no route where the trainer needs one, and whether rows are where they are said.

Shape suffixes: N tokens, L MoE layers.
"""

from dataclasses import dataclass, field

import numpy as np

from ...dump import Dump, Sample
from ...errors import MismatchError
from ...routes import Routes

__all__ = ["Absent", "Starts", "absent_rows", "counts_one_less", "owed_rows", "placed_rows"]

_NAMED = 3  # samples, and starts, that a complaint names
_HINT = (
    "DUMP::start=S when all rows begin at S (0: the first token), else dump each sample's start "
    "with it"
)


@dataclass(frozen=True, slots=True)
class Absent:
    """Rows (a token in a layer) that are not there, of those wanted; where the first would be."""

    rows: int
    wanted: int
    position: int
    layer: int


def owed_rows(num_tokens: int) -> int:
    """How many tokens, from the first on, must have a route: all but the last, never fed."""
    return max(num_tokens - 1, 0)


def absent_rows(routes: Routes | None, num_tokens: int, layers_L: tuple[int, ...]) -> Absent | None:
    """What a sample of N tokens lacks at positions 0 .. N-2, layer by layer; None when nothing.

    By position: a row of the last token, or beyond, stands for no other.
    """
    owed = owed_rows(num_tokens)
    absent_NL = np.ones((owed, len(layers_L)), np.bool_)
    if routes is not None:
        stop = min(routes.stop, owed)
        if routes.start < stop:
            missing = routes.missing_TL
            rows = stop - routes.start
            absent_NL[routes.start : stop] = False if missing is None else missing[:rows]
    if not absent_NL.any():
        return None
    position, column = divmod(int(absent_NL.argmax()), len(layers_L))
    return Absent(int(absent_NL.sum()), absent_NL.size, position, layers_L[column])


@dataclass(slots=True)
class Starts:
    """Where the rows of a dump's samples begin and end, sample by sample, and who said so.

    A start that was computed from the row count is a guess, unless the engine's own count of
    cached tokens says the same; 0 is none, as rows then are there from the first on. declared
    tells that the user gave the start, or that the engine is one that counts a row less.
    """

    declared: bool = False
    at: dict[int, int] = field(default_factory=dict)
    guessed: set[int] = field(default_factory=set)
    short: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    starts: set[int] = field(default_factory=set)

    def __add__(self, other: "Starts") -> "Starts":
        return Starts(
            self.declared,
            self.at | other.at,
            self.guessed | other.guessed,
            self.short | other.short,
            self.names | other.names,
            self.starts | other.starts,
        )

    def add(self, index: int, sample: Sample) -> None:
        """Note a sample; one without routes says nothing."""
        routes, tokens = sample.routes, sample.num_tokens
        if routes is None:
            return
        name = sample.sample_id
        self.names[index] = str(index) if name in (None, str(index)) else f"{index} ({name})"
        self.at[index] = routes.start
        self.starts.add(routes.start)
        if sample.start_inferred and routes.start not in (0, sample.cached_tokens):
            self.guessed.add(index)
        if tokens is not None and routes.stop < tokens - 1:
            self.short[index] = tokens - 1 - routes.stop

    def early(self) -> list[int]:
        """Samples whose rows end before their tokens do.

        One row less in every sample is how an engine counts; here and there it is a lost step.
        """
        everywhere = len(self.short) == len(self.at) > 1
        if set(self.short.values()) <= {1} and (self.declared or everywhere):
            return []
        return sorted(self.short)

    def check(self, path: str) -> None:
        """Raise MismatchError where rows stand at places that were guessed, and may be wrong."""
        doubtful = self.guessed and (len(self.starts) > 1 or self.starts == {1})
        complaint = self._complaint() if doubtful else None
        if complaint is not None:
            raise MismatchError(f"{path}: {complaint}", hint=_HINT)

    def _complaint(self) -> str | None:
        """Why the places of rows are not known, or None: guesses that differ, or are one row off.

        A guess of 1 is N - 2 rows, which stand at 0 where an engine leaves out its last step.
        """
        starts = sorted({self.at[i] for i in self.guessed})
        others = sorted({at for i, at in self.at.items() if i not in self.guessed})
        if len({*starts, *others}) > 1 and starts:
            told = [self._placed(at) for at in starts[:_NAMED]]
            told += [f"{len(starts) - _NAMED} more starts"] * (len(starts) > _NAMED)
            rest = ", ".join(map(str, others[:_NAMED]))
            told += [f"at {rest} in the others"] * bool(others)
            return f"nobody said where rows begin, and by their counts it is {', '.join(told)}"
        if starts == [1]:
            return (
                f"nobody said where rows begin, and N - 2 rows may lack the first or the last: "
                f"{self.listed(sorted(self.guessed))}"
            )
        return None

    def _placed(self, start: int) -> str:
        """A guessed start, and the samples that have it."""
        return (
            f"at {start} in {self.listed(sorted(i for i in self.guessed if self.at[i] == start))}"
        )

    def listed(self, indices: list[int]) -> str:
        """The first of some samples by name, and how many more there are."""
        more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
        return ", ".join(f"sample {self.names[i]}" for i in indices[:_NAMED]) + more


def counts_one_less(engine: str | None) -> bool:
    """Whether an engine's rows may end one before its last step: TensorRT-LLM (#18397)."""
    name = (engine or "").lower().replace("-", "").replace("_", "")
    return name.startswith(("tensorrt", "trtllm"))


def placed_rows(dump: Dump) -> Dump:
    """The same dump, which raises MismatchError at a sample whose start is a guess unlike others.

    For what writes rows by position as it reads.
    """
    starts = Starts()

    def load(index: int) -> Sample:
        sample = dump[index]
        starts.add(index, sample)
        starts.check(dump.meta.path)
        return sample

    return Dump(dump.meta, dump.keys, load)
