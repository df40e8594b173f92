"""A folder or a glob: all its files as one dump, in the order of their names."""

import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..columns.samples import SampleColumns
from ..columns.stored_keys import StoredKeys
from ..dump import Dump, DumpMeta, Sample, SampleBatch
from ..errors import FormatError, MismatchError
from .documents.facts import GUESSED
from .documents.fields import joined
from .wire.sample import NoSamplesError

__all__ = ["join_files"]

_COMPANION = ".request.json"
_ENTERED = "folders in it are not entered; a glob does: '{}/**/*.jsonl'"


def _merge_meta(name: str, parts: Sequence[DumpMeta], skipped: Sequence[str]) -> DumpMeta:
    first = parts[0]
    for part in (p for p in parts[1:] if GUESSED not in (p.facts_source, first.facts_source)):
        for field in ("layers_L", "num_experts", "top_k"):
            if getattr(part, field) != getattr(first, field):
                raise MismatchError(
                    f"{name}: the files are of different models: {field} is "
                    f"{getattr(first, field)} in {first.path} and {getattr(part, field)} in "
                    f"{part.path}"
                )
    return dataclasses.replace(
        first,
        path=name,
        format=f"{joined([p.format for p in parts])}, {len(parts)} file{'s' * (len(parts) > 1)}",
        engine=joined([p.engine for p in parts]),
        engine_version=joined([p.engine_version for p in parts]),
        model=joined([p.model for p in parts]),
        wire_dtype=joined([p.wire_dtype for p in parts]),
        facts_source=joined([p.facts_source for p in parts]),
        num_layers=first.num_layers if len({p.num_layers for p in parts}) == 1 else None,
        order=first.order if len({p.order for p in parts}) == 1 else "unknown",
        margins=any(p.margins for p in parts),
        group_margins=any(p.group_margins for p in parts),
        gates=any(p.gates for p in parts),
        trainer=joined([p.trainer for p in parts]),
        provenance={
            name: joined([p.provenance.get(name) for p in parts]) or ""
            for name in dict.fromkeys(name for p in parts for name in p.provenance)
        },
        file_bytes=sum(p.file_bytes or 0 for p in parts),
        skipped=(*skipped, *(s for p in parts for s in p.skipped)),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Chained:
    """Samples of several files, in this process or another."""

    parts: Sequence[Callable[[], Iterable[Sample]]]

    def __call__(self) -> Iterable[Sample]:
        return chain.from_iterable(part() for part in self.parts)


def _chained(dumps: Sequence[Dump], run: range) -> _Chained:
    """A run of the samples of all files: what each file has of it."""
    parts, end = [], 0
    for dump in dumps:
        begin, end = end, end + len(dump)
        own = range(max(run.start, begin) - begin, min(run.stop, end) - begin)
        if own and dump.elsewhere is not None:
            parts.append(dump.elsewhere(own))
    return _Chained(parts)


def join_files(name: str, files: Sequence[Path], open_one: Callable[[Path], Dump]) -> Dump:
    """The samples of all files as one dump named ``name``.

    Files that read well but hold no samples (configurations, error responses) are named in
    ``meta.skipped``; request companions go with their responses. Raises FormatError when nothing
    is left, MismatchError when the files are of different models.
    """
    dumps: list[Dump] = []
    skipped: list[str] = []
    hints: list[str | None] = []
    for file in sorted(files):
        if file.name.endswith(_COMPANION) or file.name.startswith("."):
            continue
        try:
            dumps.append(open_one(file))
        except NoSamplesError as nothing:
            skipped.append(str(nothing))
            hints.append(nothing.hint)
    if not dumps:
        if not skipped:
            raise FormatError(
                f"{name}: no dump here: got {'no' if not files else len(files)} "
                f"file{'s' * (len(files) != 1)}, expected dumps",
                hint=None if any(sign in name for sign in "*?[") else _ENTERED.format(name),
            )
        raise FormatError(
            f"{name}: no file holds samples, of {len(files)}; {skipped[0]}", hint=hints[0]
        )
    meta = _merge_meta(name, [d.meta for d in dumps], skipped)
    ends = list(accumulate(len(d) for d in dumps))

    def place(index: int) -> tuple[Dump, int]:
        part = bisect_right(ends, index)
        return dumps[part], index - (ends[part] - len(dumps[part]))

    def load(index: int) -> Sample:
        dump, at = place(index)
        return dump[at]

    def batch(index: int) -> SampleBatch | None:
        dump, at = place(index)
        return dump.batch(at)

    def count() -> NDArray[np.int64] | None:
        parts = [d.rows() for d in dumps]
        known = [rows_B for rows_B in parts if rows_B is not None]
        return np.concatenate(known) if len(known) == len(parts) else None

    def columns_at(index: int) -> SampleColumns | None:
        dump, at = place(index)
        found = None if dump.columns_at is None else dump.columns_at(at)
        return None if found is None else dataclasses.replace(found, first=found.first + index - at)

    found = Dump(meta, StoredKeys.chained(d.keys for d in dumps), load, batch=batch, count=count)
    found.columns_at = columns_at
    found.elsewhere = partial(_chained, dumps) if all(d.elsewhere for d in dumps) else None
    starts = [np.arange(len(d)) if d.starts is None else d.starts for d in dumps]
    offsets = [end - len(d) for d, end in zip(dumps, ends, strict=True)]
    found.starts = np.concatenate([a + b for a, b in zip(starts, offsets, strict=True)])
    return found
