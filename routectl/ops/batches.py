"""Samples read one after another, many at a time: as their reader has them together, or joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..columns.samples import SampleColumns
from ..dump import Dump, DumpMeta, Sample, SampleBatch
from ..errors import FormatError
from ..routes import Routes
from .pairs.align import checked

__all__ = ["Refused", "batches", "is_in_columns", "is_of_small", "runs_in_columns"]

_SMALL = 16  # samples of a row group, on average, from which they are small
_BATCH_TOKENS = 4096  # that are counted at a time: a call of the kernel costs microseconds


def _end_to_end(parts: list[Routes]) -> Routes | None:
    """The routes of samples as those of one."""
    if len(parts) < 2:
        return parts[0] if parts else None

    def joined(name: str, nothing: float, dtype: type) -> Any:
        arrays = [getattr(routes, name) for routes in parts]
        if all(array is None for array in arrays):
            return None
        shapes = [routes.ids_TLK.shape[:2] for routes in parts]
        return np.concatenate(
            [
                np.full(shape, nothing, dtype) if array is None else array
                for array, shape in zip(arrays, shapes, strict=True)
            ]
        )

    return replace(
        parts[0],
        ids_TLK=np.concatenate([routes.ids_TLK for routes in parts]),
        missing_TL=joined("missing_TL", False, np.bool_),
        margin_TL=joined("margin_TL", np.nan, np.float16),
        group_margin_TL=joined("group_margin_TL", np.nan, np.float16),
    )


def _together(samples: list[Sample], meta: DumpMeta) -> SampleBatch:
    """Samples as a batch. Raises ValueError for routes of another model than their dump's."""
    routes = [checked(s.routes, meta) for s in samples if s.routes is not None]
    return SampleBatch(
        routes=_end_to_end(routes),
        start=[None if s.routes is None else s.routes.start for s in samples],
        start_inferred=[s.start_inferred for s in samples],
        row_count=[s.row_count for s in samples],
        prompt_length=[s.prompt_length for s in samples],
        response_length=[s.response_length for s in samples],
        cached_tokens=[s.cached_tokens for s in samples],
        retractions=[s.retractions for s in samples],
        finish_reason=[s.finish_reason for s in samples],
        has_logprobs=[s.logprobs is not None for s in samples],
        weight_spans=[s.weight_spans for s in samples],
        segments=[s.segments for s in samples],
    )


def _tokens_of(sample: Sample) -> int:
    """At least so many tokens of a sample take memory."""
    said = (sample.prompt_length or 0) + (sample.response_length or 0)
    return said if sample.routes is None else max(said, sample.routes.num_tokens)


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that its reader refuses: its place in the dump, its name, and why."""

    index: int
    sample: str
    reason: str
    hint: str | None = None

    @property
    def place(self) -> int:
        """The index."""
        return self.index

    @property
    def error(self) -> FormatError:
        """What the reader raised."""
        return FormatError(self.reason, hint=self.hint)


def batches(dump: Dump, span: range) -> Iterator[tuple[Sequence[int], SampleBatch] | Refused]:
    """Samples ``span`` of a dump, each once, with their indices, ascending but for those refused.

    What the reader has together is taken so, unless it goes beyond the span; the others are joined.
    """
    waiting: dict[int, Sample] = {}
    index, tokens = span.start, 0
    while index < span.stop:
        batch = dump.batch(index)
        if batch is not None and index + len(batch) > span.stop:
            batch = None
        if batch is None:
            try:
                waiting[index] = dump[index]
                tokens += _tokens_of(waiting[index])
            except FormatError as error:
                name = dump.keys[index].sample_id or f"#{index}"
                yield Refused(index, name, str(error), error.hint)
        if waiting and (batch is not None or max(tokens, len(waiting)) >= _BATCH_TOKENS):
            yield list(waiting), _together(list(waiting.values()), dump.meta)
            waiting, tokens = {}, 0
        if batch is None:
            index += 1
            continue
        size = len(batch)
        yield range(index, index + size), batch
        index += size
        del batch  # its memory, before that of the next is taken
    if waiting:
        yield list(waiting), _together(list(waiting.values()), dump.meta)


def is_in_columns(dump: Dump) -> bool:
    """Whether a dump's samples are read as columns, which have no margins."""
    return dump.columns_at is not None and dump.starts is not None and not dump.meta.margins


def is_of_small(dump: Dump) -> bool:
    """Whether a dump's samples are read as columns, and are small."""
    if not is_in_columns(dump) or dump.starts is None:
        return False
    return len(dump) >= _SMALL * len(dump.starts)


def runs_in_columns(
    dump: Dump, indices: NDArray[np.int64], *, together: bool
) -> Iterator[tuple[SampleColumns | None, NDArray[np.int64]]]:
    """Runs of ascending indices, each with the columns that they all are in; None: one by one."""
    begin = 0
    while begin < len(indices):
        index = int(indices[begin])
        columns = dump.columns_at(index) if together and dump.columns_at is not None else None
        end = len(indices) if not together else begin + 1
        if columns is not None:
            end = int(np.searchsorted(indices, columns.first + len(columns)))
        yield columns, indices[begin:end]
        begin = end
