"""Expert loads where a side has no routes: those of its counts, or of a dump's routes."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from ..progress import SILENT, Progress
from ..reading import Reading

if TYPE_CHECKING:
    from ...dump import Dump
    from ...formats.experts.counts import ExpertCounts
    from ...reports.show.loads import Loads
    from ...reports.show.schema import LoadsDocument

__all__ = ["loads_of_sides"]


def loads_of_sides(
    sides: Mapping[str, str], reading: Reading, progress: Progress = SILENT
) -> "LoadsDocument":
    """The routectl.loads/1 document of what is named: counts, and dumps, whose ids are counted."""
    from ...formats.experts.counts import LoadsOnlyError
    from ...reports.show.loads import loads_document

    found: dict[str, Loads] = {}
    for name, path in sides.items():
        try:
            opened = reading.open(path, progress=progress)
        except LoadsOnlyError as error:
            found[name] = _of_counts(error.counts)
        else:
            found[name] = _of_dump(opened)
    return loads_document(list(found.values()), list(found))


def _of_counts(counts: "ExpertCounts") -> "Loads":
    from ...reports.show.loads import Loads

    return Loads(**{one.name: getattr(counts, one.name) for one in fields(Loads)})


def _of_dump(dump: "Dump") -> "Loads":
    from ...formats.experts.mapped import PROVENANCE
    from ...ops.summary import summarize
    from ...reports.show.loads import Loads

    meta = dump.meta
    return Loads(
        meta.path,
        meta.layers_L,
        summarize(dump).load_LE,
        experts=meta.provenance.get(PROVENANCE),
        model=meta.model,
    )
