"""outline: what one dump holds where its model is not known."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..damage import DamagedSampleError
from ..dump import Dump, DumpMeta, Sample
from ..errors import FormatError
from ..routes import Routes

__all__ = ["Outline", "outline"]


@dataclass(slots=True)
class Outline:
    """Counts over the samples of a dump whose layers, E and K are nobody's.

    refused are samples whose routes cannot be read so; first_refused is why of the first. tokens
    add up what samples say of themselves; rows are tokens that have routes; shapes are columns and
    ids of their rows; greatest is the greatest id, None without any.
    """

    meta: DumpMeta
    samples: int = 0
    with_routes: int = 0
    with_token_ids: int = 0
    with_logprobs: int = 0
    lengths_unknown: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    rows: int = 0
    shapes: set[tuple[int, int]] = field(default_factory=set)
    greatest: int | None = None
    refused: int = 0
    first_refused: str | None = None
    weight_versions: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        self.samples += 1
        self.with_token_ids += sample.token_ids is not None
        self.with_logprobs += sample.logprobs is not None
        self.lengths_unknown += sample.num_tokens is None
        self.prompt_tokens += sample.prompt_length or 0
        self.response_tokens += sample.response_length or 0
        for span in sample.weight_spans:
            self.weight_versions[span.version] += span.end - span.start
        if sample.routes is not None:
            self._add_routes(sample.routes)

    def _add_routes(self, routes: Routes) -> None:
        self.with_routes += 1
        self.rows += routes.num_tokens
        self.shapes.add((routes.ids_TLK.shape[1], routes.ids_TLK.shape[2]))
        ids = routes.ids_TLK if routes.missing_TL is None else routes.ids_TLK[~routes.missing_TL]
        if ids.size:
            self.greatest = max(int(ids.max()), self.greatest or 0)


def outline(dump: Dump, on_read: Callable[[int, int], None] | None = None) -> Outline:
    """Read every sample once; of one that is refused, all but its routes counts.

    ``on_read`` is told of tokens in routes and samples as they are read.
    """
    found = Outline(dump.meta)
    for index in range(len(dump)):
        before = found.rows
        try:
            found.add(dump[index])
        except FormatError as error:
            found.refused += 1
            found.first_refused = found.first_refused or str(error)
            if isinstance(error, DamagedSampleError):
                found.add(error.sample)
            else:
                found.samples += 1
        if on_read is not None:
            on_read(found.rows - before, 1)
    return found
