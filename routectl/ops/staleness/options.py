"""What ``staleness`` is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import unknown
from ..adding.intervals import Bootstrap

__all__ = ["Noise", "StalenessOptions"]

_ROWS = ("dump", "all")
_CACHED = ("auto", "apart", "own")
_CLUSTERS = ("sequence", "prompt")


@dataclass(frozen=True, slots=True)
class Noise:
    """A run of the trainer against itself: rows that changed with nothing but the arithmetic."""

    name: str
    rows: int
    rows_mismatched: int


@dataclass(frozen=True, slots=True)
class StalenessOptions:
    """What is compared, and how.

    version_map  names in the dump's spans -> names of versions, where they differ
    own          the version of samples that have no spans
    layers       0-based transformer layers to compare; None for all
    tokens       all, prompt, or response, as in ops.diff.diff
    match        how samples of the dump and of a version are joined: auto, id, tokens or order
    rows         which rows staleness counts: "dump", those that have a route in the dump (what a
                 replay freezes), or "all" that both versions have, such as the last token's
    cached       rows of a reused prefix: "apart" leaves them out of the mismatch; "own" counts
                 them there as of their sample's version; "auto" is apart where the dump's spans
                 name several versions. They are always compared by themselves as well
    clusters     what intervals draw: whole sequences, or whole prompts with all their samples
    bootstrap    level, replicates and seed of the intervals
    examples     mismatched rows to keep per comparison
    experts      how many of the experts that move most to name
    noise        the noise floor, measured by the caller
    detail       whether to keep where rows differ by layer and position: see ``ops.diff.detail``
    each         whether to keep every compared sample: memory then grows with them

    Raises ValueError for another word than these.
    """

    version_map: Mapping[str, str] = field(default_factory=dict)
    own: str | None = None
    layers: tuple[int, ...] | None = None
    tokens: str = "all"
    match: str = "auto"
    rows: str = "dump"
    cached: str = "auto"
    clusters: str = "sequence"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    examples: int = 0
    experts: int = 10
    noise: tuple[Noise, ...] = ()
    detail: bool = False
    each: bool = False

    def __post_init__(self) -> None:
        for name, known in (("rows", _ROWS), ("cached", _CACHED), ("clusters", _CLUSTERS)):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known, ValueError)
        if self.match == "prefix":
            raise ValueError("a version holds the dump's own sequences: match cannot be prefix")
